"""The one place where names in a config become objects."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from metarl.core.compile import compiler_fault
from metarl.core.implicit import ProximalTerm
from metarl.core.inner_loop import InnerLoop
from metarl.core.params import Functional, Params, parameters_of
from metarl.core.processes import ALONE, Processes
from metarl.core.task_map import TaskMap, cores
from metarl.experiment.context import beside_context, wider_shape, with_context
from metarl.experiment.plugins import call, find, function_of
from metarl.experiment.registries import (
    BASELINE,
    OUTER,
    POLICIES,
    POLICY,
    inner_loss,
    make_family,
)
from metarl.experiment.resolution import held_out_tasks
from metarl.experiment.schema import Experiment, RLExperiment, SupervisedExperiment
from metarl.experiment.sizes import (
    Shapes,
    require_room_for_models,
    require_room_for_policies,
    require_same_shapes,
    shapes_of,
)
from metarl.experiment.sources import make_source
from metarl.experiment.warm_start import initial_parameters
from metarl.rl.adaptation import Adaptation
from metarl.rl.distributions import require_distribution
from metarl.rl.evaluate import PolicyEvaluator
from metarl.rl.learner import MetaRLLearner
from metarl.rl.sampler import Sampler
from metarl.runtime.errors import UserError, described, warn
from metarl.runtime.seeding import Purpose, torch_seed
from metarl.supervised.fewshot import FewShot
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.losses import CLASSIFICATION, REGRESSION
from metarl.supervised.models import (
    MODELS,
    make_model,
    require_outputs,
    sees_batches,
)
from metarl.supervised.objective import Predictor, TaskObjective
from metarl.supervised.regression import RegressionFamily
from metarl.supervised.trial import usable_chunk_size
from metarl_envs import Family

Learner = MetaRLLearner | SupervisedLearner


def make_learner(
    config: Experiment, processes: Processes = ALONE, shapes: Shapes | None = None
) -> Learner:
    """The learner of an experiment.

    Args:
        config: its settings.
        processes: the processes that share its tasks.
        shapes: shapes of the parameters that it will get from a checkpoint.

    Raises:
        UserError: its tasks or its model cannot be made or do not fit in memory, there is no such
            device, there are fewer tasks than processes, or the parameters have other shapes.
    """
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    for where, tasks in (("tasks", config.tasks), ("evaluation.tasks", config.evaluation.tasks)):
        if tasks < processes.size:
            raise UserError(f"{where} is {tasks}, fewer than the {processes.size} processes")
    if getattr(config, "diagnose_every", 0) and config.tasks < 2 * processes.size:
        raise UserError("diagnose_every needs tasks of at least 2 per process")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: there is no CUDA GPU here (or PyTorch is a CPU build); use cpu")
    make = make_rl_learner if isinstance(config, RLExperiment) else make_supervised_learner
    learner: Learner = make(config, processes, shapes)  # type: ignore[arg-type]
    if config.compile and (fault := compiler_fault()):
        warn(f"nothing is compiled, which is slower: {fault}")
    return learner


def make_rl_learner(
    config: RLExperiment, processes: Processes = ALONE, stored_shapes: Shapes | None = None
) -> MetaRLLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, processes)
    family = make_family(config.env)
    _require_room_for_policies(config, family, processes, stored_shapes)
    module, name = make_policy(config, family), config.policy["name"]
    policy = functional("policy.name", name, module)
    if policy.has_changed:
        raise UserError(
            f"policy.name {name}: with batch norm an action depends on other observations; "
            "use layer norm"
        )
    theta = parameters_of(module)
    loss = partial(inner_loss(config.inner), policy)
    try:
        inner = InnerLoop.of(config.inner, loss, list(theta), head=("head.", "log_std"))
    except ValueError as error:
        raise UserError(f"policy.name {name}: {error}") from error
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
        _initial(config, inner, theta),
        evaluation,
        config.seed,
    )


def _require_room_for_policies(
    config: RLExperiment, family: Family, processes: Processes, stored_shapes: Shapes | None
) -> None:
    """Raise UserError unless trajectories fit in memory, and ``stored_shapes`` the policy."""
    shapes: Shapes = {}
    if config.policy["name"] in POLICIES:
        shapes = shapes_of(lambda: _policy_module(config, family))
        require_same_shapes(shapes if stored_shapes is None else stored_shapes, shapes)
    observation, action = observation_space(config, family).shape, family.action_space.shape or ()
    sizes = family.horizon, observation, action, shapes
    require_room_for_policies(config, *sizes, processes.size)


def _initial(config: Experiment, inner: InnerLoop, theta: Params) -> Params:
    """Return the meta-parameters that training begins with, on the run's device."""
    initial = initial_parameters(config, inner.meta_parameters(theta))
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
    where: str, name: str, seed: int, make: Callable[..., Any], *args: Any
) -> nn.Module:
    """The network that ``make`` makes with PyTorch's generator seeded.

    Raises:
        UserError: it raised anything, or made something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = call(where, name, make, *args)
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise UserError(f"{where} {name}: it should make a torch.nn.Module, got {kind}")
    return module


def functional(where: str, name: str, module: nn.Module) -> Functional:
    """A network as a function of its parameters.

    Raises:
        UserError: it cannot be one; see ``Functional``.
    """
    try:
        return Functional(module)
    except ValueError as error:
        raise UserError(f"{where} {name}: {error}") from error


def make_policy(config: RLExperiment, family: Family) -> nn.Module:
    """The policy that the config names, for the spaces of a family.

    Raises:
        UserError: it cannot be made, or does not give a sound distribution of actions.
    """
    name, observations = config.policy["name"], observation_space(config, family)
    module = _policy_module(config, family)
    distribution = call("policy.name", name, module, torch.zeros(3, *observations.shape))
    try:
        require_distribution(distribution)
    except ValueError as error:
        raise UserError(f"policy.name {name}: {error}") from error
    except Exception as error:  # whatever a user's distribution does
        raise UserError(f"policy.name {name}: {described(error)}") from error
    actions = tuple(distribution.mode().shape[1:])
    if actions != (shape := family.action_space.shape or ()):
        raise UserError(
            f"policy.name {name}: its actions have shape {actions}, those of the family {shape}"
        )
    return module


def _policy_module(config: RLExperiment, family: Family) -> nn.Module:
    """Return the policy's network, unchecked."""
    name, observations = config.policy["name"], observation_space(config, family)
    seed = torch_seed(config.seed, Purpose.PARAMETERS)
    spaces = beside_context(observations, config.inner), family.action_space
    module = make_module("policy.name", name, seed, POLICY.make(config.policy), *spaces)
    return with_context(module, config.inner)


def make_supervised_learner(
    config: SupervisedExperiment, processes: Processes = ALONE, stored_shapes: Shapes | None = None
) -> SupervisedLearner:
    """See ``make_learner``."""
    threads = _use_threads_for_tasks(config, processes)
    source = make_source(config.data, config.data_folder)
    ways = source.ways if isinstance(source, FewShot) else None
    if config.inner.reduction == "class-sum" and not ways:
        raise UserError("inner.reduction class-sum is for classification, and there are no classes")
    if config.observe_task and ways:
        raise UserError("observe_task is for regression: to be told the classes is to be told all")
    outer = OUTER.make(config.outer)
    if outer.needs_kl and config.inner.algorithm in ("reptile", "imaml"):
        raise UserError(
            f"inner.algorithm {config.inner.algorithm} has a first derivative only: "
            "use outer.name adam"
        )
    if outer.of_policies:
        raise UserError(f"outer.name {config.outer['name']} is for policies; use adam or trpo")
    shape = shape_of_inputs(config, source)
    outputs = ways or (source.outputs if isinstance(source, RegressionFamily) else 1)
    name = config.model.name
    shapes: Shapes = {}
    if name in MODELS:
        shapes = shapes_of(lambda: _model_module(config, shape, outputs))
        require_same_shapes(shapes if stored_shapes is None else stored_shapes, shapes)
    require_room_for_models(config, shape, outputs, shapes, ways or 1)
    model, theta = _make_model(config, shape, outputs)
    predictor = Predictor(
        model=model,
        criterion=CLASSIFICATION if ways else REGRESSION,
        ways=ways,
        sees_batches=sees_batches(partial(model, theta), shape),
        observe_task=config.observe_task,
        device=config.device,
    )
    by_class = config.inner.reduction == "class-sum"
    loss = predictor.sum_over_classes if by_class else predictor.loss
    try:
        proximal = ProximalTerm(config.inner.proximal, config.inner.cg_iterations)
        inner = InnerLoop.of(config.inner, loss, list(theta), ("head.",), proximal)
        task = TaskObjective(predictor, inner, _initial(config, inner, theta))
        chunk_size = config.chunk_size or config.tasks
        if name not in MODELS:
            chunk_size = usable_chunk_size(task, chunk_size, outer.needs_kl, shape, outputs)
    except ValueError as error:
        raise UserError(f"model.name {name}: {error}") from error
    if model.has_changed:
        warn(f"{name}: batch norm now uses the statistics of the batch at hand")
    return SupervisedLearner(
        config,
        source,
        task,
        outer,
        TaskMap(chunk_size, threads, compiles(config), processes),
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


def _model_module(config: SupervisedExperiment, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The network for inputs [S, *shape], our own or a user's, unchecked."""
    name, wider = config.model.name, wider_shape(shape, config.inner)
    seed = torch_seed(config.seed, Purpose.PARAMETERS)
    if name in MODELS:
        try:
            module = make_model(config.model, wider, outputs, seed)
        except ValueError as error:
            raise UserError(f"model.name {name}: {error}") from error
    else:
        make = find("model.name", name, dict.fromkeys(MODELS), function_of("shape", "outputs"))
        module = make_module("model.name", name, seed, make, wider, outputs)
    return with_context(module, config.inner)


def _make_model(
    config: SupervisedExperiment, shape: tuple[int, ...], outputs: int
) -> tuple[Functional, Params]:
    """The network for inputs [S, *shape], checked, and its initial parameters."""
    name, module = config.model.name, _model_module(config, shape, outputs)
    try:
        model, own = functional("model.name", name, module), parameters_of(module)
        if name not in MODELS:
            require_outputs(partial(model, own), shape, outputs)
    except ValueError as error:
        raise UserError(f"model.name {name}: {error}") from error
    return model, own
