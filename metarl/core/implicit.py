"""Implicit meta-gradients (iMAML, Rajeswaran et al. 2019): the inner loop is not differentiated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from metarl.core.adapt import LossFn, Rates, adapt
from metarl.core.gradients import first_order
from metarl.core.params import Params, flatten, unflatten

Product: TypeAlias = Callable[[Tensor], Tensor]
"""v [P] -> A v [P], for a symmetric matrix A."""


@dataclass(frozen=True)
class ProximalTerm:
    """The proximal term of the inner loss, and the accuracy of the implicit meta-gradient.

    Args:
        strength: lam, factor on |phi - theta|^2 / 2 in the inner loss.
        cg_iterations: conjugate-gradient iterations for the meta-gradient.
    """

    strength: float = 2.0
    cg_iterations: int = 5


def pulled_loss(
    loss_fn: LossFn, theta: Params, strength: float, params: Params, batch: Any
) -> Tensor:
    """Return L(phi; batch) + lam / 2 |phi - theta|^2 (equation 3), a scalar."""
    distance = flatten(params) - flatten({name: theta[name] for name in params})
    return loss_fn(params, batch) + strength / 2 * distance.square().sum()


def implicit_adapt(
    loss_fn: LossFn,
    theta: Params,
    rates: Sequence[Rates],
    batches: Sequence[Any],
    proximal: ProximalTerm,
) -> Params:
    """Return phi after inner steps on ``pulled_loss``, with an implicit derivative.

    At a stationary phi, d phi / d theta = (I + H / lam)^-1, where H is the Hessian of L at phi
    (equation 6 and lemma 1). The derivative depends on phi alone, so memory does not grow with the
    number of inner steps. The result is differentiable once, in theta and not in the rates.

    Args:
        loss_fn: the inner loss L of one task.
        theta: meta-parameters.
        rates: alpha_k, one entry per inner step.
        batches: support data, one per inner step; H is the Hessian on the last one.

    Raises:
        NotImplementedError: raised by ``backward`` where a second derivative is needed.
    """

    def descend(vector: Tensor) -> Tensor:
        start = unflatten(vector, theta)
        loss = partial(pulled_loss, loss_fn, start, proximal.strength)
        return flatten(adapt(loss, start, rates, batches, first_order))

    def loss(vector: Tensor) -> Tensor:
        return loss_fn(unflatten(vector, theta), batches[-1])

    def product(phi: Tensor, v: Tensor) -> Tensor:
        def slope(vector: Tensor) -> Tensor:
            derivative: Tensor = (torch.func.grad(loss)(vector) * v).sum()
            return derivative

        result: Tensor = v + torch.func.grad(slope)(phi) / proximal.strength
        return result

    args = descend, product, proximal.cg_iterations, flatten(theta)
    vector: Any = _Stationary.apply(*args)  # type: ignore[no-untyped-call]
    return unflatten(vector, theta)


class _Stationary(torch.autograd.Function):
    """phi = ``descend(theta)`` [P]; ``backward`` solves a linear system at phi."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        descend: Callable[[Tensor], Tensor],
        product: Callable[[Tensor, Tensor], Tensor],
        iterations: int,
        theta: Tensor,
    ) -> Tensor:
        return descend(theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, ctx.product, ctx.iterations, _ = inputs
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[None, None, None, Tensor]:
        if torch.is_grad_enabled():
            raise NotImplementedError("the implicit derivative cannot be differentiated again")
        (phi,) = ctx.saved_tensors
        return None, None, None, solve(partial(ctx.product, phi), w, ctx.iterations)


def solve(product: Product, b: Tensor, iterations: int) -> Tensor:
    """Return an approximation x [P] of A^-1 b by conjugate gradient, which begins at x = b.

    x = b is the first-order meta-gradient. The number of iterations is fixed, because ``vmap`` and
    traced programs cannot branch. Where a direction's curvature is not positive, x stays.
    """
    x, r = b, b - product(b)
    p, rr = r, (r * r).sum()
    for _ in range(iterations):
        along = product(p)
        curvature = (p * along).sum()
        goes_on = curvature > 0
        length = torch.where(goes_on, rr / curvature, 0)
        x, r = x + length * p, r - length * along
        rr, before = (r * r).sum(), rr
        p = torch.where(goes_on, r + rr / before * p, 0)
    return x


def residual(loss_fn: LossFn, theta: Params, phi: Params, batch: Any, strength: float) -> Tensor:
    """Return norm(grad L(phi) + lam (phi - theta)) / norm(grad L(theta)), 0 at a stationary phi.

    The implicit derivative is exact at a residual of 0 and a solved linear system.
    """
    theta, phi = ({n: p.detach() for n, p in params.items()} for params in (theta, phi))
    loss = partial(pulled_loss, loss_fn, theta, strength)
    left, right = (flatten(first_order(lambda p: loss(p, batch), p, [*p])) for p in (phi, theta))
    ratio: Tensor = torch.linalg.vector_norm(left) / torch.linalg.vector_norm(right)
    return ratio
