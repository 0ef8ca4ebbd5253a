"""The objective of meta-reinforcement-learning: the surrogate loss and the KL that bounds it."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.core.inner_loop import InnerLoop
from metarl.core.outer.step import Objective
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.processes import Processes
from metarl.core.task_map import TaskMap
from metarl.rl.losses import Policy, Transitions, mean_kl, ratio_of, surrogate_and_kl
from metarl.rl.returns import masked_mean, moments
from metarl.rl.rollout import pad_to_size

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class TaskBatches(NamedTuple):
    """The data of one task; of all tasks with M in front."""

    support: tuple[Transitions, ...]  # one per inner step
    query: Transitions
    credit: Tensor  # [], see ``credits``


class AdaptedTask(NamedTuple):
    """One task after adaptation, the argument of an outer step's own loss."""

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
        exploration: factor on E-MAML's term, see ``exploration_loss``.
    """

    def __init__(
        self, policy: Policy, inner: InnerLoop, task_map: TaskMap, exploration: float = 0.0
    ):
        self._policy = policy
        self._inner = inner
        self._task_map = task_map
        self._exploration = exploration

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
            *support, query = (pad_to_size(batch, size) for batch in [*support, query])
        data = TaskBatches(tuple(support), query, credits(query, task_map.processes))

        @cache
        def curvature_data(fraction: float) -> TaskBatches:
            return data._replace(query=for_curvature(query, fraction))

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
        theta, _ = self._inner.split(meta, [])
        phi = self._inner.adapt(meta, task.support)
        values = loss(AdaptedTask(self._policy, theta, phi, task.support, task.query))
        return self._with_exploration(values.reshape(-1), meta, task)

    def surrogate_and_kl(self, meta: Params, task: TaskBatches) -> Tensor:
        """Return one task's surrogate and KL of the adapted policy on query trajectories, [2]."""
        phi = self._inner.adapt(meta, task.support)
        values = surrogate_and_kl(self._policy, phi, task.query)
        return self._with_exploration(values, meta, task)

    def _with_exploration(self, values: Tensor, meta: Params, task: TaskBatches) -> Tensor:
        """Add E-MAML's term to the first of some values [K]."""
        if not self._exploration or not task.support:
            return values
        theta, _ = self._inner.split(meta, [])
        term = self._exploration * exploration_loss(self._policy, theta, task)
        return torch.cat([values[:1] + term, values[1:]])

    def kl(self, meta: Params, task: TaskBatches, hessian_epsilon: float | None = None) -> Tensor:
        """Return one task's KL alone, a scalar; ``hessian_epsilon``: see ``InnerLoop.adapt``."""
        phi = self._inner.adapt(meta, task.support, hessian_epsilon)
        return mean_kl(self._policy, phi, task.query)


def exploration_loss(policy: Policy, theta: Params, task: TaskBatches) -> Tensor:
    """Return E-MAML's term of one task: -c mean(pi_theta / pi_sampling - 1) over support data.

    It credits the actions before adaptation with the task's mean reward after adaptation, c
    (Stadie et al. 2018, equation 8). theta's own policy sampled the first support data, which the
    term takes. The ratio has the gradient of its logarithm at theta; unlike the logarithm, it does
    not fall without limit in a line search.
    """
    support = task.support[0]
    ratio = ratio_of(policy(theta, support.observations), support)
    return -task.credit * masked_mean(ratio - 1, support.mask)


def credits(query: Transitions, processes: Processes) -> Tensor:
    """Return every task's mean reward on its query data, [M].

    Rewards are standardised over the env steps of all tasks; within one task the mean would be 0.
    """
    mask, rewards = query.mask.double(), query.rewards.double()
    mean, variance = moments(rewards, mask, processes)
    per_task = (mask * rewards).sum(1) / mask.sum(1).clamp(min=1)
    return ((per_task - mean) / (variance.sqrt() + 1e-8)).to(query.mask.dtype)


def for_curvature(query: Transitions, fraction: float) -> Transitions:
    """Return the env steps that estimate the curvature: the share ``fraction`` of every task's.

    Each stretch of 1 / fraction env steps gives one, at a position that changes from stretch to
    stretch: evenly spaced env steps would be at the same times of every trajectory.
    """
    if fraction == 1:
        return query
    end = query.mask.shape[1]
    j = torch.arange(math.ceil(fraction * end), dtype=torch.float64, device=query.mask.device)
    positions = ((j + j * GOLDEN_RATIO % 1) / fraction).long()
    # An index beyond the end is dropped: the last one would depend on other tasks and on padding.
    positions = positions[positions < end]
    return tree_map(lambda x: x[:, positions], query)
