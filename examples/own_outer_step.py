"""An outer step of one's own: gradient descent with momentum, on point navigation."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

import metarl
from metarl.core.outer.step import OuterStep


class Momentum(NamedTuple):
    """The state between iterations; every checkpoint has it."""

    velocity: torch.Tensor  # [P], like theta


@dataclass(frozen=True)
class HeavyBall(OuterStep):
    """theta <- theta + v, where v <- decay v - rate g for the meta-gradient g (Polyak 1964).

    Args:
        rate: factor on the meta-gradient.
        decay: share of the last step that goes on.
    """

    rate: float = 0.05
    decay: float = 0.9

    def init(self, theta):
        return Momentum(torch.zeros_like(theta))

    def step(self, objective, theta, state):
        (loss, *_), gradient = objective.loss_gradient(theta)
        velocity = self.decay * state.velocity - self.rate * gradient
        return theta + velocity, Momentum(velocity), {"loss_before": loss}


def main(**settings):
    return metarl.train("point_navigation", {"outer": {"name": HeavyBall}}, settings)


if __name__ == "__main__":
    main()
