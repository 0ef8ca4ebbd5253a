"""Commands: their options and help, one line for an error, exit codes."""

import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metarl.commands.training import Fault
from metarl.core.processes import Disconnected, StoppedElsewhere
from metarl.experiment.checking import REQUIRED, Setting, leaves, make, shown, type_name
from metarl.experiment.reading import merged, read_words
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.console import complain, prepare, settle
from metarl.runtime.errors import UserError, described, first_line, leads
from metarl.runtime.launch import launched

HELP = ("--help", "-h")


@dataclass(frozen=True)
class Arguments:
    """The positional arguments of a command: their name, meaning and number."""

    name: str
    meaning: str
    least: int = 1
    most: float = 1
    choices: Sequence[str] = ()

    def require(self, words: Sequence[str]) -> None:
        """Raise UserError for too few, too many, or one that is not a choice."""
        if not self.least <= len(words) <= self.most:
            count = str(self.least) if self.most == self.least else f"{self.least} or more"
            raise UserError(f"{self.name} ({self.meaning}): needs {count}, got {len(words)}")
        for word in words:
            if self.choices and word not in self.choices:
                there_are = f"there are {', '.join(self.choices)}"
                nearest = did_you_mean(word, self.choices)
                raise UserError(f"there is no {self.name} {word}{nearest}; {there_are}")


RUNS = Arguments("RUN", "run folders", most=math.inf)


@dataclass(frozen=True)
class NoOptions:
    """A command without options."""


class Command:
    """A command of ``metarl``: ``command(argv)`` runs it and returns its exit code.

    Args:
        function: called with the positional arguments and an object of ``options``; or with
            ``argv`` where there are no ``options``.
        takes: its positional arguments.
        options: a dataclass of its options.
        short: short names of options, and the options.
    """

    def __init__(
        self,
        function: Callable[..., int],
        takes: Arguments | None,
        options: Any,
        short: Mapping[str, str],
    ):
        self.__module__ = function.__module__  # where pickle looks for it
        self.name = function.__name__.rstrip("_")
        self.meaning = str(function.__doc__)
        self.takes = takes
        self.options = options
        self._short = short
        self._function = function

    def __reduce__(self) -> str:
        return self._function.__name__

    def __call__(self, argv: Sequence[str]) -> int:
        """Turn a UserError into one line and exit code 2, Ctrl-C into one line and code 130."""
        prepare()
        where = f"metarl {self.name}"
        try:
            code = self._run(argv)
            sys.stdout.flush()
        except UserError as error:
            if leads():
                complain(f"{where}: error: {error}")
            code = 2
        except (Fault, torch.OutOfMemoryError) as error:
            complain(f"{where}: error: {first_line(error)}")
            code = 1
        except StoppedElsewhere:
            code = 1
        except Disconnected as error:
            process = f"process {launched().rank}"
            complain(f"{where}: {process}: another process is lost: {error}")
            code = 1
        except BrokenPipeError:  # whoever read the output has seen enough
            code = 141
        except KeyboardInterrupt:
            complain(f"{where}: interrupted")
            code = 130
        except OSError as error:  # a full disk, say
            complain(f"{where}: error: {described(error)}")
            code = 1
        for stream in (sys.stdout, sys.stderr):
            settle(stream)
        return code

    def _run(self, argv: Sequence[str]) -> int:
        if self.takes is None:
            return self._function(argv)
        if {*HELP} & {*argv}:
            self.print_usage(self.takes.name + " ..." * (self.takes.most > 1))
            print(f"  {self.takes.name:36}  {self.takes.meaning}")
            print_settings(leaves(self.options))
            return 0
        positional, options = read_words(argv)
        settings = merged({}, ((self._short.get(name, name), word) for name, word in options))
        values = make(self.options, settings)
        self.takes.require(positional)
        return self._function(positional, values)

    def print_usage(self, takes: str = "") -> None:
        """Print how the command is used and what it does."""
        print(" ".join(filter(None, ["metarl", self.name, takes, "[--OPTION VALUE ...]"])))
        print(f"\n{self.meaning}\n")


def command(
    takes: Arguments | None = None, options: Any = NoOptions, **short: str
) -> Callable[[Callable[..., int]], Command]:
    """Make a command of a function; see ``Command``. ``short`` has short names of options."""
    return lambda function: Command(function, takes, options, short)


def print_settings(settings: Mapping[str, Setting], whole: bool = False) -> None:
    """Print a line for every setting; if ``whole``, all of its meaning, and its type."""
    width = shutil.get_terminal_size((110, 24)).columns
    for path, setting in settings.items():
        default = "" if setting.default is REQUIRED else _default(setting.default)
        option = f"  --{path} {default}".rstrip()
        if whole:
            print(f"{option}\n      {type_name(setting.annotation)}")
            print(textwrap.indent(textwrap.fill(setting.meaning, width - 6), " " * 6))
        else:
            choices = f"{type_name(setting.annotation)}: " if setting.choices else ""
            room = width - max(40, len(option) + 2)
            text = textwrap.shorten(choices + setting.meaning, room, placeholder=" ...")
            print(f"{option:38}  {text}")


def _default(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)
