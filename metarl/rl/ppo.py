"""PPO and ProMP as outer steps: several epochs of Adam on one batch of trajectories."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from metarl.core.outer.adam import Adam, AdamState
from metarl.core.outer.schedule import Number
from metarl.core.outer.step import Objective, Stats
from metarl.rl.losses import mean_kl, ratio_of
from metarl.rl.objective import AdaptedTask
from metarl.rl.returns import masked_mean


@dataclass(frozen=True)
class PPO(Adam):
    """Epochs of Adam on the clipped surrogate of the adapted policies (Schulman et al. 2017).

    There is no trust region and no line search: watch ``outer/kl`` and ``outer/clipped``.

    Args:
        epochs: gradient steps on the trajectories of an iteration.
        clip: probability ratios are clipped to [1 - clip, 1 + clip].
    """

    epochs: Annotated[int, Ge(1)] = 5
    clip: Annotated[float, Gt(0)] = 0.3

    is_traceable: ClassVar[bool] = False
    of_policies: ClassVar[bool] = True

    def step(
        self, objective: Objective, theta: Tensor, state: AdamState
    ) -> tuple[Tensor, AdamState, Stats]:
        """Take ``epochs`` gradient steps on the same data."""
        assert objective.gradient_of is not None
        norms = []
        for _ in range(self.epochs):
            values, gradient = objective.gradient_of(self.loss, theta)
            norms.append(torch.linalg.vector_norm(gradient))
            theta, state = self.update(theta, self.clip_gradient(gradient), state)
        loss, kl = objective.loss_and_kl(theta)
        return (
            theta,
            state,
            {
                "gradient_norm": norms[0],
                "loss_before": 0.0,  # ratios are 1, and advantages have the mean 0
                "loss_after": loss,
                "kl": kl,
                # At the theta that the last epoch began with.
                "clipped": values[1],
                "support_kl": values[2],
            },
        )

    def factor(self, updates: Number) -> Number | float:
        """Return the schedule's factor in the iteration after ``updates`` updates."""
        return super().factor(updates // self.epochs)

    def loss(self, task: AdaptedTask) -> Tensor:
        """Return one task's loss, the share of clipped env steps, and the support KL, [3].

        loss = -mean min(r A, clip(r, 1 - clip, 1 + clip) A), r = pi_phi(a|s) / pi_sampling(a|s)
        """
        query = task.query
        ratio = ratio_of(task.policy(task.phi, query.observations), query)
        low, high = 1 - self.clip, 1 + self.clip
        gain = torch.minimum(ratio * query.advantages, ratio.clamp(low, high) * query.advantages)
        outside = ((ratio < low) | (ratio > high)).to(gain)
        support_kl = self.support_kl(task)
        return torch.stack(
            [
                self.penalty * support_kl - masked_mean(gain, query.mask),
                masked_mean(outside, query.mask),
                support_kl,
            ]
        )

    @property
    def penalty(self) -> float:
        """Factor on the support KL in the loss."""
        return 0.0

    def support_kl(self, task: AdaptedTask) -> Tensor:
        """Return the mean KL(pi_sampling || pi_theta) on the first support data, a scalar.

        The policy of theta before the first epoch sampled them. Without inner steps there are no
        support data, and the KL is 0.
        """
        if not task.support:
            return task.query.mask.new_zeros(())
        return mean_kl(task.policy, task.theta, task.support[0])


@dataclass(frozen=True)
class ProMP(PPO):
    """Proximal meta-policy search (Rothfuss et al. 2019, algorithm 1).

    The loss is PPO's plus a penalty on the support KL: clipped ratios on the query data do not
    keep theta's own policy near the one that sampled the support data. Use ``inner.loss`` lvc.

    Args:
        kl_penalty: factor on the support KL, eta of the paper.
    """

    kl_penalty: Annotated[float, Ge(0)] = 5e-4

    @property
    def penalty(self) -> float:
        return self.kl_penalty
