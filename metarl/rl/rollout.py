"""Trajectories as they were sampled, and the batches that losses see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from metarl.core.params import tree_map
from metarl.core.task_map import TaskMap
from metarl.rl import baselines
from metarl.rl.distributions import Gaussian
from metarl.rl.losses import Batch
from metarl.rl.returns import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    standardize,
)

BUCKETS = 8  # sizes of the batches of families whose episodes end early, once programs are compiled


class Trajectories(NamedTuple):
    """N trajectories of each of M tasks, padded to the horizon T.

    Termination is ``discount == 0``; ``mask`` alone says which entries are env steps.
    """

    observations: Tensor  # [M, N, T, O]
    actions: Tensor  # [M, N, T, A]
    sampling: Gaussian  # [M, N, T, A], the distribution that the actions were drawn from
    log_probs: Tensor  # [M, N, T], of the actions, while sampling
    rewards: Tensor  # [M, N, T], 0 in the padding
    discounts: Tensor  # [M, N, T], 0 where the env step terminated the episode; 1 for others
    mask: Tensor  # [M, N, T], 1 for env steps; 0 for padding and for diverged episodes
    final_observations: Tensor  # [M, N, O], after the last env step
    diverged: Tensor  # [M, N], 1 where the simulation broke; nothing is learnt from such an episode

    @property
    def returns(self) -> Tensor:
        """Undiscounted returns, [M, N]; NaN for diverged episodes."""
        return self.rewards.sum(-1).masked_fill(self.diverged.bool(), torch.nan)

    @property
    def lengths(self) -> Tensor:
        """Env steps per episode, [M, N]."""
        return self.mask.sum(-1)


@dataclass(frozen=True)
class AdvantageConfig:
    """How returns become advantages.

    Args:
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
        bootstrap: an episode that the horizon cut off goes on with the baseline's value of its
            last state, and the baseline does not know the time; the papers do neither.
        baseline_ridge: ridge coefficient of the linear feature baseline.
    """

    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[float, Interval(ge=0, le=1)] = 1.0
    bootstrap: bool = False
    baseline_ridge: Annotated[float, Gt(0)] = 1e-5


def make_batch(
    trajectories: Trajectories, config: AdvantageConfig, task_map: TaskMap
) -> tuple[Batch, Tensor]:
    """Fit the baseline of every task once and turn returns into standardised advantages.

    Returns:
        The batch of all tasks, and the explained variance of the baseline, [M].
    """
    mask, discounts = trajectories.mask, config.discount * trajectories.discounts
    rewards, targets = trajectories.rewards, discounted_returns(trajectories.rewards, discounts)
    at_end = torch.arange(mask.shape[-1], device=mask.device) == trajectories.lengths[..., None] - 1
    # discount of the value that follows the last env step: there, and as seen from every env step
    cut_off = at_end * discounts * config.bootstrap
    tails = discounted_returns(cut_off, discounts)

    def values_of_task(task: tuple[Trajectories, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return fitted_values(*task, config)

    values, final_values = task_map.map(values_of_task, (trajectories, targets, tails))
    following = torch.nn.functional.pad(values, (0, 1))
    advantages = generalized_advantages(
        rewards + cut_off * final_values[..., None], discounts, following, config.gae_lambda
    )
    batch = Batch(
        trajectories.observations,
        trajectories.actions,
        torch.func.vmap(standardize)(advantages, mask),
        trajectories.sampling,
        trajectories.log_probs,
        mask,
    )
    return pack(batch), torch.func.vmap(explained_variance)(values, targets, mask)


def pack(batch: Batch) -> Batch:
    """Move the valid ones of a batch's [M, N, T] env steps to the front and cut the rest off."""
    flat = tree_map(lambda x: x.flatten(1, 2), batch)
    size = int(flat.mask.sum(1).max())
    if size == flat.mask.shape[1]:
        return flat
    order = torch.argsort(flat.mask, dim=1, descending=True, stable=True)[:, : max(size, 1)]
    task = torch.arange(len(order), device=order.device)[:, None]
    return tree_map(lambda x: x[task, order], flat)


def pad_to_bucket(batches: Sequence[Batch], max_env_steps: int) -> list[Batch]:
    """The batches [M, S] padded to one size, of ``BUCKETS`` that it can have: a program is compiled
    for each.

    Args:
        max_env_steps: N T, the largest S.
    """
    step = math.ceil(max_env_steps / BUCKETS)
    longest = max(batch.mask.shape[1] for batch in batches)
    size = min(max_env_steps, step * math.ceil(longest / step))

    def pad(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (*[0, 0] * (x.dim() - 2), 0, size - x.shape[1]))

    return [tree_map(pad, b) if b.mask.shape[1] < size else b for b in batches]


def fitted_values(
    task: Trajectories, targets: Tensor, tails: Tensor, config: AdvantageConfig
) -> tuple[Tensor, Tensor]:
    """Baseline values of one task's states, [N, T] (0 in the padding), and final states, [N].

    The value w'x solves w'x_t = R_t + tail_t w'x_T in the least-squares sense, where R_t is the
    return within the horizon and x_T the final state: plain regression where tail_t is 0.

    Args:
        targets: R_t, [N, T].
        tails: discount from t to the end of an episode that goes on beyond it, else 0, [N, T].
    """
    steps = torch.arange(task.mask.shape[-1], device=task.mask.device)
    known = 0.0 if config.bootstrap else 1.0  # with a value that goes on there is no time to go
    x = baselines.features(task.observations, known * steps)
    final = baselines.features(task.final_observations, known * task.lengths)
    rows = x - tails[..., None] * final[:, None]
    weights = baselines.fit(rows, targets, task.mask, config.baseline_ridge)
    return (x @ weights).to(targets.dtype) * task.mask, (final @ weights).to(targets.dtype)
