"""What the user can mend."""

import os
import sys


class UserError(Exception):
    """Bad input, said in one line: what, where, what is allowed. Commands exit with code 2."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # whatever was quoted in it


def described(error: BaseException) -> str:
    """An exception of whatever kind as one line: its type and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def under_torchrun() -> bool:
    """Whether torchrun has started this process, and says so in environment variables."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leads() -> bool:
    """Whether this process speaks for all, where torchrun has started several."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def warn(message: str) -> None:
    """One line on standard error; the work goes on."""
    if leads():
        print(f"metarl: warning: {message}", file=sys.stderr, flush=True)
