"""Checkpoints that are whole or absent: written aside, synced, then renamed; checked when read.

``iteration-000050.pt`` is the state after 50 iterations; ``iteration-000050.json`` beside it holds
its SHA-256 and score. Nothing is ever unpickled (``weights_only``).
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt

from metarl.runtime.errors import UserError, first_line, warn
from metarl.runtime.files import (
    make_folder,
    read_file,
    read_json,
    require_no_link,
    require_unpacked,
    write_atomically,
)
from metarl.runtime.memory import memory


@dataclass(frozen=True)
class CheckpointConfig:
    """The times of checkpoints, and the number that is kept.

    Args:
        every: iterations between checkpoints; the last iteration is always saved.
        keep: number of newest checkpoints to keep, beside the best one.
    """

    every: Annotated[int, Gt(0)] = 10
    keep: Annotated[int, Ge(1)] = 3


class Checkpoint(NamedTuple):
    """A checkpoint on disk: state after ``iteration`` iterations."""

    path: Path
    iteration: int
    score: float


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: created when the first checkpoint is saved.
        keep: newest ones to keep beside the best.
    """

    def __init__(self, folder: Path, keep: int = 3):
        self.folder = folder
        self._keep = keep

    def save(self, iteration: int, state: dict[str, Any], score: float) -> Path:
        """Save the state after ``iteration`` iterations.

        Args:
            state: tensors, numbers, strings, lists and dictionaries only.
            score: higher is better; decides which one is kept as the best.

        Raises:
            OSError: the disk is full or the folder cannot be written; older checkpoints are intact.
        """
        make_folder(self.folder)
        data = to_bytes(state)
        path = self.folder / _file_name(iteration)
        note = {"iteration": iteration, "score": score, "sha256": hashlib.sha256(data).hexdigest()}
        # The note first: a .pt without its note would look damaged; a note alone is not seen.
        write_atomically(path.with_suffix(".json"), json.dumps(note).encode())
        try:
            write_atomically(path, data)
        except OSError:
            path.with_suffix(".json").unlink(missing_ok=True)
            raise
        self._prune(iteration)
        return path

    def is_empty(self) -> bool:
        """Return whether nothing was saved yet."""
        return not any(self._paths())

    def all(self) -> list[Checkpoint]:
        """Checkpoints with a readable note, newest first; others are reported and left out."""
        checkpoints = []
        for path in self._paths():
            try:
                note = read_json(path.with_suffix(".json"))
                checkpoint = Checkpoint(path, int(note["iteration"]), float(note["score"]))
                if path.name != _file_name(checkpoint.iteration):
                    raise ValueError("the note is of another iteration")
                checkpoints.append(checkpoint)
            except Exception:  # whatever a damaged file leads to
                warn(f"{path} has no readable note beside it; leaving it out")
        checkpoints.sort(key=lambda c: c.iteration, reverse=True)
        return checkpoints

    def load(self, which: str = "last") -> tuple[Checkpoint, dict[str, Any]]:
        """Load a checkpoint: ``last``, ``best`` or the number of iterations.

        A damaged one is reported, and the next older (``best``: the next best) intact one is taken.

        Raises:
            UserError: there is no such checkpoint, or none is intact.
        """
        candidates = self.all()
        if which == "best":
            candidates.sort(key=lambda c: c.score, reverse=True)
        elif which != "last":
            candidates = [c for c in candidates if str(c.iteration) == which]
        if not candidates:
            available = ", ".join(str(c.iteration) for c in self.all()) or "none"
            raise UserError(f"{self.folder} has no checkpoint {which}; there are: {available}")
        reasons: list[str] = []
        for checkpoint in candidates:
            try:
                state = self._read(checkpoint)
            except ValueError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                warn(f"{reason}; using iteration {checkpoint.iteration} instead")
            return checkpoint, state
        raise UserError(f"no checkpoint in {self.folder} is intact: {reasons[0]}")

    def _paths(self) -> Iterator[Path]:
        require_no_link(self.folder)
        return self.folder.glob("iteration-*.pt")

    def _read(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return a checkpoint's state; raise ValueError with one line if it is damaged."""
        try:
            data = read_file(checkpoint.path, memory() // 4, links=False)
            note = read_json(checkpoint.path.with_suffix(".json"))
            if hashlib.sha256(data).hexdigest() != note["sha256"]:
                raise ValueError("its bytes do not match its SHA-256")
            return from_bytes(data)
        except Exception as error:  # whatever a damaged file leads to
            reason = first_line(error)[:500]
            raise ValueError(f"{checkpoint.path} is damaged ({reason})") from error

    def _prune(self, newest: int) -> None:
        """Keep the newest, the best, and those of later iterations that are intact."""
        checkpoints = self.all()
        valid = [c for c in checkpoints if c.iteration <= newest]
        selection = [*valid[: self._keep], max(valid, key=lambda c: c.score)]
        for checkpoint in checkpoints:
            if checkpoint not in selection and not self._is_later(checkpoint, newest):
                checkpoint.path.unlink(missing_ok=True)
                checkpoint.path.with_suffix(".json").unlink(missing_ok=True)

    def _is_later(self, checkpoint: Checkpoint, newest: int) -> bool:
        """Return whether it is of a later iteration than ``newest``, and intact."""
        if checkpoint.iteration <= newest:
            return False
        try:
            self._read(checkpoint)
        except ValueError:
            return False
        return True


def to_bytes(state: dict[str, Any]) -> bytes:
    """A state of tensors, numbers, strings, lists and dictionaries."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, Any]:
    """The inverse of ``to_bytes``, which executes nothing and unpacks nothing larger than it is.

    Raises:
        Exception: of any kind, where the data are something else.
    """
    require_unpacked(data, limit=len(data))  # torch.save does not compress
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it does not hold a state dictionary")
    return state


def _file_name(iteration: int) -> str:
    return f"iteration-{iteration:06d}.pt"
