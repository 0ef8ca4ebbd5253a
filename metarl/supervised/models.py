"""Networks of supervised meta-learning. Every one has its last layer in ``head`` (see ANIL)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, MinLen
from torch import Tensor, nn

from metarl.core.networks import hidden_layers, initialise
from metarl.runtime.errors import first_line


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Args:
        name: mlp; conv, four convolutions with batch norm (Vinyals et al. 2016); dense, linear
            layers with batch norm (Santoro et al. 2016); or package.module:NAME, a function of your
            own from an input shape and the number of outputs to a torch.nn.Module.
        hidden_sizes: width of every hidden layer of mlp and dense.
        activation: nonlinearity of mlp.
        filters: filters of every convolution.
        pooling: downsampling in conv.
    """

    name: str = "mlp"
    hidden_sizes: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = field(
        default_factory=lambda: [40, 40]
    )
    activation: Literal["tanh", "relu"] = "relu"
    filters: Annotated[int, Gt(0)] = 64
    pooling: Literal["stride", "max"] = "stride"


class MLP(nn.Module):
    """Fully connected: [S, ...] -> [S, outputs]."""

    def __init__(self, inputs: int, outputs: int, hidden_sizes: Sequence[int], activation: str):
        super().__init__()
        self.body = hidden_layers([inputs, *hidden_sizes], activation)
        self.head = nn.Linear(hidden_sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x.flatten(1)))
        return result


class Dense(nn.Module):
    """Linear layers, each with batch norm and ReLU: [S, ...] -> [S, outputs]."""

    def __init__(self, inputs: int, outputs: int, hidden_sizes: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise([inputs, *hidden_sizes]):
            layers += [nn.Linear(size_in, size_out), BatchNorm(size_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden_sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x.flatten(1)))
        return result


class Conv4(nn.Module):
    """Four 3x3 convolutions, each with batch norm, ReLU and half the size: [S, C, H, W] -> [S, N].

    Vinyals et al. 2016; with strides in place of pooling as Finn et al. 2017 have it for Omniglot.
    """

    def __init__(
        self, input_shape: Sequence[int], outputs: int, filters: int, pooling: str = "stride"
    ):
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                f"inputs should be images [channels, height, width], these are {[*input_shape]}"
            )
        channels, height, width = input_shape
        sizes = [channels, *[filters] * 4]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [Conv3x3(size_in, size_out, 2 if pooling == "stride" else 1)]
            layers += [BatchNorm(size_out), nn.ReLU()]
            layers += [MaxPool()] if pooling == "max" else []
            # Strides round up, pooling down.
            height, width = ((n + (pooling == "stride")) // 2 for n in (height, width))
        if height * width == 0:
            raise ValueError(f"images of {input_shape[1]}x{input_shape[2]} are too small to halve")
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(height * width * filters, outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x.movedim(-3, -1)).flatten(1))
        return result


class Conv3x3(nn.Module):
    """3x3 convolution as one matrix product over patches, channels last: [S, H, W, C].

    With weights of its own for every task a product of matrices is batched well; a convolution
    becomes a grouped one, which is not.
    """

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(9 * channels, filters))  # rows: patch, channel
        self.bias = nn.Parameter(torch.zeros(filters))

    def forward(self, x: Tensor) -> Tensor:
        samples, height, width, _ = x.shape
        step = self.stride
        height, width = (height - 1) // step + 1, (width - 1) // step + 1
        frame = F.pad(x, (0, 0, 1, 1, 1, 1))
        rows = [slice(i, i + step * (height - 1) + 1, step) for i in range(3)]
        columns = [slice(j, j + step * (width - 1) + 1, step) for j in range(3)]
        patches = torch.cat([frame[:, i, j] for i in rows for j in columns], -1)
        # As a matrix: more than two dimensions take a slower path.
        flat = patches.reshape(samples * height * width, -1) @ self.weight + self.bias
        return flat.reshape(samples, height, width, -1)


class MaxPool(nn.Module):
    """Maximum over 2x2, channels last; an odd last row or column is left out."""

    def forward(self, x: Tensor) -> Tensor:
        samples, height, width, channels = x.shape
        height, width = height // 2, width // 2
        x = x[:, : 2 * height, : 2 * width]
        return x.reshape(samples, height, 2, width, 2, channels).amax((2, 4))


class BatchNorm(nn.Module):
    """Batch norm by the statistics of the batch at hand, always (Ioffe and Szegedy 2015).

    Over all axes but the last. Running statistics would be state that tasks share.
    """

    def __init__(self, features: int, epsilon: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        axes = list(range(x.dim() - 1))
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias


MODELS = ("mlp", "conv", "dense")


def make_model(
    config: ModelConfig, input_shape: Sequence[int], outputs: int, seed: int
) -> nn.Module:
    """One of our own networks.

    Raises:
        KeyError: the name is none of ``MODELS``.
        ValueError: the images are too small.
    """
    inputs, hidden = prod(input_shape), config.hidden_sizes
    model = {
        "mlp": lambda: MLP(inputs, outputs, hidden, config.activation),
        "conv": lambda: Conv4(input_shape, outputs, config.filters, config.pooling),
        "dense": lambda: Dense(inputs, outputs, hidden),
    }[config.name]()
    initialise(model, seed)
    return model


def sees_batches(model: Callable[[Tensor], Tensor], input_shape: Sequence[int]) -> bool:
    """Return whether the output for one input depends on the others, as with batch norm."""
    x = _inputs(4, input_shape)
    with torch.no_grad():
        first, other = model(x)[0], model(torch.cat([x[:1], 1 - x[1:]]))[0]
    return not torch.equal(first, other)


def require_outputs(
    model: Callable[[Tensor], Tensor], input_shape: Sequence[int], outputs: int
) -> None:
    """Raise ValueError unless the model maps [S, *input_shape] to [S, outputs], always the same."""
    samples = 3
    x = _inputs(samples, input_shape)
    try:
        with torch.no_grad():
            output, again = model(x), model(x)
    except Exception as error:  # whatever a user's module does
        raise ValueError(
            f"the model fails on inputs {[*input_shape]}: {first_line(error)}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (samples, outputs):
        raise ValueError(
            f"the model gives {shape} for {samples} inputs, not ({samples}, {outputs})"
        )
    if not torch.equal(output.nan_to_num(), again.nan_to_num()):
        raise ValueError("the model gives other outputs for the same inputs: it is random")


def _inputs(samples: int, input_shape: Sequence[int]) -> Tensor:
    """Numbers from 0 to 1, [samples, *input_shape], the same at every call."""
    return torch.rand(samples, *input_shape, generator=torch.Generator().manual_seed(0))
