"""The outer step of supervised meta-learning: Adam (Kingma and Ba 2015)."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Interval
from torch import Tensor


@dataclass(frozen=True)
class AdamConfig:
    """Settings of Adam.

    Args:
        learning_rate: outer rate beta.
        beta1: decay of the mean of gradients; 0 for plain scaled gradients (Reptile's choice).
        beta2: decay of the mean of squared gradients.
        epsilon: added to its root.
        average_decay: decay of the moving average of theta that is evaluated; 0: theta itself.
    """

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Gt(0)] = 1e-8
    average_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0


class AdamState(NamedTuple):
    """What Adam remembers, and the average of what it did."""

    mean: Tensor  # [P], of gradients
    square: Tensor  # [P], mean of their squares
    average: Tensor  # [P], of theta (Polyak and Juditsky 1992; here the latest count most)
    step: Tensor  # [], float64, updates done: a tensor, so that it is no constant of a program

    @classmethod
    def of(cls, theta: Tensor) -> "AdamState":
        """The state before the first update of ``theta`` [P]."""
        zeros = torch.zeros_like(theta)
        return cls(zeros, zeros, theta, torch.zeros((), dtype=torch.float64, device=theta.device))


def adam_step(
    theta: Tensor, gradient: Tensor, state: AdamState, config: AdamConfig
) -> tuple[Tensor, AdamState]:
    """One update of theta [P]: the new theta and state (Kingma and Ba 2015, algorithm 1), and with
    it the average of all theta since the first update, weighted as Adam weighs gradients.

    A pure function of one vector; ``torch.optim.Adam`` owns its parameters and, on a network of a
    few thousand weights, takes three times as long.
    """
    step = state.step + 1
    mean = torch.lerp(state.mean, gradient, 1 - config.beta1)
    square = torch.lerp(state.square, gradient.square(), 1 - config.beta2)
    rate = config.learning_rate / (1 - config.beta1**step)
    scale = (square / (1 - config.beta2**step)).sqrt() + config.epsilon
    theta = theta - rate * mean / scale
    weight = (1 - config.average_decay) / (1 - config.average_decay**step)
    average = torch.lerp(state.average, theta, weight.to(theta))
    return theta, AdamState(mean, square, average, step)
