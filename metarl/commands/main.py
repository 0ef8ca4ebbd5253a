"""The ``metarl`` command."""

import sys

from metarl import __version__
from metarl.commands.evaluate import evaluate
from metarl.commands.gradcheck import gradcheck
from metarl.commands.keep import keep
from metarl.commands.list import list_
from metarl.commands.report import report
from metarl.commands.train import train
from metarl.experiment.parsing import HelpFormatter, Parser

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "keep": keep,
    "list": list_,
    "gradcheck": gradcheck,
}


def main() -> int:
    """The ``metarl`` command."""
    parser = Parser(
        prog="metarl",
        description="Gradient-based meta-reinforcement-learning.",
        version=__version__,
        formatter_class=HelpFormatter,
        epilog="\n".join(["commands:", *map(_line, COMMANDS)]),
    )
    parser.add_argument("command", choices=list(COMMANDS), help="see metarl COMMAND --help")
    known = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[known.command](sys.argv[2:])


def _line(name: str) -> str:
    return f"  {name:10} {COMMANDS[name].__doc__}"
