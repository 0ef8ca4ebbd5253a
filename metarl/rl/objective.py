"""The objective of meta-reinforcement-learning: the surrogate loss and the KL that bounds it."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from metarl.core.inner_loop import InnerLoop
from metarl.core.outer.step import Objective
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.rl.losses import Policy, Transitions, mean_kl, surrogate_and_kl
from metarl.rl.rollout import padded

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2

TaskBatches: TypeAlias = tuple[Sequence[Transitions], Transitions]
"""Support data of every inner step and query data, of one task."""


class AdaptedTask(NamedTuple):
    """One task after adaptation, for losses of an outer step's own."""

    policy: Policy
    theta: Params
    phi: Params
    support: Sequence[Transitions]  # one per inner step
    query: Transitions


class OuterObjective:
    """Mean over tasks of the surrogate of phi(theta) on the query trajectories, and the mean
    KL(pi_sampling || pi_phi(theta)).

    Args:
        policy: the policy as a function of its parameters.
        inner: the inner loop of one task.
        task_map: evaluates per-task functions over the tasks of this process.
    """

    def __init__(self, policy: Policy, inner: InnerLoop, task_map: TaskMap):
        self._policy = policy
        self._inner = inner
        self._task_map = task_map

    def of(
        self, like: Params, support: Sequence[Transitions], query: Transitions, iteration: int = 0
    ) -> Objective:
        """Return the objective of one iteration's tasks.

        Args:
            like: meta-parameters, for their names and shapes.
        """
        task_map = self._task_map
        if task_map.compiled:  # one size, which a program is compiled for
            size = max(batch.mask.shape[1] for batch in [*support, query])
            *support, query = (padded(batch, size) for batch in [*support, query])
        of_support = tuple(support)
        data = (of_support, query)

        @cache
        def curvature_data(fraction: float) -> TaskBatches:
            return of_support, for_curvature(query, fraction)

        def loss_and_kl(theta: Tensor) -> Tensor:
            return task_map.mean(self.surrogate_and_kl, unflatten(theta, like), data)

        def loss_gradient(theta: Tensor) -> tuple[Tensor, Tensor]:
            at = unflatten(theta, like)
            values, gradient = task_map.mean_and_grad(self.surrogate_and_kl, at, data)
            return values, flatten(gradient)

        def kl_gradient(
            theta: Tensor, fraction: float = 1.0, hessian_epsilon: float | None = None
        ) -> Tensor:
            kl = partial(self.kl, hessian_epsilon=hessian_epsilon)
            at = unflatten(theta, like)
            return flatten(task_map.mean_and_grad(kl, at, curvature_data(fraction))[1])

        def kl_hvp(theta: Tensor, v: Tensor, fraction: float = 1.0) -> Tensor:
            at, along = unflatten(theta, like), unflatten(v, like)
            return flatten(task_map.hvp(self.kl, at, curvature_data(fraction), along))

        def gradient_of(
            loss: Callable[[AdaptedTask], Tensor], theta: Tensor
        ) -> tuple[Tensor, Tensor]:
            at = unflatten(theta, like)
            values, gradient = task_map.mean_and_grad(partial(self._own_loss, loss), at, data)
            return values, flatten(gradient)

        return Objective(
            loss_and_kl,
            loss_gradient,
            kl_gradient,
            kl_hvp,
            gradient_of,
            iteration,
            self._inner.algorithm.first_order,
        )

    def _own_loss(
        self, loss: Callable[[AdaptedTask], Tensor], meta: Params, task: TaskBatches
    ) -> Tensor:
        support, query = task
        theta, _ = self._inner.split(meta, [])
        phi = self._inner.adapt(meta, support)
        return loss(AdaptedTask(self._policy, theta, phi, support, query))

    def surrogate_and_kl(self, meta: Params, task: TaskBatches) -> Tensor:
        """Return one task's surrogate and KL of the adapted policy on query trajectories, [2]."""
        support, query = task
        return surrogate_and_kl(self._policy, self._inner.adapt(meta, support), query)

    def kl(self, meta: Params, task: TaskBatches, hessian_epsilon: float | None = None) -> Tensor:
        """Return one task's KL alone, a scalar; ``hessian_epsilon``: see ``InnerLoop.adapt``."""
        support, query = task
        return mean_kl(self._policy, self._inner.adapt(meta, support, hessian_epsilon), query)


def for_curvature(query: Transitions, fraction: float) -> Transitions:
    """Return the env steps of every task that the curvature is estimated from: one at a different
    place of every stretch, as equal distances would see the same moments of every trajectory.
    """
    if fraction == 1:
        return query
    end = query.mask.shape[1]
    j = torch.arange(math.ceil(fraction * end), dtype=torch.float64, device=query.mask.device)
    kept = ((j + j * GOLDEN_RATIO % 1) / fraction).long()
    # Not one where the batch happens to end: that depends on the other tasks, and on padding.
    kept = kept[kept < end]
    return tree_map(lambda x: x[:, kept], query)
