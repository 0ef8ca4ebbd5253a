"""Trajectories as they were sampled, and the batches that losses see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from metarl.evaluation import half_width
from metarl.rl import baseline
from metarl.rl.distributions import Gaussian
from metarl.rl.losses import Batch
from metarl.rl.returns import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    standardize,
)


class Trajectories(NamedTuple):
    """N trajectories of each of M tasks, padded to the horizon T.

    Termination is ``discount == 0``; ``mask`` alone says which entries are env steps.
    """

    observations: Tensor  # [M, N, T, O]
    actions: Tensor  # [M, N, T, A]
    sampling: Gaussian  # [M, N, T, A], the distribution that the actions were drawn from
    log_probs: Tensor  # [M, N, T], of the actions, while sampling
    rewards: Tensor  # [M, N, T], 0 in the padding
    discounts: Tensor  # [M, N, T], 0 where the env step terminated the episode, else 1
    mask: Tensor  # [M, N, T], 1 for env steps, 0 for padding
    final_observations: Tensor  # [M, N, O], after the last env step
    diverged: Tensor  # [M, N], 1 where the simulation broke and cut the episode short

    @property
    def returns(self) -> Tensor:
        """Undiscounted returns, [M, N]."""
        return self.rewards.sum(-1)

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
        bootstrap: add the baseline's value of the state in which the horizon cut an episode off;
            the papers do not.
        baseline_ridge: ridge coefficient of the linear feature baseline.
    """

    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[float, Interval(ge=0, le=1)] = 1.0
    bootstrap: bool = False
    baseline_ridge: Annotated[float, Ge(0)] = 1e-5


def make_batch(
    trajectories: Trajectories,
    config: AdvantageConfig,
    map_tasks: Callable[[Callable[[Trajectories], Tensor], Trajectories], Tensor],
) -> tuple[Batch, Tensor]:
    """Fit the baseline of every task once and turn returns into standardised advantages.

    Args:
        map_tasks: evaluates a function of one task's trajectories for every task.

    Returns:
        The batch of all tasks, and the explained variance of the baseline, [M].
    """
    advantages = map_tasks(lambda task: _advantages(task, config), trajectories)
    batch = Batch(
        trajectories.observations,
        trajectories.actions,
        advantages[:, 0],
        trajectories.sampling,
        trajectories.log_probs,
        trajectories.mask,
    )
    return batch, advantages[:, 1, 0, 0]


def _advantages(task: Trajectories, config: AdvantageConfig) -> Tensor:
    """Advantages [N, T] of one task, stacked with the explained variance of its baseline."""
    mask, discounts = task.mask, config.discount * task.discounts
    x = baseline.features(task.observations)
    targets = discounted_returns(task.rewards, discounts)
    weights = baseline.fit(x, targets, mask, config.baseline_ridge)
    values = (x @ weights).to(mask.dtype) * mask
    rewards = task.rewards
    if config.bootstrap:
        rewards = rewards + _bootstrap(task, weights, discounts)
    following = torch.nn.functional.pad(values, (0, 1))
    advantages = generalized_advantages(rewards, discounts, following, config.gae_lambda)
    explained = explained_variance(values, targets, mask)
    return torch.stack([standardize(advantages, mask), explained.expand_as(mask)])


def _bootstrap(task: Trajectories, weights: Tensor, discounts: Tensor) -> Tensor:
    """discount * V(s_T) at the last env step of every episode that did not terminate, [N, T]."""
    horizon = task.mask.shape[-1]
    last = task.lengths.long() - 1  # -1: an episode without env steps
    padded = task.final_observations[:, None].expand(-1, horizon + 1, -1)
    values = (baseline.features(padded) @ weights).gather(1, last[:, None] + 1).to(discounts.dtype)
    at_end = torch.arange(horizon, device=last.device) == last[:, None]
    return at_end * discounts * values


def summarize(trajectories: Trajectories, suffix: str) -> dict[str, float]:
    """Undiscounted returns and episode lengths as metrics named ``.../{suffix}``.

    The standard deviation is over all trajectories, the 95 % interval (half-width, Student's t)
    over the means of the tasks.
    """
    returns = trajectories.returns.double().cpu()
    return {
        f"return/{suffix}": float(returns.mean()),
        f"return/{suffix}_std": float(returns.std(unbiased=False)),
        f"return/{suffix}_ci95": half_width(returns.mean(1).numpy()),
        f"length/{suffix}": float(trajectories.lengths.mean()),
    }
