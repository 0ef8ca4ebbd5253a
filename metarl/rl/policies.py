"""Policies: modules from observations [..., O] to a ``Distribution`` of actions.

A policy's maker is a function of the spaces of observations and actions, and of its settings.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Gt, MinLen
from gymnasium import spaces
from torch import Tensor, nn

from metarl.core.networks import hidden_layers, initialise
from metarl.rl.distributions import Categorical, Gaussian, TanhGaussian

HiddenSizes: TypeAlias = Annotated[list[Annotated[int, Gt(0)]], MinLen(1)]


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


class TanhGaussianMLP(GaussianMLP):
    """The same network, whose actions are the tanh of the Gaussian's: in (-1, 1)."""

    def forward(self, observation: Tensor) -> TanhGaussian:  # type: ignore[override]
        return TanhGaussian(*super().forward(observation))


class CategoricalMLP(nn.Module):
    """Fully connected logits of discrete actions, [..., O] -> [..., K]; ANIL adapts ``head``."""

    def __init__(
        self,
        observation_dim: int,
        actions: int,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: Literal["tanh", "relu"] = "tanh",
        seed: int = 0,
    ):
        super().__init__()
        sizes = [observation_dim, *hidden_sizes]
        self.body = hidden_layers(sizes, activation)
        self.head = nn.Linear(sizes[-1], actions)
        initialise(self, seed)

    def forward(self, observation: Tensor) -> Categorical:
        return Categorical(self.head(self.body(observation)))


class CategoricalCNN(nn.Module):
    """Two 3x3 convolutions and a hidden layer: images [..., H, W, C] -> logits [..., K].

    Channels come last, as gymnasium has images; ANIL adapts ``head`` only.
    """

    def __init__(
        self, shape: Sequence[int], actions: int, filters: int = 16, hidden: int = 64, seed: int = 0
    ):
        super().__init__()
        height, width, channels = shape
        self._shape = (height, width, channels)
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(filters * (-(-height // 2)) * (-(-width // 2)), hidden),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden, actions)
        initialise(self, seed)

    def forward(self, observation: Tensor) -> Categorical:
        leading = observation.shape[:-3]
        images = observation.reshape(-1, *self._shape).movedim(-1, 1)
        return Categorical(self.head(self.body(images)).reshape(*leading, -1))


def gaussian_mlp(
    observation_space: spaces.Box,
    action_space: spaces.Box,
    hidden_sizes: HiddenSizes = [100, 100],  # noqa: B006
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
    sizes = _vector(observation_space), _vector(action_space)
    seed = torch.initial_seed()
    return GaussianMLP(*sizes, hidden_sizes, activation, init_std, min_std, seed)


def tanh_gaussian_mlp(
    observation_space: spaces.Box,
    action_space: spaces.Box,
    hidden_sizes: HiddenSizes = [100, 100],  # noqa: B006
    activation: Literal["tanh", "relu"] = "tanh",
    init_std: Annotated[float, Gt(0)] = 1.0,
    min_std: Annotated[float, Gt(0)] = 1e-6,
) -> TanhGaussianMLP:
    """Make a ``TanhGaussianMLP``, whose actions are in (-1, 1); see ``gaussian_mlp``.

    Args:
        observation_space: of vectors.
        action_space: of vectors.
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.
        init_std: initial standard deviation of every action dimension before tanh.
        min_std: smallest standard deviation that adaptation can reach.

    Raises:
        ValueError: observations or actions are not vectors of numbers.
    """
    sizes = _vector(observation_space), _vector(action_space)
    seed = torch.initial_seed()
    return TanhGaussianMLP(*sizes, hidden_sizes, activation, init_std, min_std, seed)


def categorical_mlp(
    observation_space: spaces.Box,
    action_space: spaces.Discrete,
    hidden_sizes: HiddenSizes = [100, 100],  # noqa: B006
    activation: Literal["tanh", "relu"] = "tanh",
) -> CategoricalMLP:
    """Make a ``CategoricalMLP``; its weights follow from PyTorch's seed.

    Args:
        observation_space: of vectors.
        action_space: of discrete actions.
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.

    Raises:
        ValueError: observations are not vectors of numbers, or actions are not discrete.
    """
    sizes = _vector(observation_space), _discrete(action_space)
    return CategoricalMLP(*sizes, hidden_sizes, activation, torch.initial_seed())


def categorical_cnn(
    observation_space: spaces.Box,
    action_space: spaces.Discrete,
    filters: Annotated[int, Gt(0)] = 16,
    hidden: Annotated[int, Gt(0)] = 64,
) -> CategoricalCNN:
    """Make a ``CategoricalCNN``; its weights follow from PyTorch's seed.

    Args:
        observation_space: of images [H, W, C].
        action_space: of discrete actions.
        filters: filters of every convolution.
        hidden: width of the hidden layer.

    Raises:
        ValueError: observations are not images, or actions are not discrete.
    """
    shape = observation_space.shape
    if len(shape) != 3:
        raise ValueError(f"it is for images [height, width, channels], got shape {shape}")
    return CategoricalCNN(shape, _discrete(action_space), filters, hidden, torch.initial_seed())


def _vector(space: spaces.Space[Any]) -> int:
    """Return the length of a space's vectors."""
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        hint = "; use categorical-mlp" if isinstance(space, spaces.Discrete) else ""
        raise ValueError(f"it is for vectors of numbers, got {space}{hint}")
    return space.shape[0]


def _discrete(space: spaces.Space[Any]) -> int:
    """Return the number of a space's actions."""
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"it is for discrete actions, got {space}; use gaussian-mlp")
    return int(space.n)
