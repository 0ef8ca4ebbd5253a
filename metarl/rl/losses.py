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
    ratio = ratio_of(policy(params, batch.observations), batch)
    return -masked_mean(ratio * batch.advantages, batch.mask)


def loaded_dice_loss(
    policy: Policy, params: Params, batch: Transitions, decay: float = 0.95
) -> Tensor:
    """Loaded DiCE (Farquhar et al. 2019, equation 14), the mean over env steps.

    With d_t = log pi(a_t|s_t) - log pi_sampling(a_t|s_t), along every trajectory:

        v_t = decay w_{t-1},  w_t = v_t + d_t,  loss = -mean (exp(w_t) - exp(v_t)) A_t

    The gradient at the sampling policy is that of ``reinforce_loss`` for every decay. The second
    derivative is unbiased with decay 1, which is DiCE (Foerster et al. 2018), and that of
    ``lvc_loss`` with decay 0. Farther from the sampling policy the products of ratios explode, so
    it is for inner losses only.

    Args:
        decay: lambda, how much an action knows of those before it.
    """
    log_ratios = (
        policy(params, batch.observations).log_prob(batch.actions) - batch.log_probs
    ) * batch.mask
    goes_on = (batch.times > 0).to(log_ratios)
    w = discounted_sums(log_ratios, decay * goes_on)
    gain = torch.exp(w) - torch.exp(w - log_ratios)
    return -masked_mean(gain * batch.advantages, batch.mask)


def discounted_sums(x: Tensor, factors: Tensor) -> Tensor:
    """Return y_t = factors_t y_{t-1} + x_t along the last axis, in log2(S) steps.

    Args:
        x: [..., S].
        factors: [..., S]; the first one of a sequence does not matter.
    """
    shift = 1
    while shift < x.shape[-1]:
        # x_t and factors_t summarise the last ``shift`` entries; join them with those before.
        x = x + factors * torch.nn.functional.pad(x[..., :-shift], (shift, 0))
        factors = factors * torch.nn.functional.pad(factors[..., :-shift], (shift, 0))
        shift *= 2
    return x


def dice_loss(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """DiCE (Foerster et al. 2018): ``loaded_dice_loss`` with decay 1."""
    return loaded_dice_loss(policy, params, batch, decay=1.0)


INNER_LOSSES: dict[str, Callable[[Policy, Params, Transitions], Tensor]] = {
    "reinforce": reinforce_loss,
    "lvc": lvc_loss,
    "dice": dice_loss,
    "loaded-dice": loaded_dice_loss,
}


def surrogate_and_kl(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """Outer objective and constraint of one task, [2] (Schulman et al. 2015, equation 14).

    -mean pi_phi / pi_sampling A  and  mean KL(pi_sampling || pi_phi), with the log-probabilities
    stored while sampling.
    """
    new = policy(params, batch.observations)
    ratio = ratio_of(new, batch)
    surrogate = -masked_mean(ratio * batch.advantages, batch.mask)
    return torch.stack([surrogate, masked_mean(batch.sampling.kl(new), batch.mask)])


def ratio_of(new: Distribution, batch: Transitions) -> Tensor:
    """Return pi(a|s) / pi_sampling(a|s), [S]; 1 in the padding, where it must not overflow."""
    return torch.exp((new.log_prob(batch.actions) - batch.log_probs) * batch.mask)


def mean_kl(policy: Policy, params: Params, batch: Transitions) -> Tensor:
    """mean KL(pi_sampling || pi_phi) of one task, a scalar in nats."""
    return masked_mean(batch.sampling.kl(policy(params, batch.observations)), batch.mask)
