"""The ``metarl`` command."""

import sys
from collections.abc import Sequence

from metarl import __version__
from metarl.commands.command import HELP, Command
from metarl.commands.completion import completion
from metarl.commands.evaluate import evaluate
from metarl.commands.export import export
from metarl.commands.gradcheck import gradcheck
from metarl.commands.keep import keep
from metarl.commands.list import list_
from metarl.commands.report import report
from metarl.commands.sweep import sweep
from metarl.commands.train import train
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.console import complain

COMMANDS: dict[str, Command] = {
    each.name: each
    for each in (train, sweep, evaluate, report, export, keep, list_, gradcheck, completion)
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the others as its arguments.

    Args:
        words: of the command line; None: those of the process.
    """
    name, *argv = (sys.argv[1:] if words is None else words) or ["--help"]
    if name in HELP:
        print("Gradient-based meta-reinforcement-learning.\n")
        print("\n".join(f"  metarl {each.name:10}  {each.meaning}" for each in COMMANDS.values()))
        print("\nmetarl COMMAND --help says more.")
        return 0
    if name == "--version":
        print(f"metarl {__version__}")
        return 0
    if name not in COMMANDS:
        there_are = f"{did_you_mean(name, COMMANDS)}; there are {', '.join(COMMANDS)}"
        complain(f"metarl: error: there is no command {name}{there_are}")
        return 2
    return COMMANDS[name](argv)
