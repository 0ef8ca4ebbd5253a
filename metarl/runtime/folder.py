"""The folder of a run: settings, versions, metrics, checkpoints.

runs/<name>/
    config.yaml      every setting, resolved
    run.json         versions, git commits, hashes of code of the user's own, command line
    data.json        classes and hashes of the labelled examples that it is trained on, if any
    metrics.jsonl    one line per iteration
    checkpoints/     the newest few and the best
    evaluation.json  scores after every inner step on held-out tasks
    episodes.npz     some of the episodes that it scored
    tasks/           a copy of the file of held-out tasks, if there is one
    report.html      all of it to look at; report_files/ has its figures and videos
    wandb/ tensorboard/   if switched on
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metarl.runtime.checkpoint import CheckpointFolder
from metarl.runtime.errors import UserError, warn
from metarl.runtime.files import make_folder, read_file, read_json, write_atomically
from metarl.runtime.launch import launch_id
from metarl.runtime.paths import path_of
from metarl.runtime.record import (
    DataRecord,
    EvaluationRecord,
    data_from_json,
    data_to_json,
)
from metarl.runtime.scores import EPISODES_LIMIT
from metarl.runtime.sinks import read_metrics

FREE = (
    *("iterations", "evaluation", "checkpoint", "logging", "timeout"),
    *("threads", "workers", "device", "chunk_size", "compile", "data_folder", "folder", "name"),
)
"""Settings that a resumed run may change; all others make it what it is."""


def fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a run what it is; where its tasks come from is first."""
    values = {key: value for key, value in settings.items() if key not in FREE}
    return {key: values[key] for key in ("env", "data") if key in values} | values


LARGEST_RECORD = 2**28
"""Bytes of ``evaluation.json`` and of a task file, many times those of any."""


class RunFolder:
    """The folder of a run, which may not exist yet; see ``create`` and ``open``."""

    def __init__(self, path: Path):
        self.path = path
        self.trust_code = False  # whether code that the run names may be imported, whoever made it
        self.is_checked = False  # whether it was found that it may be
        self.is_own = False  # whether this user made the run here
        self.name = path.resolve().name
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.evaluation_file = path / "evaluation.json"
        self.episodes_file = path / "episodes.npz"
        self.report_file = path / "report.html"
        self.data_file = path / "data.json"

    @classmethod
    def create(
        cls,
        path: Path,
        config_yaml: str,
        info: Mapping[str, Any],
        data: DataRecord = MappingProxyType({}),
    ) -> "RunFolder":
        """Make the folder of a new run.

        Args:
            path: of the folder.
            config_yaml: all settings.
            info: the content of ``run.json``, see ``origin``.
            data: the labelled examples that it is trained on.

        Raises:
            UserError: it already holds a run, or cannot be written.
        """
        run = cls(path)
        run.require_new()
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.write_data(data)
            run.write_info(info)
            # Last: it is what makes the folder a run.
            write_atomically(run.config_file, config_yaml.encode())
        except OSError as error:
            raise UserError(f"cannot write the run folder {path}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, path: Path, trust_code: bool = False) -> "RunFolder":
        """An existing run.

        Args:
            path: of the folder.
            trust_code: whether code that the run names may be imported, whoever made it.

        Raises:
            UserError: there is no run in ``path``.
        """
        path = path_of("the run folder", path)
        if not path.is_dir():
            raise UserError(f"there is no run folder {path}")
        run = cls(path)
        if not run.is_begun():
            raise UserError(f"{path} holds no run: config.yaml is missing")
        run.trust_code = trust_code
        return run

    def require_new(self) -> None:
        """Raise UserError where there is a run already."""
        there = self.config_file.exists() or self.metrics_file.is_file()
        if there or not self.checkpoints().is_empty():
            raise UserError(
                f"{self.path} already holds a run; choose another --name, or go on with "
                f"--resume {self.path}"
            )

    def own_task_file(self, name: str) -> Path | None:
        """The run's copy of the task file of this name; None if it has none."""
        stem = Path(name).name.removesuffix(".json").removesuffix(".csv")
        candidates = [self.path / "tasks" / f"{stem}{suffix}" for suffix in (".json", ".csv")]
        return next((path for path in candidates if path.is_file()), None)

    def keep_task_file(self, path: Path) -> None:
        """Copy a task file to the run: its tasks stay as they are when the file is moved.

        Raises:
            OSError: it cannot be read or written.
        """
        own = self.path / "tasks" / path.name
        if path.resolve() != own.resolve():
            make_folder(own.parent)
            write_atomically(own, read_file(path, LARGEST_RECORD))

    def is_begun(self) -> bool:
        """Return whether there is a run here."""
        return self.config_file.is_file()

    def is_of_this_launch(self) -> bool:
        """Return whether torchrun has restarted these processes after they had begun this run."""
        launch = launch_id()
        return launch is not None and self.is_begun() and self.info().get("launch") == launch

    def checkpoints(self, keep: int = 3) -> CheckpointFolder:
        return CheckpointFolder(self.path / "checkpoints", keep)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``; a file that cannot be read is reported."""
        try:
            return read_metrics(self.metrics_file)
        except UserError as error:
            warn(str(error))
            return []

    def require_not_ahead_of(self, start: int, checkpoint_every: int) -> None:
        """Raise UserError when a resume would lose rows of metrics without need.

        They may be unreadable. Or the run starts again, from ``start`` = 0, and has done more than
        a run does before its first checkpoint: it has lost its checkpoints.
        """
        rows = read_metrics(self.metrics_file)
        count = max((row["iteration"] + 1 for row in rows), default=0)
        if start == 0 and count > checkpoint_every:
            raise UserError(
                f"{self.path} has done {count} iterations but has no checkpoint left to go on from"
            )

    def save_evaluation(self, record: EvaluationRecord, episodes: bytes) -> None:
        """Keep an evaluation and its recorded episodes.

        Raises:
            UserError: they cannot be written.
        """
        try:
            write_atomically(self.episodes_file, episodes)
            write_atomically(self.evaluation_file, record.to_json().encode())
        except OSError as error:
            raise UserError(f"cannot write {self.evaluation_file}: {error.strerror}") from error

    def load_evaluation(self) -> tuple[EvaluationRecord, bytes | None] | None:
        """The evaluation that was kept, and the file of its episodes; None for what is damaged."""
        try:
            record = EvaluationRecord.from_json(
                read_file(self.evaluation_file, LARGEST_RECORD, links=False)
            )
        except (OSError, ValueError):
            return None
        try:
            data = read_file(self.episodes_file, EPISODES_LIMIT, links=False)
        except OSError:
            return record, None
        intact = hashlib.sha256(data).hexdigest() == record.episodes_sha256
        return record, data if intact else None

    def info(self) -> dict[str, Any]:
        """Return the content of ``run.json``; empty when it is missing or damaged."""
        try:
            info = read_json(self.path / "run.json")
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}

    def load_data(self) -> DataRecord:
        """The examples that the run is trained on; empty if that is not known."""
        try:
            return data_from_json(read_file(self.data_file, LARGEST_RECORD, links=False))
        except (OSError, ValueError):
            return {}

    def write_data(self, data: DataRecord) -> None:
        """Write which examples the run is trained on, if it has any."""
        if data:
            write_atomically(self.data_file, data_to_json(data).encode())

    def code(self) -> Mapping[str, str]:
        """Hashes of the source of the user's own parts by name; empty if they are not known."""
        code = self.info().get("code")
        return code if isinstance(code, dict) else {}

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        write_atomically(self.path / "run.json", json.dumps(info, indent=2).encode())

    def update_config(self, config_yaml: str) -> None:
        """Write the settings that a resumed run goes on with."""
        write_atomically(self.config_file, config_yaml.encode())

    def require_writable(self) -> None:
        """Raise UserError unless files can be written here."""
        if not os.access(self.path, os.W_OK):
            raise UserError(f"cannot write the run folder {self.path}")
