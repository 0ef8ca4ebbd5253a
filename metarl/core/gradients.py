"""How an inner step takes its gradient, and so how the outer step differentiates through it.

``gradient(loss, params, names) -> gradient of the loss with respect to params[names]``

====================  ===========================================================
``exact``             differentiable; the derivative has the Hessian of the loss in it
``first_order``       a constant: d phi / d theta is the identity (FOMAML)
``by_differences``    differentiable once; Hessian-vector products by finite differences
====================  ===========================================================
"""

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor

from metarl.core.differences import derivative
from metarl.core.params import Params, flatten, unflatten

Loss: TypeAlias = Callable[[Params], Tensor]
"""The loss of one task as a function of its parameters."""

InnerGradient: TypeAlias = Callable[[Loss, Params, Collection[str]], Params]


def exact(loss: Loss, params: Params, names: Collection[str]) -> Params:
    """Return the gradient with its graph (``torch.func.grad``)."""
    constants = {name: p for name, p in params.items() if name not in names}
    moving = {name: params[name] for name in names}
    gradient: Params = torch.func.grad(lambda moving: loss(constants | moving))(moving)
    return gradient


def first_order(loss: Loss, params: Params, names: Collection[str]) -> Params:
    """Return the gradient as a constant (FOMAML, Finn et al. 2017, section 5.2)."""
    return {name: g.detach() for name, g in exact(loss, params, names).items()}


def by_differences(epsilon: float) -> InnerGradient:
    """Return a gradient whose own derivative is taken by finite differences.

    A product with the loss's Hessian, which is symmetric, then costs one more gradient: half of
    the cost of differentiating through the gradient. The result is differentiable once, by
    ``torch.autograd``, with respect to the parameters and to nothing that the loss closes over.

    Args:
        epsilon: length of the difference in parameter space.

    Raises:
        NotImplementedError: (by the gradient) a second derivative of the result is asked for.
    """

    def gradient(loss: Loss, params: Params, names: Collection[str]) -> Params:
        def of_vector(vector: Tensor) -> Tensor:
            by_name = torch.func.grad(loss)(unflatten(vector, params))
            return flatten({name: by_name[name] for name in params})

        # Of all parameters: each may change the gradient of any other.
        vector: Any = _Gradient.apply(of_vector, epsilon, flatten(params))  # type: ignore[no-untyped-call]
        gradients = unflatten(vector, params)
        return {name: gradients[name] for name in names}

    return gradient


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
