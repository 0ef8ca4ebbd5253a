"""Inner and outer losses of ONE task.

Every mean is over the task's valid env steps; log-probabilities and KL are summed over actions.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from metarl.core.params import Params
from metarl.rl.distributions import Distribution
from metarl.rl.returns import masked_mean

Policy: TypeAlias = Callable[[Params, Tensor], Distribution]
"""A policy as a function of its parameters and observations."""


class Transitions(NamedTuple):
    """S env steps of one task, in the order of its trajectories; of all tasks with M in front.

    S is the number of the task with the most: padding is left out, not carried along.
    """

    observations: Tensor  # [S, O]
    actions: Tensor  # [S, *action_shape]
    advantages: Tensor  # [S], standardised over the task's valid env steps
    sampling: Distribution  # [S, ...], the distributions that the actions were drawn from
    log_probs: Tensor  # [S], log-probabilities of the actions under them
    mask: Tensor  # [S], 1 for valid env steps, 0 for the rest of a task with fewer
    times: Tensor  # [S], env steps since the start of the episode
    episodes: Tensor  # [S], number of the trajectory, from 0
    rewards: Tensor  # [S]
    discounts: Tensor  # [S], gamma, or 0 where the env step terminated the episode


def reinforce_loss(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """Vanilla policy gradient: -mean log pi(a|s) A (Williams 1992)."""
    log_probs = policy(params, batch.observations).log_prob(batch.actions)
    return -masked_mean(log_probs * batch.advantages, batch.mask)


def lvc_loss(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """Low-variance curvature: -mean pi / pi_sampling A (Rothfuss et al. 2019, equation 9).

    Same gradient as ``reinforce_loss`` at the sampling policy; its derivative also sees that the
    data came from there. The denominator is the stored one and not stop(pi), so that the loss is a
    function of the parameters alone and finite differences of its gradient mean something.
    """
    ratio = _ratio(policy(params, batch.observations), batch)
    return -masked_mean(ratio * batch.advantages, batch.mask)


INNER_LOSSES: dict[str, Callable[[Policy, Params, Transitions], Tensor]] = {
    "reinforce": reinforce_loss,
    "lvc": lvc_loss,
}


def surrogate_and_kl(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """Outer objective and constraint of one task, [2] (Schulman et al. 2015, equation 14).

    -mean pi_phi / pi_sampling A  and  mean KL(pi_sampling || pi_phi), with the log-probabilities
    stored while sampling.
    """
    new = policy(params, batch.observations)
    ratio = _ratio(new, batch)
    surrogate = -masked_mean(ratio * batch.advantages, batch.mask)
    return torch.stack([surrogate, masked_mean(batch.sampling.kl(new), batch.mask)])


def _ratio(new: Distribution, batch: Transitions) -> Tensor:
    """pi(a|s) / pi_sampling(a|s), [S]; 1 in the padding, where it must not overflow."""
    return torch.exp((new.log_prob(batch.actions) - batch.log_probs) * batch.mask)


def mean_kl(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """mean KL(pi_sampling || pi_phi) of one task, a scalar in nats."""
    return masked_mean(batch.sampling.kl(policy(params, batch.observations)), batch.mask)
