"""What all commands share: one line for an error, exit codes, runs and options."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar

import torch

from metarl.commands.training import Fault
from metarl.core.processes import Disconnected, StoppedElsewhere
from metarl.experiment import evaluations
from metarl.experiment.parsing import Parser
from metarl.runtime.errors import UserError, leads
from metarl.runtime.folder import RunFolder
from metarl.runtime.launch import launched

Options = TypeVar("Options")


def command(function: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Turn a UserError into one line and exit code 2, Ctrl-C into one line and its usual 130."""

    name = function.__name__.rstrip("_")

    @wraps(function)
    def run(argv: Sequence[str]) -> int:
        try:
            return function(argv)
        except UserError as error:
            if leads():
                print(f"metarl {name}: error: {error}", file=sys.stderr)
            return 2
        except (Fault, torch.OutOfMemoryError) as error:
            reason = str(error).partition("\n")[0]
            print(f"metarl {name}: error: {reason}", file=sys.stderr, flush=True)
            return 1
        except StoppedElsewhere:
            return 1
        except Disconnected as error:
            where = f"metarl {name}: process {launched().rank}"
            print(f"{where}: another process is lost: {error}", file=sys.stderr, flush=True)
            return 1
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            print(f"metarl {name}: interrupted", file=sys.stderr)
            return 130

    return run


def runs_and_options(
    command: Callable[[Sequence[str]], int], schema: type[Options], argv: Sequence[str]
) -> tuple[list[RunFolder], Options]:
    """What a command about existing runs was asked for."""
    name = f"metarl {command.__name__}"
    parser = Parser(prog=name, description=command.__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders.")
    parser.add_class_arguments(schema)
    values = vars(parser.instantiate(parser.parse_settings(argv)))
    return evaluations.open_runs(values.pop("runs")), schema(**values)


def with_short_names(argv: Sequence[str]) -> list[str]:
    return [re.sub("^--steps(?==|$)", "--inner_steps", argument) for argument in argv]
