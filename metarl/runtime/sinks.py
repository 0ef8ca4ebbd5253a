"""Sinks of metrics: each gets one dictionary per iteration.

A sink that fails says so once and is left out from then on; it never stops training.
"""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from annotated_types import Gt, Interval
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from metarl.runtime.console import say
from metarl.runtime.errors import UserError, warn
from metarl.runtime.files import read_file, to_json, write_atomically

Metrics = Mapping[str, float]


class Table(NamedTuple):
    """Rows of numbers under named columns; None for what is not finite."""

    columns: list[str]
    rows: list[list[float | None]]


class Media(NamedTuple):
    """Pictures of an evaluation, by name."""

    figures: Mapping[str, Path] = MappingProxyType({})  # PNG
    videos: Mapping[str, Path] = MappingProxyType({})  # MP4
    tables: Mapping[str, Table] = MappingProxyType({})


@dataclass(frozen=True)
class LoggingConfig:
    """Sinks beside ``metrics.jsonl`` and the console.

    Args:
        every: log the metrics of every n-th iteration, and of the last.
        report: draw figures, videos and the report page at every evaluation.
        videos: held-out tasks whose adaptation is filmed for the report.
        wandb: Weights & Biases; auto: online with WANDB_MODE or an API key, else offline.
        wandb_project: Weights & Biases project.
        tensorboard: write TensorBoard event files; needs the extra tensorboard.
        sinks: more sinks, package.module:Name each: classes with the methods of
            metarl.runtime.sinks.Sink, made with the run's folder, its config and the first
            iteration.
    """

    every: Annotated[int, Gt(0)] = 1
    report: bool = True
    videos: Annotated[int, Interval(ge=0, le=3)] = 3
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    wandb_project: str = "metarl"
    tensorboard: bool = False
    sinks: list[str] = field(default_factory=list)


class Sink(Protocol):
    """A destination of metrics."""

    def log(self, iteration: int, metrics: Metrics) -> None: ...
    def show(self, iteration: int, media: Media) -> None: ...
    def close(self) -> None: ...


class Sinks:
    """Several sinks as one; each is opened, used and closed on its own risk."""

    def __init__(self, factories: Mapping[str, Callable[[], Sink]]):
        self._sinks: dict[str, Sink] = {}
        for name, factory in factories.items():
            with self._guard(name):
                self._sinks[name] = factory()

    def log(self, iteration: int, metrics: Metrics) -> None:
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.log(iteration, metrics)

    def show(self, iteration: int, make: Callable[[], Media]) -> None:
        """Hand on the pictures that ``make`` draws, if it can."""
        try:
            media = make()
        except Exception as error:
            warn(f"drawing pictures failed: {_one_line(error)}")
            return
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.show(iteration, media)

    def close(self) -> None:
        for name, sink in list(self._sinks.items()):
            with self._guard(name):
                sink.close()

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._sinks.pop(name, None)
            warn(f"{name} failed and is switched off: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class JsonlSink:
    """One JSON object per line and iteration, written at once; null for what is not finite.

    What cannot be written, on a full disk for example, is kept until it can.

    Args:
        path: the file.
        start: first iteration of this session; later lines of an interrupted one are dropped.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        rows = [row for row in read_metrics(path) if row["iteration"] < start]
        self._waiting = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self._is_begun = not os.path.lexists(path)  # the file has no other lines than these
        self._file: FileIO | None = None
        self._has_warned = False
        self._try_to_write()

    def log(self, iteration: int, metrics: Metrics) -> None:
        self._waiting += to_json({"iteration": iteration, **metrics}).encode() + b"\n"
        self._try_to_write()

    def _try_to_write(self) -> None:
        reason = self._write()
        if reason and not self._has_warned:
            warn(f"{self._path} cannot be written, and is once it can: {reason}")
        self._has_warned = bool(reason)

    def _write(self) -> str:
        """Write what waits; why it cannot be, if so."""
        try:
            if not self._is_begun:
                write_atomically(self._path, self._waiting)
                self._is_begun, self._waiting = True, b""
            if self._file is None:
                self._file = FileIO(self._path, "ab")
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            return str(error.strerror)
        return ""

    def show(self, iteration: int, media: Media) -> None:
        pass

    def close(self) -> None:
        if reason := self._write():
            count = self._waiting.count(b"\n")
            warn(f"{self._path} lacks the last {count} lines: {reason}")
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``, none where there is no file; damaged lines are left out.

    Raises:
        UserError: it cannot be read, or is not a file of the run's own.
    """
    try:
        text = read_file(path, LARGEST_METRICS, links=False).decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # a crash cut it off, say
            continue
        if _is_row(row):
            rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Return whether ``row`` has numbers by name, and the number of its iteration."""
    return (
        isinstance(row, dict)
        and all(value is None or is_number(value) for value in row.values())
        and type(row.get("iteration")) is int
        and 0 <= row["iteration"] < 2**53
    )


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number, and none that is larger than any float."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


LARGEST_METRICS = 2**31
"""Bytes of ``metrics.jsonl``; a million iterations have about one gigabyte."""
PACE_OF = 20  # lines, from which the time left is told


class ConsoleSink:
    """A progress bar on a terminal, one plain line per iteration elsewhere.

    Args:
        total: iterations of the whole run.
        start: first iteration of this session.
        columns: (label, format) by metric name; metrics that are absent are left out.
    """

    def __init__(self, total: int, start: int, columns: Mapping[str, tuple[str, str]]):
        self._total, self._start, self._columns = total, start, columns
        self._began = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque(maxlen=PACE_OF + 1)  # when so many were done
        self._live: Live | None = None
        self._has_warned = False
        console = Console(file=sys.stdout)
        if console.is_terminal:
            self._progress = Progress(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
            )
            self._task = self._progress.add_task("", total=total, completed=start)
            self._live = Live(self._progress, console=console)
            self._live.start()

    def log(self, iteration: int, metrics: Metrics) -> None:
        text = "  ".join(
            f"{label} {format(metrics[name], spec) if math.isfinite(metrics[name]) else '–'}"
            for name, (label, spec) in self._columns.items()
            if name in metrics
        )
        if metrics.get("outer/accepted", 1) == 0:
            text += "  step rejected"
        iterations = iteration + 1
        seconds = self._pace(iterations, metrics) * (self._total - iterations)
        rest = f"left {timedelta(seconds=round(seconds))}"
        if self._live is None:
            self._print(f"{iterations}/{self._total}  {text}  {rest}")
            return
        self._progress.update(self._task, completed=iterations, description=rest)
        self._live.update(Group(self._progress, Text(text, no_wrap=True, overflow="ellipsis")))

    def _print(self, line: str) -> None:
        reason = say(line)
        if reason and not self._has_warned:
            warn(f"standard output cannot be written, and is once it can: {reason}")
        self._has_warned = bool(reason)

    def _pace(self, iterations: int, metrics: Metrics) -> float:
        """Seconds per iteration of late: a compiler makes some take far longer than the rest."""
        self._recent.append((time.monotonic(), iterations))
        (since, before), (now, _) = self._recent[0], self._recent[-1]
        if iterations > before:
            return (now - since) / (iterations - before)
        return metrics.get("seconds/iteration", (now - self._began) / (iterations - self._start))

    def show(self, iteration: int, media: Media) -> None:
        pass

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
