"""The settings of a run, from a command line and config files, or from a run's folder."""

import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import __version__
from metarl.experiment.checking import REQUIRED, Setting, leaves, make
from metarl.experiment.configs import read_layers
from metarl.experiment.reading import TRUST, Word, at, merged, read_mapping, read_words
from metarl.experiment.registries import GROUPS
from metarl.experiment.resolution import resolve
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
    trust_code = any(name == TRUST and word.value is True for name, word in options)
    run = None if resume in (None, AUTO) else RunFolder.open(Path(str(resume)), trust_code)
    if run is not None:
        if not is_printed:
            lock(run)
        layers = [plain(read_config(run, parts_of(layers))), *layers]
    config = parse(layers)
    if resume == AUTO and config.name is None:
        raise UserError("--resume auto needs a --name: it goes on with the run of this name")
    if is_printed:
        print(to_yaml(config), end="", flush=True)
        sys.exit(0)
    config = named(config, configs)
    new = RunFolder(config.path)
    if run is None and (new.is_of_this_launch() or (resume == AUTO and new.is_begun())):
        run = new
    if run is not None:
        if resume in (None, AUTO):
            lock(run)
            run.trust_code = trust_code
        require_same_run(run, config)
        if resume == AUTO and is_done(run, config):
            status = f"{run.path} has {config.iterations} iterations and their evaluation"
            print(f"done: {status}", flush=True)
            sys.exit(0)
    return config, run


def require_same_run(run: RunFolder, config: Experiment) -> None:
    """Raise UserError unless a run may go on with these settings, and can be written."""
    own, new = (
        {**fixed_settings(each), "folder": each.folder, "name": each.name}
        for each in (read_config(run, parts_of(plain(config))), config)
    )
    if difference := first_difference(own, new):
        raise UserError(f"a resumed run keeps its settings: {difference}; start a new run instead")
    run.require_writable()


def is_done(run: RunFolder, config: Experiment) -> bool:
    """Return whether a run has all of its iterations, and an evaluation after them."""
    checkpoints, evaluation = run.checkpoints().all(), run.load_evaluation()
    last = checkpoints[0].iteration if checkpoints else -1
    return evaluation is not None and evaluation[0].iteration == last >= config.iterations


def stem(config: Experiment, configs: Sequence[str] = ()) -> str:
    """Return the first part of a run's name: its config files, or else its tasks."""
    tasks = at(plain(config), GROUPS[config.task_source].path)
    return "-".join(Path(name).stem for name in configs) or str(tasks)


def named(config: Experiment, configs: Sequence[str] = ()) -> Experiment:
    """Return a config whose run has a name: its own, or one of ``stem``, seed and time."""
    when = launch_id() or time.strftime("%Y%m%d-%H%M%S")
    return replace(config, name=config.name or f"{stem(config, configs)}-seed{config.seed}-{when}")


def asked(options: Sequence[tuple[str, Word]]) -> tuple[Layers, list[str], str | None]:
    """Return settings of a command line's files and of its options, the files' names, the run."""
    configs: list[str] = [word for name, word in options if name == "config"]
    runs = [word for name, word in options if name == "resume"]
    files = [layer for name in configs for layer in read_layers(name)]
    for name in (special := ("config", "resume", TRUST)):
        if any(name in values for values in files):
            raise UserError(f"{name} is not a setting for a file; use --{name}")
    overrides = merged({}, (pair for pair in options if pair[0] not in special))
    return [*files, overrides], configs, runs[-1] if runs else None


def parse(layers: Layers) -> Experiment:
    """Return the experiment that some settings describe, with everything written out.

    Raises:
        UserError: a setting is unknown or its value not allowed, or two contradict each other.
    """
    schema = schema_of(layers)
    values = combined(schema, layers)
    try:
        config: Experiment = make(schema, values, paths=known_settings(schema, values))
        return resolve(config)
    except UserError as error:
        path = str(error).partition(" ")[0]
        sources = [layer for layer in layers if at(layer, path, REQUIRED) is not REQUIRED]
        if origin := getattr(sources[-1], "origin", "") if sources else "":
            raise UserError(f"{origin}: {error}") from error
        raise


def known_settings(schema: type[Experiment], values: Mapping[str, Any]) -> dict[str, Setting]:
    """Return all settings by path, those of a named group too; their defaults are ``values``."""
    settings: dict[str, Setting] = {}
    for path, setting in leaves(schema).items():
        default = at(values, path, setting.default)
        own = GROUPS[path].leaves(default) if path in GROUPS else {path: setting}
        settings |= {
            name: s._replace(default=at(values, name, s.default)) for name, s in own.items()
        }
    return settings


def combined(schema: type[Experiment], layers: Layers) -> dict[str, Any]:
    """Merge settings. A group that names something else than before starts afresh: its other
    settings belonged to the other thing.
    """
    values = {path: group for path, group in vars(schema()).items() if path in GROUPS}
    for layer in layers:
        for path, group in GROUPS.items():
            name = at(values, group.path)
            if at(layer, group.path, name) != name:
                values[path] = {}
        values = merged(values, layer)
    return values


def read_config(run: RunFolder, user_parts: Collection[str] = ()) -> Experiment:
    """Return the config of an existing run, of this or an earlier version.

    The run's own copy of its task file takes the place of the file.

    Args:
        run: the run.
        user_parts: parts of the user's own that the user names.

    Raises:
        UserError: its config cannot be read, or names code that the user may not trust.
    """
    settings = read_mapping(run.config_file)
    with _naming(run):
        settings = upgraded(settings)
    if isinstance(name := at(settings, "evaluation.task_file"), str):
        settings["evaluation"]["task_file"] = str(run.own_task_file(name) or name)
    require_trust(run, settings, user_parts)
    with _naming(run):
        return parse([settings])


@contextmanager
def _naming(run: RunFolder) -> Iterator[None]:
    """Say which run's config is wrong, and whether it is of a newer version."""
    try:
        yield
    except UserError as error:
        version = str(at(run.info(), "packages.metarl", ""))
        is_newer = _numbers(version) > _numbers(__version__)
        note = f" (written by metarl {version}, newer than this {__version__})" if is_newer else ""
        raise UserError(f"{run.config_file}{note}: {error}") from error


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
