"""The settings of a run, from a command line and config files, or from a run's folder."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import build
from metarl.config import (
    Config,
    Parser,
    config_parser,
    find_config,
    fixed_settings,
    require_mapping,
)
from metarl.errors import UserError
from metarl.run import RunFolder
from metarl.trainer import first_difference


def read_settings(argv: Sequence[str]) -> tuple[Config, RunFolder | None]:
    """The resolved config that ``train`` was asked for, and the run to resume if one was named.

    Raises:
        UserError: the settings are not allowed, or not those of the run.
    """
    parser = config_parser("metarl train")
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--resume")
    early.add_argument("--config", action="append", default=[])
    try:
        known, overrides = early.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    files = [find_config(name) for name in known.config]
    if known.resume is None:
        config = _parse(parser, files, overrides)
        stem = "-".join(path.stem for path in files) or config.env["family"]
        default = f"{stem}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        return replace(config, name=config.name or default), None
    run = RunFolder.open(Path(known.resume))
    resumed = read_config(run)
    config = _parse(parser, [run.config_file, *files], overrides, resumed.env["family"])
    if difference := first_difference(_kept(resumed), _kept(config)):
        raise UserError(f"a resumed run keeps its settings: {difference}; start a new run instead")
    run.require_writable()
    return config, run


def read_config(run: RunFolder) -> Config:
    """The settings of an existing run.

    Raises:
        UserError: its config cannot be read, or is not of this version.
    """
    parser = config_parser("metarl")
    parser.origin = f"{run.config_file}: "
    return _parse(parser, [run.config_file], [])


def checked(make: Callable[[], Config]) -> Config:
    """Settings that contradict each other raise ValueError when they are put together."""
    try:
        return make()
    except ValueError as error:
        raise UserError(str(error)) from error


def _parse(
    parser: Parser, files: Sequence[Path], overrides: Sequence[str], family: str | None = None
) -> Config:
    """Settings from files and what overrides them; ``family`` is the only one allowed, if given."""
    for path in files:
        require_mapping(path)
    arguments = [a for path in files for a in ("--config", str(path))]
    namespace = parser.parse_settings([*arguments, *overrides])
    if "resume" in namespace:
        raise UserError("resume is no setting for a file; say --resume on the command line")

    found = namespace.env.get("family")
    if family not in (None, found):
        raise UserError(f"the run to resume is of {family}, not {found}")

    def make() -> Config:
        values = vars(parser.instantiate(namespace))
        values = {k: v for k, v in values.items() if k not in ("config", "resume")}
        return build.resolve(Config(**values))

    return checked(make)


def _kept(config: Config) -> dict[str, Any]:
    """What ``--resume`` may not change: the experiment, and where its run is kept."""
    return {**fixed_settings(config), "folder": config.folder, "name": config.name}
