"""Trajectories as they were sampled, and the batches that losses see."""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

from metarl.core.outer.step import State
from metarl.core.params import tree_map
from metarl.core.task_map import TaskMap
from metarl.rl.baselines import Baseline, Regression
from metarl.rl.distributions import Distribution
from metarl.rl.losses import Transitions
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
    actions: Tensor  # [M, N, T, *action_shape]
    sampling: Distribution  # [M, N, T, ...], the distributions that the actions were drawn from
    log_probs: Tensor  # [M, N, T], of the actions, while sampling
    rewards: Tensor  # [M, N, T], 0 in the padding
    discounts: Tensor  # [M, N, T], 0 where the env step terminated the episode; 1 for others
    mask: Tensor  # [M, N, T], 1 for env steps; 0 for padding and for diverged episodes
    final_observations: Tensor  # [M, N, O], after the last env step
    diverged: Tensor  # [M, N], 1 where the simulation broke; nothing is learnt from such an episode
    success: Tensor  # [M, N], 1 where an env step solved the task, 0; NaN where that is not defined

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
    """How rewards become advantages.

    Args:
        discount: discount factor gamma.
        gae_lambda: lambda of generalised advantage estimation.
        bootstrap: value states after the horizon by the baseline, which then does not see the time;
            the papers do neither.
    """

    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[float, Interval(ge=0, le=1)] = 1.0
    bootstrap: bool = False


def make_batch(
    trajectories: Trajectories,
    config: AdvantageConfig,
    baseline: Baseline,
    state: State,
    task_map: TaskMap,
) -> tuple[Transitions, Tensor, State]:
    """Fit the baseline once and turn returns into standardised advantages.

    Args:
        state: of the baseline.

    Returns:
        The batch of all tasks, the explained variance of the baseline, [M], and its new state.
    """
    mask, discounts = trajectories.mask, config.discount * trajectories.discounts
    rewards, targets = trajectories.rewards, discounted_returns(trajectories.rewards, discounts)
    steps = torch.arange(mask.shape[-1], device=mask.device)
    at_end = steps == trajectories.lengths[..., None] - 1
    # discount of the value that follows the last env step: there, and as seen from every env step
    cut_off = at_end * discounts * config.bootstrap
    time_weight = 0.0 if config.bootstrap else 1.0  # a bootstrapped value needs no time left
    data = Regression(
        trajectories.observations,
        (time_weight * steps).expand(mask.shape),
        mask,
        targets,
        discounted_returns(cut_off, discounts),
        trajectories.final_observations,
        time_weight * trajectories.lengths,
    )
    (values, final_values), state = baseline.fit(state, data, task_map)
    following = torch.nn.functional.pad(values, (0, 1))
    advantages = generalized_advantages(
        rewards + cut_off * final_values[..., None], discounts, following, config.gae_lambda
    )
    numbers = torch.arange(mask.shape[1], device=mask.device)[:, None]
    batch = Transitions(
        trajectories.observations,
        trajectories.actions,
        torch.func.vmap(standardize)(advantages, mask),
        trajectories.sampling,
        trajectories.log_probs,
        mask,
        steps.expand(mask.shape).masked_fill(mask == 0, 0),
        numbers.expand(mask.shape).masked_fill(mask == 0, 0),
        rewards,
        discounts * mask,
    )
    explained_variances = torch.func.vmap(explained_variance)(values, targets, mask)
    # The longest task of all processes: a sum's last bit depends on the size of its array.
    longest = int(task_map.processes.gather(mask.sum((1, 2))[:, None]).max())
    return pack(batch, BUCKETS if task_map.compiled else None, longest), explained_variances, state


def pack(batch: Transitions, buckets: int | None = None, longest: int = 0) -> Transitions:
    """Move the valid ones of a batch's [M, N, T] env steps to the front and cut the rest off.

    Args:
        buckets: number of different sizes to cut to; a program is compiled for each.
        longest: keep at least this number of env steps per task.
    """
    flat = tree_map(lambda x: x.flatten(1, 2), batch)
    size, full = max(int(flat.mask.sum(1).max()), longest), flat.mask.shape[1]
    if size == full:
        return flat
    order = torch.argsort(flat.mask, dim=1, descending=True, stable=True)[:, : max(size, 1)]
    task = torch.arange(len(order), device=order.device)[:, None]
    env_steps = tree_map(lambda x: x[task, order], flat)
    if buckets is None:
        return env_steps
    step = math.ceil(full / buckets)
    return pad_to_size(env_steps, min(full, step * math.ceil(max(size, 1) / step)))


def pad_to_size(batch: Transitions, size: int) -> Transitions:
    """A batch [M, S] with zeros up to S = ``size``."""

    def pad(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (*[0, 0] * (x.dim() - 2), 0, size - x.shape[1]))

    return tree_map(pad, batch) if batch.mask.shape[1] < size else batch
