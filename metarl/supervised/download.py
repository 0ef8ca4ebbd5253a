"""Download files to the user's cache: each is whole and checked, or absent."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from metarl.runtime.errors import UserError

TIMEOUT = 30.0  # s without a byte


def cache_folder() -> Path:
    """The user's cache of this package; it need not exist.

    Raises:
        UserError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the standard wants others ignored
        return Path(base) / "metarl"
    try:
        return Path.home() / ".cache" / "metarl"
    except RuntimeError as error:
        raise UserError("there is no home folder for a cache; set XDG_CACHE_HOME") from error


def fetch(url: str, folder: Path, md5: str, otherwise: str) -> Path:
    """The file at ``url`` in ``folder``, downloaded unless it is there already.

    A download that was cut off is continued. Processes that want the same file wait for the first.
    ``otherwise`` ends every error: what the user can do.

    Raises:
        UserError: it cannot be downloaded or kept, or its MD5 is another one.
    """
    path = folder / url.rpartition("/")[2]
    partial = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _exclusive_access(path.with_name(f"{path.name}.lock")):
            if not (path.is_file() and _md5(path) == md5):
                _fetch_and_check(url, partial, md5, otherwise)
                partial.replace(path)
    except (OSError, HTTPException) as error:
        reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise UserError(f"cannot download {url}: {reason}; {otherwise}") from error
    return path


def _fetch_and_check(url: str, partial: Path, md5: str, otherwise: str) -> None:
    print(f"metarl: downloading {url} to {partial.parent}", file=sys.stderr, flush=True)
    is_continuation = partial.exists()
    _download(url, partial)
    if is_continuation and _md5(partial) != md5:  # what was there may have been of another file
        partial.unlink()
        _download(url, partial)
    if (digest := _md5(partial)) != md5:
        partial.unlink()
        raise UserError(f"{url} is damaged: its MD5 is {digest} and should be {md5}; {otherwise}")


def _download(url: str, partial: Path) -> None:
    """Append the missing bytes of ``url`` to ``partial``."""
    start = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing
        raise
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:  # the server sends all of it again
            start = 0
        with partial.open("ab" if start else "wb") as file:
            shutil.copyfileobj(response, file)
    # A connection that breaks looks like the end of the file.
    missing = start + int(response.headers.get("Content-Length", 0)) - partial.stat().st_size
    if missing > 0:
        raise OSError(f"the connection broke {missing} bytes before the end (the next run goes on)")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _lock(file: IO[str]) -> None:
    """Wait until no other process has the file; on Windows, where there is no such lock, do not."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def _exclusive_access(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        _lock(file)
        yield
