"""Trained runs to keep: small copies that evaluate, report and resume as any run.

results/<name>/
    config.yaml      every setting
    run.json         versions, git commit, command line
    metrics.jsonl    a few hundred iterations, first and last and evaluated ones among them
    evaluation.json  scores on held-out tasks, without the recorded episodes
    checkpoints/     the last one
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from metarl import results
from metarl.checkpoint import Checkpoint
from metarl.config import Experiment, to_yaml
from metarl.errors import UserError
from metarl.files import to_json
from metarl.metrics import read_metrics
from metarl.run import RunFolder
from metarl.settings import read_config

ROWS = 200  # of metrics.jsonl, about
DIGITS = 6  # of its numbers
LIMIT = 1_500_000  # bytes of a kept run, which is made to go into a repository


class Kept(NamedTuple):
    """A run that was kept."""

    path: Path
    iterations: int  # done so far
    size: int  # bytes


def keep(run: RunFolder, folder: Path, name: str) -> Kept:
    """Copy what is worth keeping of a run to ``folder/name``, which is replaced at once or not at
    all; a run that is there already may be tidied in place.

    Raises:
        UserError: the run is damaged, half-written or too large, another run is there, or the
            folder cannot be written.
    """
    config = read_config(run)
    checkpoint = _whole(run, config)
    target = folder / name
    _require_free(target, run, checkpoint)
    kept = replace(config, folder=str(folder), name=name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(target) as new:
            (new / "config.yaml").write_text(to_yaml(kept))
            (new / "run.json").write_text(json.dumps(_info(run), indent=2) + "\n")
            rows = _thinned(read_metrics(run.metrics_file), config.iterations)
            (new / "metrics.jsonl").write_text("".join(f"{to_json(row)}\n" for row in rows))
            if evaluation := run.load_evaluation():
                (new / "evaluation.json").write_text(to_json(evaluation[0], indent=1) + "\n")
            (new / "checkpoints").mkdir()
            for path in (checkpoint.path, checkpoint.path.with_suffix(".json")):
                shutil.copyfile(path, new / "checkpoints" / path.name)
            size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
            if size > LIMIT:
                raise UserError(
                    f"{run.path} would take {size:,} bytes, more than the {LIMIT:,} of a kept run"
                )
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return Kept(target, checkpoint.iteration, size)


def _whole(run: RunFolder, config: Experiment) -> Checkpoint:
    """The newest checkpoint of a run that was stopped cleanly.

    Raises:
        UserError: it was not, or something is damaged or missing.
    """
    checkpoints = run.checkpoints().all()
    if not checkpoints or not run.metrics_file.is_file():
        raise UserError(f"{run.path} is half-written: it has no checkpoint or no metrics.jsonl")
    newest = checkpoints[0]
    results.load(run, config, str(newest.iteration))
    rows = read_metrics(run.metrics_file)
    logged = max((row["iteration"] + 1 for row in rows), default=0)
    if logged > max(newest.iteration, 1):  # iteration 0 is logged where there is none to do
        raise UserError(
            f"{run.path} is half-written: it has logged {logged} iterations, but its newest "
            f"checkpoint is after {newest.iteration}; resume it, and stop it with one Ctrl-C"
        )
    evaluation = run.load_evaluation()
    evaluated = evaluation[0]["iteration"] if evaluation else None
    finished = newest.iteration == config.iterations
    if finished and evaluated != newest.iteration:
        raise UserError(
            f"{run.path} has no evaluation of its last checkpoint: metarl evaluate {run.path}"
        )
    return newest


def _require_free(target: Path, run: RunFolder, checkpoint: Checkpoint) -> None:
    """Raises UserError where something else than an earlier state of the same run is kept."""
    if not target.exists():
        return
    there = RunFolder(target)
    one, other = (
        [folder.info().get(key) for key in ("created", "tracking_id")] for folder in (run, there)
    )
    same = one == other and None not in one
    ahead = max((c.iteration for c in there.checkpoints().all()), default=0)
    if not same or ahead > checkpoint.iteration:
        what = "the same run, further on" if same else "something else"
        raise UserError(f"{target} holds {what}; choose another --name")


def _info(run: RunFolder) -> dict[str, Any]:
    """``run.json`` without the folders of the machine, which mean nothing elsewhere."""
    info = run.info()
    command = info.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    return info | {"command": [Path(w).name if w.startswith("/") else w for w in words]}


def _thinned(rows: Sequence[Mapping[str, Any]], iterations: int) -> list[dict[str, Any]]:
    """About ``ROWS`` rows; the same ones again where they were thinned before."""
    step = math.ceil(max(iterations, 1) / ROWS)
    last = len(rows) - 1
    return [
        {key: _rounded(value) for key, value in row.items()}
        for i, row in enumerate(rows)
        if i in (0, last)
        or (row["iteration"] + 1) % step == 0
        or any(key.startswith("evaluation/") for key in row)
    ]


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` once it is complete."""
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{x}") for x in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
