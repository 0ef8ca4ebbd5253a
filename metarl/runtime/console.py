"""Print nothing that controls the terminal, and only characters that it knows."""

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

ASCII = {"±": "+-", "–": "-", "…": "...", "─": "-", "α": "alpha"}
"""Stand-ins for the other characters that metarl prints."""


def printable(text: str) -> str:
    """Return text with an escape such as ``\\x1b`` for what would control the terminal.

    Control characters, and the invisible ones that turn the direction of writing.
    """
    if text.isascii() and text.isprintable():
        return text
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in hidden else c
        for c in text
    )


def is_printable(value: Any) -> bool:
    """Return whether no text in nested mappings and lists would control the terminal."""
    if isinstance(value, Mapping):
        return all(is_printable(key) and is_printable(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_printable, value))
    return not isinstance(value, str) or printable(value) == value


def complain(line: str) -> None:
    """Print a line on standard error, where that is possible: its disk may be full."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        print(printable(line), file=sys.stderr, flush=True)


def say(line: str) -> str:
    """Print a line on standard output; return why that is impossible. It goes with the next one.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        print(printable(line), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def prepare() -> None:
    """Print what a console cannot show as something similar, and never fail on it."""
    codecs.register_error("metarl", _similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="metarl")


def settle(stream: TextIO | None) -> str:
    """Write what waits for a stream; return why that is impossible, and give it up then.

    Else Python would try again at its end, and end in a traceback.
    """
    if stream is None:
        return ""
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError):  # it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error.strerror or type(error).__name__
    except ValueError:
        pass  # it is closed
    return ""


def _similar(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(ASCII.get(c, "?") for c in characters), error.end
