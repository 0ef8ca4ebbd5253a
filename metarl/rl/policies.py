"""Policies: modules from observations [..., O] to a ``Distribution`` of actions.

A policy's maker is a function of the spaces of observations and actions, and of its settings.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt, MinLen
from gymnasium import spaces
from torch import Tensor, nn

from metarl.core.networks import hidden_layers, initialise
from metarl.rl.distributions import Gaussian


class GaussianMLP(nn.Module):
    """Fully connected mean, and a log standard deviation that does not depend on the observation.

    Any module with this signature can take its place: ``forward(observation [..., O])`` gives a
    ``Gaussian`` of [..., A]. ANIL adapts ``head`` and ``log_std`` only.

    Args:
        observation_dim: O.
        action_dim: A.
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.
        init_std: initial standard deviation of every action dimension.
        min_std: smallest standard deviation that adaptation can reach.
        seed: for the initial weights (Glorot uniform, biases 0).
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: Literal["tanh", "relu"] = "tanh",
        init_std: float = 1.0,
        min_std: float = 1e-6,
        seed: int = 0,
    ):
        super().__init__()
        sizes = [observation_dim, *hidden_sizes]
        self.body = hidden_layers(sizes, activation)
        self.head = nn.Linear(sizes[-1], action_dim)
        self.log_std = nn.Parameter(torch.full((action_dim,), float(np.log(init_std))))
        self._min_log_std = float(np.log(min_std))
        initialise(self, seed)

    def forward(self, observation: Tensor) -> Gaussian:
        mean = self.head(self.body(observation))
        # Clamped here and not in the parameter: adaptation moves the parameter too.
        return Gaussian(mean, self.log_std.clamp(min=self._min_log_std).expand_as(mean))


def gaussian_mlp(
    observation_space: spaces.Box,
    action_space: spaces.Box,
    hidden_sizes: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = [100, 100],  # noqa: B006
    activation: Literal["tanh", "relu"] = "tanh",
    init_std: Annotated[float, Gt(0)] = 1.0,
    min_std: Annotated[float, Gt(0)] = 1e-6,
) -> GaussianMLP:
    """Make a ``GaussianMLP``; its weights follow from PyTorch's seed.

    Args:
        observation_space: of vectors.
        action_space: of vectors.
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.
        init_std: initial standard deviation of every action dimension.
        min_std: smallest standard deviation that adaptation can reach.

    Raises:
        ValueError: observations or actions are not vectors of numbers.
    """
    for space in (observation_space, action_space):
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            raise ValueError(f"it is for vectors of numbers, got {space}")
    return GaussianMLP(
        observation_space.shape[0],
        action_space.shape[0],
        hidden_sizes,
        activation,
        init_std,
        min_std,
        seed=torch.initial_seed(),
    )
