"""The one place where names in a config become objects."""

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from metarl.core.algorithms import ALGORITHMS, adapted_names, with_rates
from metarl.core.compile import compiler_fault
from metarl.core.params import Functional, parameters_of
from metarl.core.processes import ALONE, World
from metarl.core.task_map import TaskMap, cores
from metarl.experiment.parsing import parse_object, suggestion
from metarl.experiment.schema import Experiment, RLExperiment, SupervisedExperiment, find_file
from metarl.rl.learner import MetaRLLearner
from metarl.rl.policies import GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.rl.task_file import TaskFile, read_task_file
from metarl.runtime.errors import UserError, warn
from metarl.runtime.seeding import Purpose, torch_seed
from metarl.supervised.fewshot import FewShot, FewShotConfig, LabelledTensors
from metarl.supervised.glyphs import Glyphs
from metarl.supervised.images import ImageFolder, ImageSet
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.losses import CLASSIFICATION, REGRESSION
from metarl.supervised.models import (
    MODELS,
    make_model,
    require_outputs,
    require_stateless,
    sees_batches,
)
from metarl.supervised.omniglot import Omniglot
from metarl.supervised.sinusoid import Sinusoid
from metarl.supervised.task_data import Source
from metarl_envs import FAMILIES, BatchedEnv, TaskFamily

Settings = TypeVar("Settings", bound=Experiment)
Learner = MetaRLLearner | SupervisedLearner

IMAGES: dict[str, type[ImageSet]] = {
    "omniglot": Omniglot,
    "image-folder": ImageFolder,
    "glyphs": Glyphs,
}
SOURCES: dict[str, Any] = {"sinusoid": Sinusoid, **IMAGES}

BASELINES = ("pretrained", "random", "oracle")
"""Methods of configs/baselines, whose returns a task file need not have."""

COMPILE_FROM = {RLExperiment: 50, SupervisedExperiment: 2000}
"""Iterations from which compiling saves more time than it takes."""


def make_family(env: dict[str, Any]) -> TaskFamily:
    """The task family that ``env`` names, with its constants.

    Raises:
        UserError: the family or a constant is unknown, or a value is not allowed.
    """
    family, settings = _named("env.family", FAMILIES, env)
    return parse_object(family, settings, "env")


def parse_source(data: dict[str, Any]) -> tuple[Any, FewShotConfig | None]:
    """Settings of the source that ``data`` names and, if it has images, of few-shot tasks of them.

    Raises:
        UserError: the source or a setting is unknown, or a value is not allowed.
    """
    source, settings = _named("data.source", SOURCES, data)
    if source not in IMAGES.values():
        return parse_object(source, settings, "data"), None
    of_tasks = {f.name for f in dataclasses.fields(FewShotConfig)} & settings.keys()
    tasks = {name: settings.pop(name) for name in of_tasks}
    return parse_object(source, settings, "data"), parse_object(FewShotConfig, tasks, "data")


def make_source(data: dict[str, Any], folder: str | None) -> Source:
    """The distribution over tasks that ``data`` describes.

    Raises:
        UserError: see ``parse_source``; or its images cannot be had.
    """
    source, few_shot = parse_source(data)
    if few_shot is None:
        if folder is not None:
            raise UserError(f"data_folder is for images, which {data['source']} has none of")
        made: Source = source
        return made
    found = source.load(Path(folder) if folder else None)
    return FewShot({name: LabelledTensors(*split) for name, split in found.items()}, few_shot)


def task_file_path(config: Experiment) -> Path | None:
    """Return where the evaluation's task file is, or None if tasks are drawn.

    Raises:
        UserError: there is no such file.
    """
    name = config.evaluation.task_file if isinstance(config, RLExperiment) else None
    return find_file(name, "tasks", ".json", "task file") if name else None


def held_out_tasks(config: RLExperiment) -> TaskFile | None:
    """Return the evaluation's task file, or None if tasks are drawn.

    Raises:
        UserError: there is no such file, its tasks are not of the family, or it has no returns of
            the method that the config names.
    """
    path = task_file_path(config)
    if path is None:
        return None
    file = read_task_file(path, FAMILIES[config.env["family"]].task_fields)
    method = config.evaluation.published.method
    if file.published and method not in ("", *BASELINES, *file.published):
        raise UserError(
            f"{path} has no returns of evaluation.published.method {method}"
            f"{suggestion(method, list(file.published))}; it has {', '.join(file.published)}"
        )
    return file


def _named(
    where: str, registry: dict[str, Any], settings: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The entry that ``settings`` names, and the other settings."""
    key = where.rpartition(".")[2]
    name = settings.get(key)
    if not isinstance(name, str) or name not in registry:
        raise UserError(
            f"{where} {name!r} is unknown{suggestion(str(name), list(registry))}; "
            f"there are {', '.join(registry)}"
        )
    return registry[name], {k: v for k, v in settings.items() if k != key}


def resolve(config: Settings) -> Settings:
    """The config with everything written out that it leaves open.

    Raises:
        UserError: the settings of its tasks are not allowed.
    """
    pays = config.device == "cpu" and config.iterations >= COMPILE_FROM[type(config)]
    config = dataclasses.replace(config, compile=pays if config.compile is None else config.compile)
    if isinstance(config, RLExperiment):
        family = make_family(config.env)
        env = {"family": config.env["family"], **dataclasses.asdict(family)}
        config = dataclasses.replace(config, env=env)
        if file := held_out_tasks(config):
            evaluation = dataclasses.replace(config.evaluation, tasks=len(file.tasks))
            config = dataclasses.replace(config, evaluation=evaluation)
        return config
    assert isinstance(config, SupervisedExperiment)
    parts = [part for part in parse_source(config.data) if part is not None]
    data = {"source": config.data["source"]}
    for part in parts:
        data |= dataclasses.asdict(part)
    return dataclasses.replace(config, data=data)


def make_learner(config: Experiment, world: World = ALONE) -> Learner:
    """The learner of an experiment.

    Args:
        config: its settings.
        world: the processes that share its tasks.

    Raises:
        UserError: its tasks or its model cannot be made, there is no such device, or there are
            fewer tasks than processes.
    """
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    for where, tasks in (("tasks", config.tasks), ("evaluation.tasks", config.evaluation.tasks)):
        if tasks < world.size:
            raise UserError(f"{where} is {tasks}, fewer than the {world.size} processes")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: there is no CUDA GPU here (or PyTorch is a CPU build); use cpu")
    if config.compile and (fault := compiler_fault()):
        warn(f"nothing is compiled, which is slower: {fault}")
    if isinstance(config, RLExperiment):
        return make_rl_learner(config, world)
    return make_supervised_learner(config, world)


def make_rl_learner(config: RLExperiment, world: World = ALONE) -> MetaRLLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, world)
    family = make_family(config.env)
    module = GaussianMLP(
        family.observation_dim + config.observe_task * family.task_dim,
        family.action_dim,
        seed=torch_seed(config.seed, Purpose.PARAMETERS),
        **dataclasses.asdict(config.policy),
    )
    policy = Functional(module)
    theta = {name: p.to(config.device) for name, p in parameters_of(module).items()}
    algorithm = ALGORITHMS[config.inner.algorithm]
    adapted = adapted_names(algorithm, list(theta), head=("head.", "log_std"))
    file = held_out_tasks(config)
    return MetaRLLearner(
        config=config,
        evaluation=config.evaluation,
        family=family,
        policy=policy,
        meta=with_rates(algorithm, theta, adapted, config.inner.rate),
        algorithm=algorithm,
        adapted=adapted,
        sampler=Sampler(
            lambda m, n, threads: BatchedEnv(family, m, n, threads, config.observe_task),
            policy,
            family.action_dim,
            family.horizon,
            threads if family.threaded else 1,
            config.device,
            compiles(config),
        ),
        task_map=TaskMap(
            config.chunk_size or (1 if config.device == "cpu" else config.tasks),
            threads,
            compiles(config),
            world,
        ),
        world=world,
        seed=config.seed,
        held_out=None if file is None else file.tasks,
    )


def make_supervised_learner(
    config: SupervisedExperiment, world: World = ALONE
) -> SupervisedLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, world)
    source = make_source(config.data, config.data_folder)
    ways = source.ways if isinstance(source, FewShot) else None
    if config.inner.reduction == "class-sum" and not ways:
        raise UserError("inner.reduction class-sum is for classification, and there are no classes")
    if config.observe_task and ways:
        raise UserError("observe_task is for regression: to be told the classes is to be told all")
    shape = source.input_shape
    if config.observe_task:
        shape = (shape[0] + len(source.task_fields), *shape[1:])
    module, changed = _make_module(config, shape, ways or 1)
    theta = {name: p.to(config.device) for name, p in parameters_of(module).items()}
    algorithm = ALGORITHMS[config.inner.algorithm]
    try:
        adapted = adapted_names(algorithm, list(theta), head=("head.",))
    except ValueError as error:
        raise UserError(f"model.name {config.model.name}: {error}") from error
    if changed:
        warn(f"{config.model.name}: batch norm now uses the statistics of the batch at hand")
    return SupervisedLearner(
        config=config,
        evaluation=config.evaluation,
        source=source,
        criterion=CLASSIFICATION if ways else REGRESSION,
        ways=ways,
        model=Functional(module),
        sees_batches=sees_batches(module, shape),
        observe_task=config.observe_task,
        meta=with_rates(algorithm, theta, adapted, config.inner.rate),
        algorithm=algorithm,
        adapted=adapted,
        task_map=TaskMap(config.chunk_size or config.tasks, threads, compiles(config), world),
        world=world,
        seed=config.seed,
        device=config.device,
    )


def _use_threads_for_tasks(config: Experiment, world: World) -> int:
    """And not for pieces of one matrix product: that is faster at these sizes, and the result of
    every task is the same whatever the number of threads. Returns that number.
    """
    torch.set_num_threads(1)
    return config.threads or max(1, cores() // world.local_size)


def compiles(config: Experiment) -> bool:
    """Whether programs are compiled: where that is asked for and possible."""
    return bool(config.compile) and not compiler_fault()


def _make_module(
    config: SupervisedExperiment, shape: tuple[int, ...], outputs: int
) -> tuple[nn.Module, bool]:
    """The network for inputs [S, *shape], our own or a user's; whether the latter was changed."""
    name = config.model.name
    seed = torch_seed(config.seed, Purpose.PARAMETERS)
    try:
        if name in MODELS:
            return make_model(config.model, shape, outputs, seed), False
        module = _import_model(name, shape, outputs, seed)
        changed = require_stateless(module)
        require_outputs(module, shape, outputs)
    except ValueError as error:
        raise UserError(f"model.name {name}: {error}") from error
    return module, changed


def _import_model(name: str, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """What the function ``package.module:NAME`` makes of (shape, outputs)."""
    package, _, function = name.partition(":")
    if not function:
        raise ValueError(f"there are {', '.join(MODELS)}, or package.module:NAME of your own")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where the module of a user may be
    try:
        make = getattr(importlib.import_module(package), function)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = make(shape, outputs)
    except Exception as error:  # whatever a user's code does
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"it should make a torch.nn.Module, got {type(module).__name__}")
    return module
