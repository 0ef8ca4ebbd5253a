"""Products with a Hessian, and conjugate gradient, which needs no more of it."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from metarl.core.differences import derivative

HessianVectorProduct: TypeAlias = Callable[[Tensor], Tensor]


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two vectors, accumulated in float64."""
    return float(a.double() @ b.double())


def conjugate_gradient(
    hvp: HessianVectorProduct,
    b: Tensor,
    iterations: int,
    tolerance: float = 1e-10,
    guess: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Solve H x = b for a positive definite H (Nocedal and Wright, algorithm 5.2).

    Args:
        hvp: v -> H v.
        b: right-hand side [P]; not modified.
        iterations: largest number of products, besides one for the guess.
        tolerance: stop when norm(b - H x) <= tolerance * norm(b).
        guess: x [P] to start from; zero where that leaves a smaller residual.

    Returns:
        x [P] and the residual b - H x [P], as the recursion sees it. Stops early where the
        curvature along the direction is not positive.
    """
    x, r = torch.zeros_like(b), b
    rr = bb = dot(b, b)
    if guess is not None:
        residual = b - hvp(guess)
        if dot(residual, residual) < bb:
            x, r, rr = guess, residual, dot(residual, residual)
    p = r
    for _ in range(iterations):
        if rr <= tolerance**2 * bb:
            break
        hp = hvp(p)
        curvature = dot(p, hp)
        if not curvature > 0:
            break
        step = rr / curvature
        x = x + step * p
        r = r - step * hp
        rr, previous = dot(r, r), rr
        p = r + (rr / previous) * p
    return x, r


def finite_difference_hvp(
    gradient: Callable[[Tensor], Tensor],
    theta: Tensor,
    epsilon: float,
    proportional: bool = False,
    symmetric: bool = False,
) -> HessianVectorProduct:
    """Return Hessian-vector products from gradients only, perturbing along u = v / |v|.

    One-sided, where the gradient is zero at theta:  |v| g(theta + eps u) / eps
    Symmetric:  |v| (g(theta + eps u) - g(theta - eps u)) / (2 eps)

    Args:
        gradient: theta -> gradient [P].
        theta: where, [P].
        epsilon: eps; the ratio eps |theta| / |v| if ``proportional``.
        proportional: the perturbation grows with v, as in rllab.
        symmetric: take central differences.
    """

    def hvp(v: Tensor) -> Tensor:
        length = epsilon
        if proportional and v.any():  # any length does for v = 0
            length *= math.sqrt(dot(v, v) / dot(theta, theta))
        # Without the gradient at theta: it is zero, or cancels.
        forward = derivative(gradient, theta, v, length, at_x=0.0)
        if not symmetric:
            return forward
        return (forward - derivative(gradient, theta, -v, length, at_x=0.0)) / 2

    return hvp


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return norm(a - b) / norm(b); 0 if both are zero, infinity if b alone is."""
    difference, size = math.sqrt(dot(a - b, a - b)), math.sqrt(dot(b, b))
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf
