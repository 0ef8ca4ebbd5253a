"""What the user can mend."""

import os
import sys


class UserError(Exception):
    """Bad input, said in one line: what, where, what is allowed. Commands exit with code 2."""


def leads() -> bool:
    """Whether this process speaks for all, where torchrun has started several."""
    return os.environ.get("RANK", "0") == "0"


def warn(message: str) -> None:
    """One line on standard error; the work goes on."""
    if leads():
        print(f"metarl: warning: {message}", file=sys.stderr, flush=True)
