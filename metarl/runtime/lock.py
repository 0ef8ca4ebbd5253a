"""One writer per run folder: a lock that the operating system gives back when a process ends."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from metarl.runtime.errors import UserError, leads, warn
from metarl.runtime.files import NO_LINK, remove_temporary

NAME = "run.lock"
FLAGS = os.O_RDWR | os.O_CREAT | NO_LINK
HELD = (errno.EACCES, errno.EAGAIN)
"""Error numbers that say that another process has the lock."""

if sys.platform == "win32":
    import msvcrt

    def _try(file: IO[bytes]) -> None:
        file.seek(1 << 30)  # other processes cannot read what is locked, and the holder is at 0
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _try(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from writing to a run's folder, which is made if it is missing.

    Half-written files that a killed process left there are removed. Of torchrun's processes, only
    the first takes the lock. Where the file system has no locks, a warning says so.

    Raises:
        UserError: another process has the lock, or the folder cannot be written.
    """
    if not leads():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / NAME)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error
    with file:
        for place in (folder, folder / "checkpoints", folder / "tasks"):
            remove_temporary(place)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                (folder / NAME).unlink()


def _open_lock(path: Path) -> IO[bytes]:
    """Return the open lock file. Closing it gives the lock back."""
    while True:
        file = os.fdopen(os.open(path, FLAGS, 0o666), "r+b", buffering=0)
        try:
            _try(file)
        except OSError as error:
            if error.errno in HELD:
                holder = file.read(200).decode(errors="replace") or "another process"
                file.close()
                raise UserError(f"{path.parent} is being written by {holder}") from error
            warn(
                f"{path.parent} cannot be locked ({error.strerror}): "
                "see that no other process writes there"
            )
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            with suppress(OSError):  # on a full disk, say: it only is for the message
                file.truncate()
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            return file
        file.close()  # its holder has just removed it
