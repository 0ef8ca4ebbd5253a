"""``metarl completion``."""

import argparse
from collections.abc import Iterable, Sequence

import shtab

from metarl.commands.command import Arguments, Command, NoOptions, command
from metarl.experiment.checking import Setting, leaves
from metarl.experiment.configs import config_files
from metarl.experiment.schema import SCHEMAS
from metarl.experiment.settings import known_settings

SHELLS = ("bash", "zsh", "tcsh")


@command(Arguments("shell", f"one of {', '.join(SHELLS)}", choices=SHELLS))
def completion(shells: Sequence[str], options: NoOptions) -> int:
    """Print a script for tab completion: eval "$(metarl completion bash)"."""
    from metarl.commands.main import COMMANDS

    (shell,) = shells
    print(shtab.complete(argument_parser(COMMANDS.values()), shell))
    return 0


def argument_parser(commands: Iterable[Command]) -> argparse.ArgumentParser:
    """Return an argparse parser with all options of all commands, as shtab wants it."""
    parser = argparse.ArgumentParser(prog="metarl")
    every = parser.add_subparsers()
    for each in commands:
        one = every.add_parser(each.name, help=each.meaning)
        if each.takes is None:
            one.add_argument("--config", choices=list(config_files()))
            SPECIAL[each.name](one)
            for path, setting in _all_settings().items():
                _add(one, path, setting)
        else:
            words = one.add_argument(each.takes.name, choices=each.takes.choices or None)
            if not each.takes.choices:
                words.complete = shtab.FILE  # type: ignore[attr-defined]
            for path, setting in leaves(each.options).items():
                _add(one, path, setting)
    return parser


def _add(parser: argparse.ArgumentParser, path: str, setting: Setting) -> None:
    choices = setting.choices or None
    parser.add_argument(f"--{path}", choices=choices, help=setting.meaning.replace("%", "%%"))


def _add_special_of_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parser.add_argument("--print_config", action="store_true")
    parser.add_argument("--trust-code", action="store_true")


def _add_special_of_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid")
    parser.add_argument("--print", action="store_true")


SPECIAL = {"train": _add_special_of_train, "sweep": _add_special_of_sweep}
"""Options that are not settings, of the commands that take settings."""


def _all_settings() -> dict[str, Setting]:
    """Return the settings of every kind of experiment."""
    return {
        path: setting
        for schema in SCHEMAS.values()
        for path, setting in known_settings(schema, {}).items()
    }
