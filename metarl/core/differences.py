"""Derivatives by finite differences."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.core.params import Params, flatten, unflatten


def derivative(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    along: Tensor,
    epsilon: float,
    value: Tensor | float,
) -> Tensor:
    """d/dt function(x + t along) at 0, one-sided, from a step of length ``epsilon``:

    |v| (f(x + eps v / |v|) - f(x)) / eps

    Args:
        function: of a vector [P].
        x: where, [P].
        along: the direction v [P], whose length does not change the error.
        epsilon: length of the step.
        value: f(x).
    """
    norm = torch.linalg.vector_norm(along, dtype=torch.float64)
    unit = along / norm.clamp(min=torch.finfo(along.dtype).tiny).to(along)
    length: Tensor = (norm / epsilon).to(along)
    return (function(x + epsilon * unit) - value) * length


def gradient(loss: Callable[[Params], Tensor], params: Params, epsilon: float) -> Params:
    """Gradient of a loss, whose own derivative is taken by finite differences.

    A product with the loss's Hessian, which is symmetric, then costs one more gradient, a third of
    what differentiating through the gradient costs more.
    """

    def of_vector(vector: Tensor) -> Tensor:
        gradient = torch.func.grad(loss)(unflatten(vector, params))
        return flatten({name: gradient[name] for name in params})

    vector: Any = _Gradient.apply(of_vector, epsilon, flatten(params))  # type: ignore[no-untyped-call]
    return unflatten(vector, params)


class _Gradient(torch.autograd.Function):
    """``gradient(x)``, its derivative along w a difference of gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Callable[[Tensor], Tensor], epsilon: float, x: Tensor) -> Tensor:
        return gradient(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.gradient, ctx.epsilon, x = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[None, None, Tensor]:
        x, gradient = ctx.saved_tensors
        return None, None, derivative(ctx.gradient, x, w, ctx.epsilon, gradient)
