"""Derivatives by finite differences."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.core.params import Params, flatten, unflatten


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


def gradient(loss: Callable[[Params], Tensor], params: Params, epsilon: float) -> Params:
    """Gradient of a loss, whose own derivative is taken by finite differences.

    A product with the loss's Hessian, which is symmetric, then costs one more gradient, half of
    what differentiating through the gradient costs.

    Args:
        loss: of the parameters; called again while the result is differentiated.
        params: where; the result is differentiable once, by ``torch.autograd``, with respect to
            them and to nothing that ``loss`` closes over.
        epsilon: length of the difference in parameter space.

    Raises:
        NotImplementedError: a second derivative of the result is asked for.
    """

    def of_vector(vector: Tensor) -> Tensor:
        by_name = torch.func.grad(loss)(unflatten(vector, params))
        return flatten({name: by_name[name] for name in params})

    vector: Any = _Gradient.apply(of_vector, epsilon, flatten(params))  # type: ignore[no-untyped-call]
    return unflatten(vector, params)


class _Gradient(torch.autograd.Function):
    """``fn(x)``, a gradient, and its derivative along w as a difference of gradients."""

    generate_vmap_rule = True  # ``fn`` may close over a task's data, and sees them in backward too

    @staticmethod
    def forward(fn: Callable[[Tensor], Tensor], epsilon: float, x: Tensor) -> Tensor:
        return fn(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.fn, ctx.epsilon, x = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[None, None, Tensor]:
        if torch.is_grad_enabled():  # the error of the first derivative would be divided by epsilon
            raise NotImplementedError("a derivative by finite differences has none of its own")
        x, at_x = ctx.saved_tensors
        return None, None, derivative(ctx.fn, x, w, ctx.epsilon, at_x)
