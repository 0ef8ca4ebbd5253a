"""Export a trained network: its weights, and a program that runs without its code."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarl.core.params import Params
from metarl.runtime.errors import UserError, described, warn
from metarl.runtime.files import require_writable, write_atomically


class _Named(nn.Module):
    """The network with a dictionary as output: a program cannot return a distribution."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        output: Any = self.network(inputs)
        if isinstance(output, Tensor):
            return {"output": output}
        return {"action": output.mode(), **output._asdict()}


def export(
    network: nn.Module, rates: Params, input_shape: tuple[int, ...], path: Path
) -> list[Path]:
    """Write a network's weights and its program, and return the paths of the files.

    ``policy.pt`` is the network's ``state_dict``. ``policy.rates.pt`` has the learned inner rates,
    if there are any. ``policy.pt2`` is a ``torch.export`` program. Its input is a batch
    [B, *input_shape] in float32. A policy's program returns a dictionary of ``action``, the most
    likely one, and the tensors of the distribution; a supervised model's program, of ``output``.
    Where the network cannot be traced, a warning says so and there is no program.

    Args:
        network: the module with its weights.
        rates: learned inner rates by parameter name; empty: none are learned.
        input_shape: shape of one input.
        path: the file of the weights, ending in .pt.

    Raises:
        UserError: the path has another ending, or a file cannot be written.
    """
    if path.suffix != ".pt":
        raise UserError(f"the output should be a file named .pt, got {path}")
    require_writable(path)
    network = copy.deepcopy(network).cpu()
    contents = {path: _bytes(torch.save, network.state_dict())}
    if rates:
        on_cpu = {name: rate.cpu() for name, rate in rates.items()}
        contents[path.with_suffix(".rates.pt")] = _bytes(torch.save, on_cpu)
    try:
        program = _program(network, input_shape)
        contents[path.with_suffix(".pt2")] = _bytes(torch.export.save, program)
    except Exception as error:  # a user's network may raise anything
        warn(f"there is no program, because the network cannot be traced: {described(error)}")
    try:
        for file, data in contents.items():
            write_atomically(file, data)
        for suffix in (".rates.pt", ".pt2"):  # left from an earlier export to this path
            if (file := path.with_suffix(suffix)) not in contents:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return [*contents]


def _program(network: nn.Module, input_shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *input_shape)  # not 1: a batch of one is traced as a constant
    batch = {0: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(_Named(network), (example,), dynamic_shapes=(batch,))


def _bytes(save: Callable[[Any, io.BytesIO], None], content: Any) -> bytes:
    buffer = io.BytesIO()
    save(content, buffer)
    return buffer.getvalue()
