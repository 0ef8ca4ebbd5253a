"""A trial of a user's own model: one meta-gradient of the kind that training takes."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metarl.core.params import flatten, tree_map
from metarl.core.task_map import TaskMap
from metarl.runtime.errors import first_line, warn
from metarl.supervised.objective import TaskObjective, objective_of
from metarl.supervised.task_data import Examples, TaskData

TASKS, EXAMPLES = 2, 3


def usable_chunk_size(
    task: TaskObjective, chunk_size: int, needs_kl: bool, input_shape: Sequence[int], outputs: int
) -> int:
    """Return the number of tasks at once that a model can be trained with; warn if it is one.

    Args:
        task: the loss and the score of one task.
        chunk_size: number of tasks that would be taken at once.
        needs_kl: whether the outer step asks for the KL.
        input_shape: of one input.
        outputs: number of the model's outputs.

    Raises:
        ValueError: the model has no second derivative where one is needed, or fails.
    """
    episodes = _episodes(task, input_shape, outputs)

    def fault(task: TaskObjective, size: int) -> str:
        try:
            with warnings.catch_warnings(action="ignore"):  # of what is slow under vmap
                _meta_gradient(task, TaskMap(size), needs_kl, episodes)
        except Exception as error:  # whatever a user's module does
            return first_line(error)
        return ""

    reason = fault(task, min(chunk_size, TASKS))
    if not reason:
        return chunk_size
    alone = fault(task, 1)
    if not alone:
        warn(f"tasks are taken one at a time, which is slower: {reason}")
        return 1
    algorithm = replace(task.inner.algorithm, first_order=True, implicit=False)
    if not fault(replace(task, inner=replace(task.inner, algorithm=algorithm)), 1):
        raise ValueError(
            f"it has no second derivative ({alone}), which {task.inner.config.algorithm} takes; "
            "first-order MAML does not: --inner.algorithm fomaml"
        )
    raise ValueError(f"the model fails on inputs {[*input_shape]}: {alone}")


def _meta_gradient(
    task: TaskObjective, task_map: TaskMap, needs_kl: bool, episodes: TaskData
) -> None:
    theta = flatten(task.like)
    objective = objective_of(task, task_map, theta, episodes, needs_kl, iteration=0)
    objective.loss_gradient(theta)
    if needs_kl:
        objective.kl_gradient(theta)
    task_map.map(lambda one: task.judge(theta, one, task.inner.config.alphas), episodes)


def _episodes(task: TaskObjective, input_shape: Sequence[int], outputs: int) -> TaskData:
    """Small tasks of random inputs; their targets are 0."""
    generator = torch.Generator().manual_seed(0)

    def examples() -> Examples:
        inputs = torch.rand(TASKS, EXAMPLES, *input_shape, generator=generator)
        targets: Tensor = torch.zeros(TASKS, EXAMPLES, outputs)
        if task.predictor.ways:
            targets = torch.zeros(TASKS, EXAMPLES, dtype=torch.int64)
        return Examples(inputs, targets)

    return tree_map(lambda x: x.to(task.predictor.device), TaskData(examples(), examples()))
