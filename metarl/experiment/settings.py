"""The settings of a run, from a command line and config files, or from a run's folder."""

import re
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import __version__
from metarl.experiment import build
from metarl.experiment.checking import Setting, leaves, make
from metarl.experiment.configs import read_layers
from metarl.experiment.reading import TRUST, Word, merged, nested, read_mapping, read_words
from metarl.experiment.registries import GROUPS
from metarl.experiment.schema import Experiment, fixed_settings, plain, schema_of, to_yaml
from metarl.experiment.trust import parts_of, require_trust
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import upgraded
from metarl.runtime.launch import launch_id
from metarl.runtime.trainer import first_difference

AUTO = "auto"
"""``--resume auto``: begin the run of the config's name, or go on with it."""

Layers = Sequence[Mapping[str, Any]]
"""Settings of files and of a command line; later ones win."""


def read_settings(
    argv: Sequence[str], lock: Callable[[RunFolder], Any] = lambda run: None
) -> tuple[Experiment, RunFolder | None]:
    """Return the resolved config that ``train`` was asked for, and the run to resume, if any.

    Args:
        argv: the command line.
        lock: called with the run to resume before anything of it is read.

    Raises:
        UserError: the settings are not allowed, or not those of the run.
        SystemExit: ``--print_config`` asked for the config alone.
    """
    words = [word for word in argv if word != "--print_config"]
    is_printed = len(words) < len(argv)
    positional, options = read_words(words)
    if positional:
        raise UserError(f"train takes options only, got {positional[0]}; a config is --config NAME")
    layers, configs, resume = asked(options)
    trusted = any(name == TRUST and word.value is True for name, word in options)
    run: RunFolder | None = None
    if resume not in (None, AUTO):
        run = RunFolder.open(Path(str(resume)), trusted)
        if not is_printed:
            lock(run)
        read_config(run, parts_of(layers))  # also finds the user's own parts that it names
        layers = [_settings_of(run), *layers]
    config = parse(layers)
    if resume == AUTO:
        if config.name is None:
            raise UserError("--resume auto needs a --name: it goes on with the run of this name")
        run = begun(config)
    if is_printed:
        print(to_yaml(config), end="", flush=True)
        sys.exit(0)
    config = named(config, stem(config, configs))
    new = RunFolder(Path(config.folder) / str(config.name))
    if run is None and new.is_of_this_launch():
        run = new
    if run is not None:
        if resume in (None, AUTO):
            lock(run)
            run.trusted = trusted
        require_same_run(run, config)
        if resume == AUTO and is_done(run, config):
            done = f"{run.path} has {config.iterations} iterations and their evaluation"
            print(f"done: {done}", flush=True)
            sys.exit(0)
    return config, run


def require_same_run(run: RunFolder, config: Experiment) -> None:
    """Raise UserError unless a run may go on with these settings, and can be written."""
    own = read_config(run, parts_of(plain(config)))
    if _tasks_of(config) != _tasks_of(own):
        raise UserError(f"the run to resume is of {_tasks_of(own)}, not {_tasks_of(config)}")
    if difference := first_difference(_kept(own), _kept(config)):
        raise UserError(f"a resumed run keeps its settings: {difference}; start a new run instead")
    run.require_writable()


def is_done(run: RunFolder, config: Experiment) -> bool:
    """Return whether a run has all of its iterations, and an evaluation after them."""
    checkpoints, saved = run.checkpoints().all(), run.load_evaluation()
    last = checkpoints[0].iteration if checkpoints else -1
    return saved is not None and saved[0].iteration == last >= config.iterations


def begun(config: Experiment) -> RunFolder | None:
    """Return the run that a config names; None if it has no name, or was not begun."""
    run = RunFolder(Path(config.folder) / (config.name or ""))
    return run if config.name and run.config_file.is_file() else None


def stem(config: Experiment, configs: Sequence[str] = ()) -> str:
    """Return the first part of a run's name: its config files, or else its tasks."""
    return "-".join(Path(name).stem for name in configs) or str(_tasks_of(config))


def named(config: Experiment, start: str = "") -> Experiment:
    """Return a config whose run has a name: its own, or one of ``start``, seed and time."""
    start = start or stem(config)
    return replace(config, name=config.name or f"{start}-seed{config.seed}-{_when()}")


def settings_for_help(argv: Sequence[str]) -> tuple[list[str], dict[str, Setting]]:
    """Return the positional arguments of a command line, and all settings that it may have."""
    positional, options = read_words(argv)
    layers, _, _ = asked(options)
    config = parse(layers)
    values = plain(config)
    known = known_settings(type(config), values)
    given = {path: _at(values, path, setting.default) for path, setting in known.items()}
    return positional, {p: known[p]._replace(default=given[p]) for p in known}


def _at(values: Any, path: str, default: Any) -> Any:
    """Return the value at a path of a nested mapping."""
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return default
        values = values[key]
    return values


def asked(options: Sequence[tuple[str, Word]]) -> tuple[Layers, list[str], str | None]:
    """Return settings of a command line's files and of its options, the files' names, the run."""
    configs = [name for option, name in options if option == "config"]
    runs = [name for option, name in options if option == "resume"]
    files = [layer for name in configs for layer in read_layers(name)]
    for name in (special := ("config", "resume", TRUST)):
        if any(name in values for values in files):
            raise UserError(f"{name} is not a setting for a file; use --{name}")
    given = nested(pair for pair in options if pair[0] not in special)
    return [*files, given], [*configs], runs[-1] if runs else None


def parse(layers: Layers) -> Experiment:
    """Return the experiment that some settings describe, with everything written out.

    Raises:
        UserError: a setting is unknown or its value not allowed, or two contradict each other.
    """
    schema = schema_of(layers)
    values = combined(schema, layers)
    try:
        config: Experiment = make(schema, values, known=[*known_settings(schema, values)])
        return build.resolve(config)
    except UserError as error:
        if origin := _origin(layers, str(error).partition(" ")[0]):
            raise UserError(f"{origin}: {error}") from error
        raise


def _origin(layers: Layers, path: str) -> str:
    """Return the file that says the setting at ``path``; nothing if it is from elsewhere."""
    missing = object()
    for layer in reversed(layers):
        if _at(layer, path, missing) is not missing:
            return getattr(layer, "origin", "")
    return ""


def known_settings(schema: type[Experiment], values: Mapping[str, Any]) -> dict[str, Setting]:
    """Return all settings by path; those of a named group are of what ``values`` names."""
    found: dict[str, Setting] = {}
    for path, setting in leaves(schema).items():
        found |= GROUPS[path].leaves(values.get(path)) if path in GROUPS else {path: setting}
    return found


def default_groups(schema: type[Experiment]) -> dict[str, Any]:
    """Return the named groups of a schema as they are where no settings are given."""
    return {path: s.default for path, s in leaves(schema).items() if path in GROUPS}


def combined(schema: type[Experiment], layers: Layers) -> dict[str, Any]:
    """Merge settings. A group that names something else than before starts afresh: its other
    settings belonged to the other thing.
    """
    values = default_groups(schema)
    for layer in layers:
        for path, group in values.items():
            now = layer.get(path)
            if path in GROUPS and isinstance(now, dict) and isinstance(group, dict):
                key = GROUPS[path].key
                if now.get(key, group.get(key)) != group.get(key):
                    values = {**values, path: {}}
        values = merged(values, layer)
    return values


def read_config(run: RunFolder, named: Collection[str] = ()) -> Experiment:
    """Return the config of an existing run, of this or an earlier version.

    Args:
        run: the run.
        named: parts of the user's own that the user names.

    Raises:
        UserError: its config cannot be read, or names code that the user may not trust.
    """
    settings = _settings_of(run)
    require_trust(run, settings, named)
    try:
        return parse([settings])
    except UserError as error:
        raise UserError(f"{run.config_file}{_newer_version_note(run)}: {error}") from error


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


def _when() -> str:
    """Return a unique suffix: torchrun's launch id, else the time."""
    return launch_id() or time.strftime("%Y%m%d-%H%M%S")


def _tasks_of(config: Experiment) -> Any:
    """The name of its task family or source."""
    return plain(config)[config.task_source][GROUPS[config.task_source].key]


def _kept(config: Experiment) -> dict[str, Any]:
    """Return the settings that ``--resume`` may not change."""
    return {**fixed_settings(config), "folder": config.folder, "name": config.name}
