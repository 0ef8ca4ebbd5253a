"""The one place where names in a config become objects."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from metarl.core.compile import compiler_fault
from metarl.core.implicit import Proximal
from metarl.core.inner_loop import InnerLoop
from metarl.core.outer.schedule import ScheduledStep
from metarl.core.outer.step import OuterStep
from metarl.core.outer.trust_region import TrustRegion, suited_epsilon
from metarl.core.params import Functional, Params, parameters_of
from metarl.core.processes import ALONE, Processes
from metarl.core.task_map import TaskMap, cores
from metarl.experiment.configs import find_file
from metarl.experiment.context import beside_context, wider_shape, with_context
from metarl.experiment.plugins import call, find, function_of
from metarl.experiment.registries import (
    BASELINE,
    FAMILY,
    OUTER,
    POLICIES,
    POLICY,
    find_sink,
    inner_loss,
    make_family,
    parse_source,
    policy_settings,
)
from metarl.experiment.schema import Experiment, RLExperiment, SupervisedExperiment
from metarl.experiment.sizes import (
    Shapes,
    require_room_for_models,
    require_room_for_policies,
    require_same_shapes,
    shapes_of,
)
from metarl.experiment.sources import make_source
from metarl.experiment.suggestions import did_you_mean
from metarl.experiment.warm_start import initial_parameters
from metarl.rl.adaptation import Adaptation
from metarl.rl.distributions import require_distribution
from metarl.rl.evaluate import PolicyEvaluator
from metarl.rl.learner import MetaRLLearner
from metarl.rl.sampler import Sampler
from metarl.rl.task_file import TaskFile, read_task_file
from metarl.runtime.errors import UserError, described, warn
from metarl.runtime.seeding import Purpose, torch_seed
from metarl.supervised.fewshot import FewShot
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.losses import CLASSIFICATION, REGRESSION
from metarl.supervised.models import (
    MODELS,
    make_model,
    require_outputs,
    require_stateless,
    sees_batches,
)
from metarl.supervised.objective import Predictor, TaskObjective
from metarl.supervised.regression import RegressionFamily
from metarl_envs import Family

Settings = TypeVar("Settings", bound=Experiment)
Learner = MetaRLLearner | SupervisedLearner

UNADAPTED = ("pretrained", "random", "oracle")
"""Methods of configs/baselines, whose returns a task file need not have."""

COMPILE_FROM = {RLExperiment: 50, SupervisedExperiment: 2000}
"""Iterations from which compiling saves more time than it takes."""


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
    file = read_task_file(path, make_family(config.env).task_fields)
    method = config.evaluation.published.method
    if file.published and method not in ("", *UNADAPTED, *file.published):
        raise UserError(
            f"{path} has no returns of evaluation.published.method {method}"
            f"{did_you_mean(method, list(file.published))}; it has {', '.join(file.published)}"
        )
    return file


def resolve(config: Settings) -> Settings:
    """The config with everything written out that it leaves open.

    Raises:
        UserError: a name is unknown, or the settings of what it names are not allowed.
    """
    pays = config.device == "cpu" and config.iterations >= COMPILE_FROM[type(config)]
    config = dataclasses.replace(config, compile=pays if config.compile is None else config.compile)
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    for name in config.logging.sinks:
        find_sink(name)
    if isinstance(config, RLExperiment):
        policy = policy_settings(config.policy)
        config = dataclasses.replace(
            config,
            env=FAMILY.resolved(config.env),
            policy=policy,
            baseline=BASELINE.resolved(config.baseline),
            outer=_resolved_outer(config, policy.get("activation", "")),
        )
        inner_loss(config.inner)
        if file := held_out_tasks(config):
            evaluation = dataclasses.replace(config.evaluation, tasks=len(file.tasks))
            config = dataclasses.replace(config, evaluation=evaluation)
        return config
    parts = [part for part in parse_source(config.data) if part is not None]
    data = {"source": config.data["source"]}
    for part in parts:
        data |= dataclasses.asdict(part)
    outer = _resolved_outer(config, config.model.activation)
    return dataclasses.replace(config, data=data, outer=outer)


def _resolved_outer(config: RLExperiment | SupervisedExperiment, activation: str) -> dict[str, Any]:
    """Return all settings of the outer step; some follow from the network and from others."""
    outer, kind = config.outer, OUTER.find(config.outer)[0]
    is_scheduled = (
        issubclass(kind, ScheduledStep) and outer.get("schedule", "constant") != "constant"
    )
    if is_scheduled and outer.get("schedule_iterations") is None:
        outer = {**outer, "schedule_iterations": max(1, config.iterations)}
    if issubclass(kind, TrustRegion):
        length = suited_epsilon(activation, outer.get("hvp_length", "fixed"))
        outer = {"hvp_epsilon": length, **outer}
    return OUTER.resolved(outer)


def make_learner(
    config: Experiment, processes: Processes = ALONE, stored: Shapes | None = None
) -> Learner:
    """The learner of an experiment.

    Args:
        config: its settings.
        processes: the processes that share its tasks.
        stored: shapes of the parameters that it will get from a checkpoint.

    Raises:
        UserError: its tasks or its model cannot be made or do not fit in memory, there is no such
            device, there are fewer tasks than processes, or the parameters have other shapes.
    """
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    for where, tasks in (("tasks", config.tasks), ("evaluation.tasks", config.evaluation.tasks)):
        if tasks < processes.size:
            raise UserError(f"{where} is {tasks}, fewer than the {processes.size} processes")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: there is no CUDA GPU here (or PyTorch is a CPU build); use cpu")
    make = make_rl_learner if isinstance(config, RLExperiment) else make_supervised_learner
    learner: Learner = make(config, processes, stored)  # type: ignore[arg-type]
    if config.compile and (fault := compiler_fault()):
        warn(f"nothing is compiled, which is slower: {fault}")
    return learner


def make_rl_learner(
    config: RLExperiment, processes: Processes = ALONE, stored: Shapes | None = None
) -> MetaRLLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, processes)
    family = make_family(config.env)
    _require_room_for_policies(config, family, processes, stored)
    module = make_policy(config, family)
    policy = Functional(module)
    theta = _initial(config, module)
    loss = partial(inner_loss(config.inner), policy)
    try:
        inner = InnerLoop.of(config.inner, loss, list(theta), head=("head.", "log_std"))
    except ValueError as error:
        raise UserError(f"policy.name {config.policy['name']}: {error}") from error
    baseline = BASELINE.make(config.baseline)
    numbers = math.prod(observation_space(config, family).shape)
    state = baseline.init(numbers, config.seed)
    parallel = family.parallelism(threads, config.workers)

    def environments(num_tasks: int, num_envs: int, share: int) -> Any:
        share = share if parallel else 0
        return family.environments(num_tasks, num_envs, share, config.observe_task)

    def adaptation(compiled: bool) -> Adaptation:
        sampler = Sampler(
            environments, policy, family.horizon, max(1, parallel), config.device, compiled
        )
        chunk_size = config.chunk_size or (1 if config.device == "cpu" else config.tasks)
        task_map = TaskMap(chunk_size, threads, compiled, processes)
        return Adaptation(inner, config.advantage, baseline, sampler, task_map, state)

    file = held_out_tasks(config)
    evaluation = PolicyEvaluator(
        config.evaluation,
        family,
        adaptation(compiled=False),
        config.inner.alpha,
        config.trajectories,
        None if file is None else file.tasks,
    )
    return MetaRLLearner(
        config,
        family,
        adaptation(compiles(config)) if compiles(config) else evaluation.adaptation,
        OUTER.make(config.outer),
        theta,
        evaluation,
        config.seed,
    )


def _require_room_for_policies(
    config: RLExperiment, family: Family, processes: Processes, stored: Shapes | None
) -> None:
    """Raise UserError where the trajectories do not fit in memory, or ``stored`` not the policy."""
    shapes: Shapes = {}
    if config.policy["name"] in POLICIES:
        shapes = shapes_of(lambda: _policy_module(config, family))
        require_same_shapes(shapes if stored is None else stored, shapes)
    observation, action = observation_space(config, family).shape, family.action_space.shape or ()
    sizes = family.horizon, observation, action, shapes
    require_room_for_policies(config, *sizes, processes.size)


def _initial(config: Experiment, module: nn.Module) -> Params:
    """Return the parameters that training begins with, on the run's device."""
    initial = initial_parameters(config.init, parameters_of(module))
    return {name: p.to(config.device) for name, p in initial.items()}


def warn_of_equal_tasks(config: Experiment) -> None:
    """Warn where the tasks of the family seem to make no difference.

    Raises:
        UserError: an environment of the user's own fails.
    """
    if not isinstance(config, RLExperiment):
        return
    name = config.env["family"]
    if not call("env.family", name, make_family(config.env).tells_tasks_apart):
        warn(f"{name}: two tasks gave equal episodes from equal seeds; does set_task work?")


def observation_space(config: RLExperiment, family: Family) -> Any:
    """Space of what the policy sees: with the task, where it is told.

    Raises:
        UserError: the family has no such space.
    """
    name = "observation_space_with_task" if config.observe_task else "observation_space"
    return call("env.family", config.env["family"], getattr, family, name)


def make_module(
    where: str, name: str, seed: int, make: Callable[..., Any], *args: Any, **settings: Any
) -> nn.Module:
    """The network that ``make`` makes with PyTorch's generator seeded.

    Raises:
        UserError: it raised anything, or made something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = call(where, name, make, *args, **settings)
    if not isinstance(module, nn.Module):
        made = type(module).__name__
        raise UserError(f"{where} {name}: it should make a torch.nn.Module, got {made}")
    return module


def make_policy(config: RLExperiment, family: Family) -> nn.Module:
    """The policy that the config names, for the spaces of a family.

    Raises:
        UserError: it cannot be made, or does not give a sound distribution of actions.
    """
    name, observations = config.policy["name"], observation_space(config, family)
    module = _policy_module(config, family)
    found = call("policy.name", name, module, torch.zeros(3, *observations.shape))
    try:
        require_distribution(found)
    except ValueError as error:
        raise UserError(f"policy.name {name}: {error}") from error
    except Exception as error:  # whatever a user's distribution does
        raise UserError(f"policy.name {name}: {described(error)}") from error
    actions = tuple(found.mode().shape[1:])
    if actions != (wanted := family.action_space.shape or ()):
        raise UserError(
            f"policy.name {name}: its actions have shape {actions}, those of the family {wanted}"
        )
    return module


def _policy_module(config: RLExperiment, family: Family) -> nn.Module:
    """Return the policy's network, unchecked."""
    make, settings = POLICY.find(config.policy)
    seed = torch_seed(config.seed, Purpose.PARAMETERS)
    observations = observation_space(config, family)
    spaces = beside_context(observations, config.inner), family.action_space
    name = config.policy["name"]
    module = make_module("policy.name", name, seed, make, *spaces, **settings)
    return with_context(module, config.inner)


def make_supervised_learner(
    config: SupervisedExperiment, processes: Processes = ALONE, stored: Shapes | None = None
) -> SupervisedLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, processes)
    source = make_source(config.data, config.data_folder)
    ways = source.ways if isinstance(source, FewShot) else None
    if config.inner.reduction == "class-sum" and not ways:
        raise UserError("inner.reduction class-sum is for classification, and there are no classes")
    if config.observe_task and ways:
        raise UserError("observe_task is for regression: to be told the classes is to be told all")
    outer: OuterStep = OUTER.make(config.outer)
    if outer.needs_kl and config.inner.algorithm in ("reptile", "imaml"):
        raise UserError(
            f"inner.algorithm {config.inner.algorithm} has a first derivative only: "
            "use outer.name adam"
        )
    if outer.of_policies:
        raise UserError(f"outer.name {config.outer['name']} is for policies; use adam or trpo")
    shape = shape_of_inputs(config, source)
    outputs = source.outputs if isinstance(source, RegressionFamily) else 1
    outputs = ways or outputs
    shapes: Shapes = {}
    if config.model.name in MODELS:
        shapes = shapes_of(lambda: _make_module(config, shape, outputs)[0])
        require_same_shapes(shapes if stored is None else stored, shapes)
    require_room_for_models(config, shape, outputs, shapes, ways or 1)
    module, changed = _make_module(config, shape, outputs)
    theta = _initial(config, module)
    predictor = Predictor(
        model=Functional(module),
        criterion=CLASSIFICATION if ways else REGRESSION,
        ways=ways,
        sees_batches=sees_batches(module, shape),
        observe_task=config.observe_task,
        device=config.device,
    )
    by_class = config.inner.reduction == "class-sum"
    loss = predictor.sum_over_classes if by_class else predictor.loss
    try:
        proximal = Proximal(config.inner.proximal, config.inner.cg_iterations)
        inner = InnerLoop.of(config.inner, loss, list(theta), ("head.",), proximal)
    except ValueError as error:
        raise UserError(f"model.name {config.model.name}: {error}") from error
    if changed:
        warn(f"{config.model.name}: batch norm now uses the statistics of the batch at hand")
    return SupervisedLearner(
        config,
        source,
        TaskObjective(predictor, inner, inner.meta_parameters(theta)),
        outer,
        TaskMap(config.chunk_size or config.tasks, threads, compiles(config), processes),
        config.evaluation,
        config.seed,
    )


def shape_of_inputs(config: Experiment, source: Any) -> tuple[int, ...]:
    """Return the shape of one observation or of one input, with the task where it is told.

    Args:
        source: the task family, or the source of supervised tasks.
    """
    if isinstance(config, RLExperiment):
        return tuple(observation_space(config, source).shape)
    assert isinstance(config, SupervisedExperiment)
    first, *others = source.input_shape
    return (first + len(source.task_fields) * config.observe_task, *others)


def _use_threads_for_tasks(config: Experiment, processes: Processes) -> int:
    """Give threads to tasks and not to pieces of one matrix product; returns their number.

    That is faster at these sizes, and every task's result is the same for any number of threads.
    """
    torch.set_num_threads(1)
    return config.threads or max(1, cores() // processes.local_size)


def compiles(config: Experiment) -> bool:
    """Return whether the run is compiled: if its config asks for it and there is a compiler."""
    return bool(config.compile) and not compiler_fault()


def _make_module(
    config: SupervisedExperiment, shape: tuple[int, ...], outputs: int
) -> tuple[nn.Module, bool]:
    """The network for inputs [S, *shape], our own or a user's; whether the latter was changed."""
    name, inner = config.model.name, config.inner
    seed = torch_seed(config.seed, Purpose.PARAMETERS)
    wider = wider_shape(shape, inner)
    try:
        if name in MODELS:
            return with_context(make_model(config.model, wider, outputs, seed), inner), False
        make = find("model.name", name, dict.fromkeys(MODELS), function_of("shape", "outputs"))
        module = with_context(make_module("model.name", name, seed, make, wider, outputs), inner)
        changed = require_stateless(module)
        require_outputs(module, shape, outputs)
    except ValueError as error:
        raise UserError(f"model.name {name}: {error}") from error
    return module, changed
