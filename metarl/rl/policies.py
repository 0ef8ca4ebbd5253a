"""Policies: modules from observations [..., *observation_shape] to a ``Distribution`` of actions.

A policy is made from the spaces of observations and actions, and from its settings. Its weights
follow from PyTorch's seed.
"""

from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Gt, MinLen
from gymnasium import spaces
from torch import Tensor, nn

from metarl.core.networks import hidden_layers, initialise
from metarl.rl.distributions import Categorical, Gaussian, TanhGaussian

HiddenSizes: TypeAlias = Annotated[list[Annotated[int, Gt(0)]], MinLen(1)]
Activation: TypeAlias = Literal["tanh", "relu"]


class GaussianMLP(nn.Module):
    """Fully connected mean, and a log standard deviation that does not depend on the observation.

    Any module from observations to a ``Distribution`` can take its place. ANIL adapts ``head`` and
    ``log_std`` only.

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

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        hidden_sizes: HiddenSizes = [100, 100],  # noqa: B006
        activation: Activation = "tanh",
        init_std: Annotated[float, Gt(0)] = 1.0,
        min_std: Annotated[float, Gt(0)] = 1e-6,
    ):
        super().__init__()
        sizes = [vector_size(observation_space), *hidden_sizes]
        actions = vector_size(action_space, "; use categorical-mlp")
        self.body = hidden_layers(sizes, activation)
        self.head = nn.Linear(sizes[-1], actions)
        self.log_std = nn.Parameter(torch.full((actions,), float(np.log(init_std))))
        self._min_log_std = float(np.log(min_std))
        initialise(self, torch.initial_seed())

    def forward(self, observation: Tensor) -> Any:
        mean = self.head(self.body(observation))
        # Clamped here and not in the parameter: adaptation moves the parameter too.
        return Gaussian(mean, self.log_std.clamp(min=self._min_log_std).expand_as(mean))


class TanhGaussianMLP(GaussianMLP):
    """The same network, whose actions are the tanh of the Gaussian's: in (-1, 1)."""

    def forward(self, observation: Tensor) -> Any:
        return TanhGaussian(*super().forward(observation))


class CategoricalMLP(nn.Module):
    """Fully connected logits of discrete actions, [..., O] -> [..., K]; ANIL adapts ``head``.

    Args:
        observation_space: of vectors.
        action_space: of discrete actions.
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.

    Raises:
        ValueError: observations are not vectors of numbers, or actions are not discrete.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        hidden_sizes: HiddenSizes = [100, 100],  # noqa: B006
        activation: Activation = "tanh",
    ):
        super().__init__()
        sizes = [vector_size(observation_space, "; see categorical-cnn"), *hidden_sizes]
        self.body = hidden_layers(sizes, activation)
        self.head = nn.Linear(sizes[-1], number_of_actions(action_space))
        initialise(self, torch.initial_seed())

    def forward(self, observation: Tensor) -> Categorical:
        return Categorical(self.head(self.body(observation)))


class CategoricalCNN(nn.Module):
    """Two 3x3 convolutions and a hidden layer: images [..., H, W, C] -> logits [..., K].

    Channels come last, as gymnasium has images; ANIL adapts ``head`` only.

    Args:
        observation_space: of images [H, W, C].
        action_space: of discrete actions.
        filters: filters of every convolution.
        hidden: width of the hidden layer.

    Raises:
        ValueError: observations are not images, or actions are not discrete.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        filters: Annotated[int, Gt(0)] = 16,
        hidden: Annotated[int, Gt(0)] = 64,
    ):
        super().__init__()
        shape = observation_space.shape
        if len(shape) != 3:
            raise ValueError(f"it is for images [height, width, channels], got shape {shape}")
        height, width, channels = shape
        self._shape = shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(filters * (-(-height // 2)) * (-(-width // 2)), hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, number_of_actions(action_space))
        initialise(self, torch.initial_seed())

    def forward(self, observation: Tensor) -> Categorical:
        leading = observation.shape[:-3]
        images = observation.reshape(-1, *self._shape).movedim(-1, 1)
        return Categorical(self.head(self.body(images)).reshape(*leading, -1))


def vector_size(space: spaces.Space[Any], otherwise: str = "") -> int:
    """Return the length of a space's vectors.

    Raises:
        ValueError: the space has no vectors; ``otherwise`` says what to use then.
    """
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise ValueError(f"it is for vectors of numbers, got {space}{otherwise}")
    return space.shape[0]


def number_of_actions(space: spaces.Space[Any]) -> int:
    """Return the number of a space's actions.

    Raises:
        ValueError: they are not discrete.
    """
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"it is for discrete actions, got {space}; use gaussian-mlp")
    return int(space.n)
