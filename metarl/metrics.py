"""Where metrics go: one dictionary per iteration, several sinks.

A sink that fails says so once and is left out from then on; it never stops training.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from metarl.checkpoint import write_atomically
from metarl.errors import warn

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class LoggingConfig:
    """Sinks beside ``metrics.jsonl`` and the console.

    Args:
        wandb: Weights & Biases: auto is online when WANDB_MODE or an API key says so, else offline.
        wandb_project: project name there.
        tensorboard: write TensorBoard event files (needs the extra ``tensorboard``).
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    wandb_project: str = "metarl"
    tensorboard: bool = False


class Sink(Protocol):
    """Somewhere that metrics go."""

    def log(self, iteration: int, metrics: Metrics) -> None: ...
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
            reason = " ".join(str(error).split()) or type(error).__name__
            warn(f"{name} failed and is switched off: {reason}")


class JsonlSink:
    """One JSON object per line and iteration, flushed at once; null for what is not finite.

    Args:
        path: the file.
        start: first iteration of this session; later lines of an interrupted one are dropped.
    """

    def __init__(self, path: Path, start: int = 0):
        if path.exists():
            kept = [row for row in read_metrics(path) if row["iteration"] < start]
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = path.open("a")

    def log(self, iteration: int, metrics: Metrics) -> None:
        row = {"iteration": iteration, **{k: _finite(v) for k, v in metrics.items()}}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``; a line that a crash cut off is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
        self._live: Live | None = None
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
            f"{label} {format(metrics[name], spec)}"
            for name, (label, spec) in self._columns.items()
            if name in metrics
        )
        done = iteration + 1
        seconds = (time.monotonic() - self._began) / (done - self._start) * (self._total - done)
        left = f"left {timedelta(seconds=round(seconds))}"
        if self._live is None:
            print(f"{done}/{self._total}  {text}  {left}", flush=True)
            return
        self._progress.update(self._task, completed=done, description=left)
        self._live.update(Group(self._progress, Text(text, no_wrap=True, overflow="ellipsis")))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


class WandbSink:
    """Weights & Biases.

    Args:
        folder: where its files go.
        run_id: identifies the run, also after a resume.
        name: shown there.
        config: all settings.
        settings: mode and project.
        start: first iteration of this session; more than 0 resumes ``run_id``.
    """

    INIT_TIMEOUT = 30.0  # seconds; with a key but no network its own default blocks for minutes

    def __init__(
        self,
        folder: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        settings: LoggingConfig,
        start: int,
    ):
        import wandb

        arguments: dict[str, Any] = {
            "project": settings.wandb_project,
            "dir": folder,
            "id": run_id,
            "name": name,
            "config": dict(config),
            "resume": "allow" if start else None,
            "settings": wandb.Settings(init_timeout=self.INIT_TIMEOUT, silent=True),
        }
        try:
            self._run = wandb.init(**arguments, mode=self._mode(settings.wandb))
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            reason = str(error).partition("\n")[0]
            warn(f"wandb cannot go online, so this run is logged offline: {reason}")
            wandb.teardown()
            self._run = wandb.init(**arguments, mode="offline")

    @staticmethod
    def _mode(choice: str) -> Literal["online", "offline"] | None:
        """The mode to ask for; None leaves it to wandb (WANDB_MODE, or online with a key)."""
        if choice == "online":
            return "online"
        if choice == "offline":
            return "offline"
        return None if "WANDB_MODE" in os.environ or _has_wandb_key() else "offline"

    def log(self, iteration: int, metrics: Metrics) -> None:
        self._run.log(dict(metrics), step=iteration)

    def close(self) -> None:
        self._run.finish()


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


class TensorboardSink:
    """TensorBoard event files."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start or None)

    def log(self, iteration: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()
