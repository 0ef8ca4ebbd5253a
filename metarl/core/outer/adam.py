"""Adam as an outer step (Kingma and Ba 2015)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from metarl.core.outer.averages import moving_mean
from metarl.core.outer.schedule import ScheduledStep
from metarl.core.outer.step import Objective, Stats


class AdamState(NamedTuple):
    """The state of Adam, and the moving average of the parameters."""

    mean: Tensor  # [P], of gradients
    square: Tensor  # [P], mean of their squares
    average: Tensor  # [P], of theta (Polyak and Juditsky 1992; here the latest count most); or [0]
    step: Tensor  # [], float64, updates done: a tensor, so that it is no constant of a program


@dataclass(frozen=True)
class Adam(ScheduledStep):
    """Adam along the meta-gradient.

    Args:
        learning_rate: outer rate beta, before the schedule.
        beta1: decay of the mean of gradients; 0 for plain scaled gradients (Reptile's choice).
        beta2: decay of the mean of squared gradients.
        epsilon: added to the root of the mean of squares.
        average_decay: decay of the moving average of theta that is evaluated; 0: theta itself.
        clip_norm: longer meta-gradients are scaled to this norm; null: never.
    """

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Gt(0)] = 1e-8
    average_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Gt(0)] | None = None

    is_traceable: ClassVar[bool] = True

    def init(self, theta: Tensor) -> AdamState:
        zeros = torch.zeros_like(theta)
        average = theta if self.average_decay else theta[:0]
        step = torch.zeros((), dtype=torch.float64, device=theta.device)
        return AdamState(zeros, zeros, average, step)

    def step(
        self, objective: Objective, theta: Tensor, state: AdamState
    ) -> tuple[Tensor, AdamState, Stats]:
        _, gradient = objective.loss_gradient(theta)
        norm = torch.linalg.vector_norm(gradient)
        theta, state = self.update(theta, self.clip_gradient(gradient), state)
        return theta, state, {"gradient_norm": norm}

    def clip_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient [P], no longer than ``clip_norm``."""
        if self.clip_norm is None:
            return gradient
        factor: Tensor = self.clip_norm / torch.linalg.vector_norm(gradient)
        return gradient * factor.clamp(max=1.0)

    def update(self, theta: Tensor, gradient: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        """Return the new theta [P] and state (Kingma and Ba 2015, algorithm 1).

        The average is over all theta since the first update, weighted as Adam weighs gradients.

        A pure function of one vector; ``torch.optim.Adam`` owns its parameters and, on a network of
        a few thousand weights, takes three times as long.
        """
        step = state.step + 1
        mean = torch.lerp(state.mean, gradient, 1 - self.beta1)
        square = torch.lerp(state.square, gradient.square(), 1 - self.beta2)
        rate = self.learning_rate * self.factor(state.step) / (1 - self.beta1**step)
        scale = (square / (1 - self.beta2**step)).sqrt() + self.epsilon
        theta = theta - rate * mean / scale
        average = state.average
        if self.average_decay:
            average = moving_mean(average, theta, self.average_decay, step)
        return theta, AdamState(mean, square, average, step)

    def evaluated(self, theta: Tensor, state: AdamState) -> Tensor:
        return state.average if self.average_decay else theta
