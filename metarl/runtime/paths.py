"""Paths, expanded as a shell does, in configs and on the command line."""

import errno
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from metarl.runtime.errors import UserError

LONGEST_NAME = 255  # bytes of a file's or a folder's name
LONGEST_PATH = 4095  # bytes


def expanded(text: str) -> str:
    """Return a path with the user's home folder in place of ``~`` or ``~user``.

    Raises:
        ValueError: there can be no file of this path, and why.
    """
    path = os.path.expanduser(text)
    if "\0" in path:
        raise ValueError("should be a path, which has no NUL")
    try:
        length = len(path.encode())
    except UnicodeEncodeError as error:
        raise ValueError("should be a path in UTF-8") from error
    longest = max(len(name.encode()) for name in path.split(os.sep))
    if longest > LONGEST_NAME or length > LONGEST_PATH:
        raise ValueError(
            f"should be a path of at most {LONGEST_PATH} bytes and {LONGEST_NAME} in a name, "
            f"got {length} and {longest}"
        )
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"should be a path, and {path} is a link to itself") from error
    return path


PathText = Annotated[str, AfterValidator(expanded), WithJsonSchema({"type": "path"})]
"""The type of settings and options that are paths."""


def path_of(what: str, text: str | Path) -> Path:
    """Return a path that is given otherwise than by a setting; ``what`` it is of.

    Raises:
        UserError: see ``expanded``.
    """
    try:
        return Path(expanded(str(text)))
    except ValueError as error:
        raise UserError(f"{what} {error}") from error
