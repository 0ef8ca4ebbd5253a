"""Checks of sizes before anything is allocated: an experiment's memory, a checkpoint's shapes.

The count is a lower bound: nothing is refused that would have fitted.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from metarl.core.algorithms import ALGORITHMS
from metarl.experiment.schema import RLExperiment, SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.runtime.memory import memory

Shapes = Mapping[str, Sequence[int]]
"""Shapes of parameters by name."""

NUMBER = 4  # bytes
GIGABYTE = 1e9


def shapes_of(make: Callable[[], nn.Module]) -> Shapes:
    """Return the shapes of a network of ours, without its numbers."""
    with torch.device("meta"):
        return {name: [*p.shape] for name, p in make().named_parameters()}


def require_same_shapes(shapes: Shapes, reference: Shapes) -> None:
    """Raise UserError where a checkpoint's parameters are not those of the run's network."""
    for name in {**reference, **shapes}:
        if (one := shapes.get(name)) != (other := reference.get(name)):
            raise UserError(
                f"the checkpoint does not fit this run: {name} has shape {one}, not {other}"
            )


def require_room_for_policies(
    config: RLExperiment,
    horizon: int,
    observation: Sequence[int],
    action: Sequence[int],
    shapes: Shapes,
    processes: int,
) -> None:
    """Raise UserError where the trajectories of a process would not fit in memory.

    Args:
        config: settings of the run.
        horizon: T.
        observation, action: shapes of one.
        shapes: of the policy's parameters; empty where they are unknown.
        processes: number of processes that share the tasks.
    """
    # Actions, the mean and the spread of their distribution; four more numbers an env step.
    numbers = math.prod(observation) + 3 * math.prod(action) + 4
    parameters = _require_parameters(shapes)
    evaluation = config.evaluation
    for where, tasks, trajectories, steps in (
        ("", config.tasks, config.trajectories, config.inner.steps),
        (
            "evaluation.",
            evaluation.tasks,
            evaluation.trajectories or config.trajectories,
            evaluation.inner_steps,
        ),
    ):
        of_task = trajectories * horizon * numbers + parameters
        _require_room(
            tasks // processes * (steps + 1) * of_task,
            f"{where}tasks {tasks} with {trajectories} trajectories of {horizon} env steps, before "
            f"and after {steps} inner steps, and {parameters:,} parameters,",
        )


def require_room_for_models(
    config: SupervisedExperiment, inputs: Sequence[int], outputs: int, shapes: Shapes, ways: int
) -> None:
    """Raise UserError where a process's tasks would not fit in memory, or its inner loop.

    Args:
        config: settings of the run.
        inputs: shape of an input.
        outputs: numbers of an output.
        shapes: of the model's parameters; empty where they are unknown.
        ways: classes of a task; 1 for regression.
    """
    parameters = _require_parameters(shapes)
    algorithm, evaluation = ALGORITHMS[config.inner.algorithm], config.evaluation
    is_kept = not (algorithm.first_order or algorithm.implicit)  # every phi, for its derivative
    queries = evaluation.queries or config.queries
    for where, tasks, examples, per_step in (
        ("", config.tasks, config.shots + config.queries, parameters * is_kept),
        ("evaluation.", evaluation.tasks, config.shots + queries, ways * queries * outputs),
    ):
        steps = evaluation.inner_steps if where else config.inner.steps
        at_once = min(tasks, config.chunk_size or tasks) if not where else tasks
        _require_room(
            tasks * examples * ways * math.prod(inputs) + at_once * steps * per_step,
            f"{where}tasks {tasks} with {examples} examples and {steps} inner steps",
        )


def _require_parameters(shapes: Shapes) -> int:
    """Return the number of parameters.

    Raises:
        UserError: they and their gradient would not fit in memory.
    """
    parameters = sum(map(math.prod, shapes.values()))
    _require_room(2 * parameters, f"{parameters:,} parameters and their gradient")
    return parameters


def _require_room(numbers: int, what: str) -> None:
    need, there = NUMBER * numbers / GIGABYTE, memory() / GIGABYTE
    if need > there:
        raise UserError(f"{what} need {need:,.1f} GB of memory or more; there are {there:,.1f}")
