"""The settings of a run, from a command line and config files, or from a run's folder."""

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from metarl import __version__
from metarl.experiment import build, plugins, registries
from metarl.experiment.parsing import named_groups, read_mapping, require_mappings
from metarl.experiment.schema import (
    NAMED,
    Experiment,
    config_parser,
    find_config,
    fixed_settings,
    plain,
    schema_of,
)
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import renamed, upgraded
from metarl.runtime.launch import launch_id
from metarl.runtime.trainer import first_difference

Settings = TypeVar("Settings", bound=Experiment)


def read_settings(argv: Sequence[str]) -> tuple[Experiment, RunFolder | None]:
    """The resolved config that ``train`` was asked for, and the run to resume if one was named.

    Raises:
        UserError: the settings are not allowed, or not those of the run.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--resume")
    early.add_argument("--config", action="append", default=[])
    try:
        known, overrides = early.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    files = [find_config(name) for name in known.config]
    if known.resume is None:
        config = _parse([renamed(read_mapping(path)) for path in files], overrides)
        stem = "-".join(path.stem for path in files) or _tasks_of(config)
        config = replace(config, name=config.name or f"{stem}-seed{config.seed}-{_when()}")
        run = RunFolder(Path(config.folder) / str(config.name))
        if not run.is_of_this_launch():
            return config, None
        resumed = read_config(run)
    else:
        run = RunFolder.open(Path(known.resume))
        resumed = read_config(run)
        contents = [_settings_of(run), *(renamed(read_mapping(path)) for path in files)]
        config = _parse(contents, overrides, resumed)
    if difference := first_difference(_kept(resumed), _kept(config)):
        raise UserError(f"a resumed run keeps its settings: {difference}; start a new run instead")
    run.require_writable()
    return config, run


def _when() -> str:
    """What makes a run's name its own; under torchrun the same after a restart."""
    return launch_id() or time.strftime("%Y%m%d-%H%M%S")


def read_config(run: RunFolder) -> Experiment:
    """The settings of an existing run, of this or an earlier version.

    Raises:
        UserError: its config cannot be read.
    """
    if isinstance(directory := run.info().get("directory"), str):
        plugins.search_also(Path(directory))
    origin = f"{run.config_file}{_newer_version_note(run)}: "
    settings = _settings_of(run)
    try:
        return _parse([settings], [], origin=origin)
    except UserError as error:
        raise UserError(f"{origin}{error}") from error


def _settings_of(run: RunFolder) -> dict[str, Any]:
    """Return the run's config with today's settings, and its own copy of its task file."""
    settings = read_mapping(run.config_file)
    try:
        settings = upgraded(settings)
    except UserError as error:
        raise UserError(f"{run.config_file}: {error}") from error
    evaluation = settings.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(name := evaluation.get("task_file"), str):
        evaluation["task_file"] = str(run.own_task_file(name) or name)
    return settings


def _newer_version_note(run: RunFolder) -> str:
    """Name the version that wrote the run if it is newer than this one."""
    packages = run.info().get("packages")
    written = str(packages.get("metarl")) if isinstance(packages, dict) else ""
    newer = _numbers(written) > _numbers(__version__)
    return f" (written by metarl {written}, newer than this {__version__})" if newer else ""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def checked(make: Callable[[], Settings]) -> Settings:
    """Settings that contradict each other raise ValueError when they are put together."""
    try:
        return make()
    except ValueError as error:
        raise UserError(str(error)) from error


def _parse(
    contents: Sequence[dict[str, Any]],
    overrides: Sequence[str],
    resumed: Experiment | None = None,
    origin: str = "",
) -> Experiment:
    """Settings from contents of files and what overrides them; of the tasks of ``resumed``."""
    for name in ("config", "resume"):
        if any(name in values for values in contents):
            raise UserError(f"{name} is no setting for a file; say --{name} on the command line")
    schema = schema_of(contents, overrides)
    known = plain(schema())
    keys = {group: key for group, key in NAMED.items() if group in known}
    names = {group: known[group][key] for group, key in keys.items()}
    groups, contents, overrides = named_groups(keys, names, contents, overrides)
    for values in contents:
        require_mappings(values, known)
    contents = [*contents, groups]
    named = {group: groups.get(group, known[group]) for group in keys}
    epilog = "" if origin else registries.settings_help(named)
    parser = config_parser("metarl" if origin else "metarl train", schema, epilog)
    parser.origin = origin
    arguments = [f"--config={json.dumps(values)}" for values in contents]
    namespace = parser.parse_settings([*arguments, *overrides])

    def make() -> Experiment:
        values = vars(parser.instantiate(namespace))
        values = {k: v for k, v in values.items() if k not in ("config", "resume")}
        config = schema(**values)
        if resumed is not None and _tasks_of(config) != _tasks_of(resumed):
            raise UserError(
                f"the run to resume is of {_tasks_of(resumed)}, not {_tasks_of(config)}"
            )
        return build.resolve(config)

    return checked(make)


def _tasks_of(config: Experiment) -> Any:
    """The name of its task family or source."""
    problem = plain(config)[config.task_source]
    return problem.get("family" if config.task_source == "env" else "source")


def _kept(config: Experiment) -> dict[str, Any]:
    """What ``--resume`` may not change: the experiment, and where its run is kept."""
    return {**fixed_settings(config), "folder": config.folder, "name": config.name}
