"""Compare a meta-gradient with finite differences, entry by entry, in float64."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.core.params import Params
from metarl.core.task_map import gradients_of, leaves_of


class Entry(NamedTuple):
    """The entry of one parameter where two gradients differ most."""

    name: str
    where: tuple[int, ...]
    gradient: float  # by differentiation
    finite_difference: float
    error: float  # their difference, as a part of the largest entry of the whole gradient


def check_gradient(
    objective: Callable[[Params, Any], Tensor],
    params: Params,
    data: Any,
    epsilon: float = 1e-5,
    entries: int = 20,
) -> list[Entry]:
    """Compare the gradient of a scalar with central differences (f(x + e) - f(x - e)) / 2e.

    Differences are a reference only in float64 and where ``objective`` is smooth and draws no
    random numbers; a ReLU that switches within ``epsilon`` shows as an error.

    Args:
        objective: a scalar of parameters and data, an adapt-and-judge objective for example.
        params: where to compare; float64.
        data: handed on.
        epsilon: e.
        entries: entries of every parameter to compare, spread evenly over it.

    Returns:
        For every parameter the entry with the largest error.

    Raises:
        ValueError: a parameter is not float64, or the objective is not a finite scalar.
    """
    for name, p in params.items():
        if p.dtype != torch.float64:
            raise ValueError(f"{name} should be float64, got {p.dtype}")
    leaves = leaves_of(params)
    value = objective(leaves, data)
    if value.shape != () or not torch.isfinite(value):
        raise ValueError(f"the objective should be a finite scalar, got {value.detach()}")
    gradients = gradients_of(value, leaves)
    sizes = [float(g.abs().max()) for g in gradients.values()]
    scale = max((size for size in sizes if math.isfinite(size)), default=0.0) or 1.0

    @torch.no_grad()
    def value_beside(name: str, position: int, distance: float) -> float:
        p = params[name].detach().clone()
        p.view(-1)[position] += distance
        return float(objective(params | {name: p}, data))

    def compare(name: str, position: int) -> Entry:
        difference = value_beside(name, position, epsilon) - value_beside(name, position, -epsilon)
        difference /= 2 * epsilon
        exact = float(gradients[name].reshape(-1)[position])
        index = torch.unravel_index(torch.tensor(position), params[name].shape)
        error = abs(exact - difference) / scale
        return Entry(name, tuple(int(i) for i in index), exact, difference, error)

    worst = []
    for name, p in params.items():
        positions = torch.linspace(0, p.numel() - 1, min(entries, p.numel())).round().long()
        comparisons = [compare(name, position) for position in positions.tolist()]
        worst.append(max(comparisons, key=_badness))
    return worst


def _badness(entry: Entry) -> float:
    return math.inf if math.isnan(entry.error) else entry.error
