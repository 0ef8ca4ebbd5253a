"""Parts of networks that policies and supervised models share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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


def make_stateless(module: nn.Module) -> bool:
    """Make batch norm use the statistics of the batch; True if there was anything to change.

    Raises:
        ValueError: the module has other state, or is random: every call would be another function.
    """
    has_changed = False
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            has_changed = True
        elif isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(f"layer {name} is random ({layer}), which adaptation cannot have")
        elif getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"layer {name} has running statistics ({type(layer).__name__}), which all tasks "
                "would share; use batch norm without them"
            )
    if buffers := [name for name, _ in module.named_buffers()]:
        raise ValueError(
            f"it has buffers ({', '.join(buffers)}), which are no parameters; make them constants"
        )
    return has_changed
