"""Derivatives by finite differences."""

from collections.abc import Callable

import torch
from torch import Tensor


def derivative(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    along: Tensor,
    epsilon: float,
    at_x: Tensor | float,
) -> Tensor:
    """d/dt fn(x + t along) at 0, one-sided, from a step of length ``epsilon``:

    |v| (f(x + eps v / |v|) - f(x)) / eps

    Args:
        fn: of a vector [P].
        x: where, [P].
        along: the direction v [P], whose length does not change the relative error.
        epsilon: length of the step.
        at_x: fn(x).
    """
    norm = torch.linalg.vector_norm(along, dtype=torch.float64)
    unit = along / norm.clamp(min=torch.finfo(along.dtype).tiny).to(along)
    length: Tensor = (norm / epsilon).to(along)
    return (fn(x + epsilon * unit) - at_x) * length
