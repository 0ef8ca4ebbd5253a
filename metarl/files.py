"""Files that are whole or absent, and JSON that every reader accepts."""

import json
import math
import os
from pathlib import Path
from typing import Any

from metarl.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: after a crash at any moment it holds the old or the new."""
    # Named after the process: two that write the same file do not meddle with each other.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # also when interrupted: no half file is left behind
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of nested dictionaries, lists and numbers; null for what is not finite."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_writable(path: Path) -> None:
    """Raises UserError when ``path`` cannot be written; better before the work than after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}")
