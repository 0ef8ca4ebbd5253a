"""Baselines: values of states, which advantages are measured against."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor

from metarl.core.outer.step import State
from metarl.core.task_map import TaskMap


class Regression(NamedTuple):
    """The data that a baseline is fitted to: values of the states of M tasks.

    The value V of a state solves V(x_t) = target_t + tail_t V(x_final): plain regression on the
    returns within the horizon, unless an episode goes on beyond it.
    """

    observations: Tensor  # [M, N, T, O]
    times: Tensor  # [M, N, T], env steps since the start; 0 where the value must not know them
    mask: Tensor  # [M, N, T], 1 for env steps
    targets: Tensor  # [M, N, T], discounted returns within the horizon
    tails: Tensor  # [M, N, T], discount from t to the end of an episode that goes on, else 0
    final_observations: Tensor  # [M, N, O], after the last env step
    final_times: Tensor  # [M, N]


class Values(NamedTuple):
    """Values of states."""

    values: Tensor  # [M, N, T], 0 in the padding
    final_values: Tensor  # [M, N]


class Baseline(ABC):
    """A value function; subclasses are frozen dataclasses whose fields are its settings.

    It keeps nothing itself: all that it learns is in ``state``, which the learner saves in every
    checkpoint. Evaluations fit it too, and drop its new state.
    """

    def init(self, observation_dim: int, seed: int) -> State:
        """Return the state before the first iteration; by default there is none."""
        return ()

    @abstractmethod
    def fit(self, state: State, data: Regression, task_map: TaskMap) -> tuple[Values, State]:
        """Return the values of the states in ``data``, and the new state.

        Args:
            task_map: evaluates per-task functions; its means are over the tasks of all processes.
        """


@dataclass(frozen=True)
class LinearFeatureBaseline(Baseline):
    """Least squares on features of observation and time (Duan et al. 2016), one fit per task.

    Args:
        ridge: multiple of the identity added to the normal equations.
    """

    ridge: Annotated[float, Gt(0)] = 1e-5

    def fit(self, state: State, data: Regression, task_map: TaskMap) -> tuple[Values, State]:
        return Values(*task_map.map(self.values_of_task, data)), state

    def values_of_task(self, task: Any) -> tuple[Tensor, Tensor]:
        """Values of one task's states, [N, T], and final states, [N]."""
        x = features(task.observations.flatten(2), task.times)
        final = features(task.final_observations.flatten(1), task.final_times)
        rows = x - task.tails[..., None] * final[:, None]
        weights = fit(rows, task.targets, task.mask, self.ridge)
        values = (x @ weights).to(task.targets.dtype) * task.mask
        return values, (final @ weights).to(task.targets.dtype)


def features(observations: Tensor, steps: Tensor) -> Tensor:
    """Return (s, s^2, t/100, (t/100)^2, (t/100)^3, 1) with s clipped to +-10.

    Args:
        observations: [..., O].
        steps: t of each, broadcasts to [...].

    Returns:
        [..., 2 O + 4] in float64.
    """
    s = observations.double().clamp(-10, 10)
    t = (steps.double() / 100).expand(s.shape[:-1])[..., None]
    return torch.cat([s, s.square(), t, t**2, t**3, torch.ones_like(t)], dim=-1)


def fit(x: Tensor, targets: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Return ridge least squares w = (X'X + ridge I)^-1 X'y over the env steps where ``mask`` is 1.

    float64 throughout: in float32 the normal equations are singular.

    Args:
        x: features [N, T, F], float64.
        targets: [N, T].
        mask: [N, T].

    Returns:
        Coefficients [F], float64.
    """
    rows = (x * mask[..., None]).reshape(-1, x.shape[-1])
    gram = rows.T @ rows + ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(gram, rows.T @ (targets * mask).double().reshape(-1))
