"""Parts of networks that policies and supervised models share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class WithContext(nn.Module):
    """A network that sees context parameters beside its inputs: f([x, context]) (CAVIA).

    Inputs are [..., I]; the network takes [..., I + size]. The context begins at 0.
    """

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        self.context = nn.Parameter(torch.zeros(size))
        self.network = network

    def forward(self, x: Tensor) -> Any:
        context = self.context.expand(*x.shape[:-1], -1)
        return self.network(torch.cat([x, context], -1))


def hidden_layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]`` units, each with the nonlinearity."""
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def initialise(module: nn.Module, seed: int) -> None:
    """Glorot uniform weight matrices and zero biases; layers without a matrix stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(weight := getattr(layer, "weight", None), nn.Parameter) and weight.dim() > 1:
            nn.init.xavier_uniform_(weight, generator=generator)
            nn.init.zeros_(layer.get_parameter("bias"))
