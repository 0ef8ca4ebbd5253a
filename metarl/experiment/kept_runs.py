"""Trained runs to keep: small copies that evaluate, report and resume like any run.

results/<name>/
    config.yaml      every setting
    run.json         versions, git commit, command line
    data.json        classes and hashes of labelled examples, if there are any
    metrics.jsonl    a few hundred iterations, first and last and evaluated ones among them
    evaluation.json  scores on held-out tasks, without the recorded episodes
    tasks/           the file of held-out tasks, if there is one
    checkpoints/     the last one
"""

import glob
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from metarl.experiment import evaluations
from metarl.experiment.resolution import task_file_path
from metarl.experiment.schema import (
    Experiment,
    RLExperiment,
    SupervisedExperiment,
    plain,
    to_yaml,
)
from metarl.experiment.settings import parse, read_config
from metarl.experiment.trust import signature_of
from metarl.runtime.checkpoint import Checkpoint
from metarl.runtime.errors import UserError
from metarl.runtime.files import abandoned, to_json
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics

ROWS = 200  # of metrics.jsonl, about
DIGITS = 6  # of its numbers
LIMIT = 1_500_000  # bytes of a kept run, which is made to go into a repository
OWN = {
    *("config.yaml", "run.json", "data.json", "metrics.jsonl", "evaluation.json"),
    *("tasks", "checkpoints"),
    *("episodes.npz", "report.html", "report_files", "comparison.html", "comparison_files"),
    *("error.txt", "run.lock", "wandb", "tensorboard"),
}
"""What a run's folder has; a kept run's folder may have other files of the user's."""


class StoppedRun(NamedTuple):
    """A run that was stopped cleanly, with its newest checkpoint."""

    folder: RunFolder
    config: Experiment
    checkpoint: Checkpoint


class KeptRun(NamedTuple):
    """A run that was kept."""

    path: Path
    iterations: int  # done so far
    size: int  # bytes


def keep_run(stopped: StoppedRun, folder: Path, name: str) -> KeptRun:
    """Copy a run's settings, metrics, evaluation and last checkpoint to ``folder/name``.

    The copy replaces an older one of the same run atomically. A kept run that was resumed may be
    tidied in place.

    Raises:
        UserError: the run is too large, another run is there, or the folder cannot be written.
    """
    run, config, checkpoint = stopped
    target = folder / name
    kept_config = _portable_config(config, folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _recover(target)
        _require_free(target, run, checkpoint)
        with _replacing(target) as new:
            _write(new, run, kept_config, checkpoint)
            if path := task_file_path(config):
                RunFolder(new).keep_task_file(path)
            size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
            if size > LIMIT:
                raise UserError(
                    f"{run.path} would take {size:,} bytes, more than the {LIMIT:,} of a kept run"
                )
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return KeptRun(target, checkpoint.iteration, size)


def _write(new: Path, run: RunFolder, config: Experiment, checkpoint: Checkpoint) -> None:
    (new / "config.yaml").write_text(to_yaml(config))
    (new / "run.json").write_text(json.dumps(_portable_info(run, config), indent=2) + "\n")
    RunFolder(new).write_data(run.load_data())
    rows = _thin(read_metrics(run.metrics_file))
    (new / "metrics.jsonl").write_text("".join(f"{to_json(row)}\n" for row in rows))
    if evaluation := run.load_evaluation():
        record = replace(evaluation[0], task_file=_file_name(evaluation[0].task_file))
        (new / "evaluation.json").write_text(record.to_json(indent=1) + "\n")
    (new / "checkpoints").mkdir()
    for path in (checkpoint.path, checkpoint.path.with_suffix(".json")):
        shutil.copyfile(path, new / "checkpoints" / path.name)


def stopped_run(run: RunFolder) -> StoppedRun:
    """Return a run that was stopped cleanly.

    Raises:
        UserError: it was not, or something is damaged or missing.
    """
    config = read_config(run)
    if not run.info():
        raise UserError(f"{run.path} has no readable run.json, which says where it is from")
    checkpoints = run.checkpoints().all()
    if not checkpoints or not run.metrics_file.is_file():
        raise UserError(f"{run.path} is half-written: it has no checkpoint or no metrics.jsonl")
    newest = checkpoints[0]
    evaluations.load(run, config, str(newest.iteration))
    rows = read_metrics(run.metrics_file)
    iterations = max((row["iteration"] + 1 for row in rows), default=0)
    if iterations > max(newest.iteration, 1):  # iteration 0 is logged where there is none to do
        raise UserError(
            f"{run.path} is half-written: it has logged {iterations} iterations, but its newest "
            f"checkpoint is after {newest.iteration}; resume it, and stop it with one Ctrl-C"
        )
    evaluation = run.load_evaluation()
    evaluation_iteration = evaluation[0].iteration if evaluation else None
    if newest.iteration == config.iterations and evaluation_iteration != newest.iteration:
        raise UserError(
            f"{run.path} has no evaluation of its last checkpoint: metarl evaluate {run.path}"
        )
    return StoppedRun(run, config, newest)


def _require_free(target: Path, run: RunFolder, checkpoint: Checkpoint) -> None:
    """Raise UserError where something else than an earlier state of the same run is kept."""
    if not target.exists():
        return
    there = RunFolder(target)
    if not there.info().get("kept") and target.resolve() == run.path.resolve():
        raise UserError(f"{target} is the run itself; choose another --folder")
    one, other = (
        [folder.info().get(key) for key in ("created", "tracking_id")] for folder in (run, there)
    )
    same = one == other and None not in one
    ahead = max((c.iteration for c in there.checkpoints().all()), default=0)
    if not same or ahead > checkpoint.iteration:
        what = "the same run, further on" if same else "something else"
        raise UserError(f"{target} holds {what}; choose another --name")


def _portable_config(config: Experiment, folder: Path, name: str) -> Experiment:
    """The settings without folders of the machine, which mean nothing elsewhere."""
    config = parse([plain(config), {"folder": _without_folder(str(folder)), "name": name}])
    if isinstance(config, SupervisedExperiment):
        return replace(config, data_folder=None)
    assert isinstance(config, RLExperiment)
    task_file = _file_name(config.evaluation.task_file)
    return replace(config, evaluation=replace(config.evaluation, task_file=task_file))


def _portable_info(run: RunFolder, config: Experiment) -> dict[str, Any]:
    """``run.json`` without folders of the machine, marked as of a kept run."""
    of_machine = ("directory", "modules")
    info = {key: value for key, value in run.info().items() if key not in of_machine}
    command = info.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    signature = signature_of(plain(config), []) if run.is_own else None
    command = [_without_folder(word) for word in words]
    return info | {"command": command, "signature": signature, "kept": True}


def _without_folder(word: str) -> str:
    """``--config=x.yaml`` for ``--config=/home/me/x.yaml``."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if value.startswith(("/", "~")) else word


def _file_name(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def _thin(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """About ``ROWS`` rows, and the same ones again where they were thinned before."""
    if len(rows) > ROWS:
        span = math.ceil((rows[-1]["iteration"] + 1) / ROWS)
        last_of_span = {row["iteration"] // span: i for i, row in enumerate(rows)}
        indices = {0, *last_of_span.values()}
        rows = [
            row
            for i, row in enumerate(rows)
            if i in indices or any(key.startswith("evaluation/") for key in row)
        ]
    return [{key: _round(value) for key, value in row.items()} for row in rows]


def _round(value: Any) -> Any:
    if not isinstance(value, float) or not math.isfinite(value) or value.is_integer():
        return value
    return float(f"{value:.{DIGITS}g}")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` once it is complete.

    Files in ``target`` that are not of a run move to the new folder.
    """
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{x}") for x in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists():
            _end_replacing(old, target)


def _end_replacing(old: Path, target: Path) -> None:
    """Remove the folder that was replaced, or put it back where nothing has taken its place."""
    if not target.exists():
        old.rename(target)
        return
    for path in old.iterdir():
        if path.name not in OWN:
            path.rename(target / path.name)
    shutil.rmtree(old, ignore_errors=True)


def _recover(target: Path) -> None:
    """Complete or undo replacements that a killed process began."""
    name = f".{glob.escape(target.name)}.*"
    for new in abandoned(target.parent, name, "new"):
        shutil.rmtree(new, ignore_errors=True)
    for old in abandoned(target.parent, name, "old"):
        _end_replacing(old, target)
