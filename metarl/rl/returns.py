"""Returns and advantages over the last axis T, for any leading axes; padding is masked out."""

import torch
from torch import Tensor

from metarl.core.processes import Processes


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` over the entries where ``mask`` is 1; 0 where there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def moments(x: Tensor, mask: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
    """Return mean and variance over the entries of all processes where ``mask`` is 1, each []."""
    sums = mask.sum(), (mask * x).sum(), (mask * x.square()).sum()
    count, total, squares = processes.sum(sums)
    mean = total / count.clamp(min=1)
    return mean, (squares / count.clamp(min=1) - mean.square()).clamp(min=0)


def standardize(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """``x`` of one task with mean 0 and standard deviation 1 over ``mask``; 0 elsewhere."""
    return (x - masked_mean(x, mask)) * mask / (variance(x, mask).sqrt() + epsilon)


def discounted_returns(rewards: Tensor, discounts: Tensor) -> Tensor:
    """R_t = r_t + discount_t R_{t+1}.

    Args:
        rewards: [..., T], 0 in the padding.
        discounts: [..., T], gamma, or 0 where the env step terminated the episode.
    """
    result = torch.empty_like(rewards)
    following = torch.zeros_like(rewards[..., 0])
    for t in reversed(range(rewards.shape[-1])):
        following = rewards[..., t] + discounts[..., t] * following
        result[..., t] = following
    return result


def generalized_advantages(
    rewards: Tensor, discounts: Tensor, values: Tensor, lambda_: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16).

    delta_t = r_t + discount_t V_{t+1} - V_t;  A_t = delta_t + discount_t lambda A_{t+1}

    Args:
        rewards: [..., T], 0 in the padding.
        discounts: [..., T], gamma, or 0 where the env step terminated the episode.
        values: [..., T + 1], 0 in the padding.
        lambda_: in [0, 1].
    """
    deltas = rewards + discounts * values[..., 1:] - values[..., :-1]
    return discounted_returns(deltas, discounts * lambda_)


def explained_variance(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(target - prediction) / Var(target) over ``mask``; 1 is perfect, 0 is the mean."""
    return 1 - variance(target - prediction, mask) / variance(target, mask).clamp(min=1e-12)


def variance(x: Tensor, mask: Tensor) -> Tensor:
    """Variance of ``x`` over the entries where ``mask`` is 1."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)
