"""Trajectories as they were sampled, and the batches that losses see."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from metarl.core.outer import TaskMap
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
    trajectories: Trajectories, config: AdvantageConfig, task_map: TaskMap
) -> tuple[Batch, Tensor]:
    """Fit the baseline of every task once and turn returns into standardised advantages.

    Returns:
        The batch of all tasks, and the explained variance of the baseline, [M].
    """
    mask, discounts = trajectories.mask, config.discount * trajectories.discounts
    rewards = trajectories.rewards
    targets = discounted_returns(rewards, discounts)

    def values_of_task(task: tuple[Trajectories, Tensor]) -> tuple[Tensor, Tensor]:
        return fitted_values(*task, config.baseline_ridge)

    values, final_values = task_map.map(values_of_task, (trajectories, targets))
    if config.bootstrap:
        steps = torch.arange(mask.shape[-1], device=mask.device)
        at_end = steps == trajectories.lengths[..., None] - 1
        rewards = rewards + at_end * discounts * final_values[..., None]
    following = torch.nn.functional.pad(values, (0, 1))
    advantages = generalized_advantages(rewards, discounts, following, config.gae_lambda)
    batch = Batch(
        trajectories.observations,
        trajectories.actions,
        torch.func.vmap(standardize)(advantages, mask),
        trajectories.sampling,
        trajectories.log_probs,
        mask,
    )
    return batch, torch.func.vmap(explained_variance)(values, targets, mask)


def fitted_values(task: Trajectories, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Baseline values of one task's states, [N, T] (0 in the padding), and final states, [N]."""
    steps = torch.arange(task.mask.shape[-1], device=task.mask.device)
    x = baseline.features(task.observations, steps)
    weights = baseline.fit(x, targets, task.mask, ridge)
    final = baseline.features(task.final_observations, task.lengths) @ weights
    return (x @ weights).to(targets.dtype) * task.mask, final.to(targets.dtype)


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
