"""Files that are whole or absent, and JSON that every reader accepts."""

import errno
import io
import json
import math
import os
import re
import stat
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl.runtime.errors import UserError

LARGEST_JSON = 2**24
"""Bytes of ``run.json``, of a checkpoint's note and the like, which have a few thousand."""
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags of a file to read. Opening a pipe does not wait for its other end."""
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


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
    if os.name == "nt":  # Windows has no handle of a directory to flush
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def remove_temporary(folder: Path) -> None:
    """Remove files that ``write_atomically`` left in a folder when its process was killed."""
    for path in abandoned(folder, "*", "tmp"):
        with suppress(OSError):
            path.unlink()


def abandoned(folder: Path, pattern: str, suffix: str) -> list[Path]:
    """Return the paths ``pattern.PROCESS.suffix`` in a folder whose process does not run."""
    paths = folder.glob(f"{pattern}.{suffix}")
    matches = {path: re.search(r"\.(\d{1,9})\.\w+$", path.name) for path in paths}
    return [path for path, match in matches.items() if match and not _is_running(int(match[1]))]


def _is_running(process: int) -> bool:
    """Return whether another process of this number runs on this machine, as far as one can see."""
    if process == os.getpid() or os.name == "nt":  # Windows has no signal 0
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of nested dictionaries, lists and numbers; null for what is not finite."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_file(path: Path, largest: int, links: bool = True) -> bytes:
    """Return the content of a file that may be somebody else's.

    Args:
        path: of the file.
        largest: number of bytes that it may have.
        links: whether it may be a link.

    Raises:
        OSError: it cannot be read, is larger, or is not a regular file but a pipe or a device.
    """
    if not links and path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link", str(path))
    descriptor = os.open(path, READ | (0 if links else NO_LINK))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        # A file of /proc says that it is empty, and one that is being written grows.
        data = file.read(largest + 1) if status.st_size <= largest else None
    if data is None or len(data) > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))
    return data


def make_folder(path: Path) -> Path:
    """Make a folder of a run, and of the run alone.

    Raises:
        UserError: it is a link: what it leads to may be another run's.
        OSError: it cannot be made.
    """
    require_no_link(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def require_no_link(path: Path) -> None:
    """Raise UserError where a folder of a run is a link."""
    if path.is_symlink():
        raise UserError(f"{path} is a link; a run keeps its files in a folder of its own")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a run.

    Raises:
        OSError: it cannot be read, see ``read_file``.
        ValueError: it holds something else, or nests deeper than any of ours.
    """
    try:
        return json.loads(read_file(path, LARGEST_JSON, links=False).decode(errors="replace"))
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def require_unpacked(data: bytes, limit: int) -> None:
    """Raise ValueError unless ``data`` are a zip archive of at most ``limit`` bytes unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > limit:
        raise ValueError(f"it would unpack to {size} bytes, more than {limit}")


def require_writable(path: Path) -> None:
    """Raise UserError when ``path`` cannot be written; better before the work than after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {path}")
