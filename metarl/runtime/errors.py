"""Errors that the user can mend, and warnings."""

import os

from metarl.runtime.console import complain, printable


class UserError(Exception):
    """Bad input, in one line: what, where, what is allowed. Commands exit with code 2."""

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.splitlines())))  # whatever was quoted in it


def described(error: BaseException) -> str:
    """Return any exception as one line: its type and its message."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))


def first_line(error: BaseException) -> str:
    """The first line of an exception's message: libraries add pages to theirs."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def under_torchrun() -> bool:
    """Return whether torchrun's environment variables say that it started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leads() -> bool:
    """Return whether this process speaks for all that torchrun has started."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def warn(message: str) -> None:
    """Print one line on standard error; the work goes on, whether that is possible or not."""
    if leads():
        complain(f"metarl: warning: {message}")
