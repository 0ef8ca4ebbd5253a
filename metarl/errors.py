"""What the user can mend."""

import sys


class UserError(Exception):
    """Bad input, said in one line: what, where, what is allowed. Commands exit with code 2."""


def warn(message: str) -> None:
    """One line on standard error; the work goes on."""
    print(f"metarl: warning: {message}", file=sys.stderr, flush=True)
