"""A learned critic: one network for all tasks, and a linear correction for each."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from metarl.core.networks import hidden_layers, initialise
from metarl.core.outer.adam import Adam, AdamState
from metarl.core.params import (
    Functional,
    Params,
    flatten,
    parameters_of,
    tree_map,
    unflatten,
)
from metarl.core.task_map import TaskMap
from metarl.rl.baselines import LinearFeatureBaseline, Regression, Values
from metarl.rl.returns import masked_mean, moments


class CriticState(NamedTuple):
    """The network's weights and the optimiser's state; every checkpoint has them."""

    weights: Tensor  # [P]
    adam: AdamState


class _Data(NamedTuple):
    """Inputs and targets of the network's regression, for M tasks."""

    inputs: Tensor  # [M, N, T, I], observations clipped to +-10 and t / 100
    finals: Tensor  # [M, N, I]
    targets: Tensor  # [M, N, T], with mean 0 and standard deviation 1 over all tasks
    tails: Tensor  # [M, N, T], see ``Regression``
    mask: Tensor  # [M, N, T]


@dataclass(frozen=True)
class Critic(LinearFeatureBaseline):
    """V(s, t) as the sum of a network for all tasks and a linear correction for each task.

    The network has two hidden layers. Adam fits it to the standardised returns of all tasks: a few
    gradient steps per round of sampling, from the last round's weights. The ``linear`` baseline is
    then fitted to the remaining errors, anew in every round.

    Args:
        width: units of each hidden layer.
        learning_rate: learning rate of Adam.
        steps: gradient steps per round of sampling, on all of its env steps.
    """

    width: Annotated[int, Gt(0)] = 32
    learning_rate: Annotated[float, Gt(0)] = 3e-3
    steps: Annotated[int, Ge(1)] = 5

    def init(self, observation_dim: int, seed: int) -> CriticState:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = flatten(parameters_of(_network(observation_dim + 1, self.width)))
        return CriticState(weights, self._adam.init(weights))

    def fit(self, state: CriticState, data: Regression, task_map: TaskMap) -> tuple[Values, Any]:
        network_data, mean, scale = _network_data(data, task_map)
        network, like = _functional(network_data.inputs.shape[-1], self.width)
        weights, adam = tree_map(lambda x: x.to(data.mask.device), state)
        for _ in range(self.steps):
            _, gradient = task_map.mean_and_grad(self.loss, unflatten(weights, like), network_data)
            weights, adam = self._adam.update(weights, flatten(gradient), adam)
        with torch.no_grad():
            params = unflatten(weights, like)
            values = (mean + scale * network(params, network_data.inputs)[..., 0]) * data.mask
            finals = mean + scale * network(params, network_data.finals)[..., 0]
        residual = data._replace(targets=data.targets - values + data.tails * finals[..., None])
        rest, _ = super().fit((), residual, task_map)
        total = Values(values + rest.values, finals + rest.final_values)
        return total, CriticState(weights, adam)

    def loss(self, params: Params, task: _Data) -> Tensor:
        """Return the mean squared error on one task, a scalar."""
        network, _ = _functional(task.inputs.shape[-1], self.width)
        values, finals = (network(params, x)[..., 0] for x in (task.inputs, task.finals))
        errors = values - task.tails * finals[..., None] - task.targets
        return masked_mean(errors.square(), task.mask)

    @property
    def _adam(self) -> Adam:
        return Adam(learning_rate=self.learning_rate)


@cache
def _functional(inputs: int, width: int) -> tuple[Functional, Params]:
    """Return the network as a function of its parameters, and parameters of its shapes."""
    network = _network(inputs, width)
    return Functional(network), parameters_of(network)


def _network(inputs: int, width: int) -> nn.Module:
    network = nn.Sequential(hidden_layers([inputs, width, width], "tanh"), nn.Linear(width, 1))
    initialise(network, torch.initial_seed())
    return network


def _network_data(data: Regression, task_map: TaskMap) -> tuple[_Data, Tensor, Tensor]:
    """Return the network's data, and mean and standard deviation of the targets of all tasks."""
    targets = data.targets.double()
    mean, variance = moments(targets, data.mask.double(), task_map.processes)
    scale = variance.clamp(min=1e-12).sqrt()
    # V = mean + scale v. The loss compares V_t - tail V_final with the target, and this difference
    # is scale (v_t - tail v_final) + (1 - tail) mean.
    standard_targets = (data.targets - (1 - data.tails) * mean) / scale
    return (
        _Data(
            _inputs(data.observations, data.times, leading=3),
            _inputs(data.final_observations, data.final_times, leading=2),
            standard_targets.to(data.mask.dtype) * data.mask,
            data.tails,
            data.mask,
        ),
        mean.to(data.mask.dtype),
        scale.to(data.mask.dtype),
    )


def _inputs(observations: Tensor, times: Tensor, leading: int) -> Tensor:
    """Return the network's inputs [..., I]: clipped observations, and t / 100."""
    vectors = observations.flatten(leading).clamp(-10, 10)
    return torch.cat([vectors, times.to(vectors)[..., None] / 100], dim=-1)
