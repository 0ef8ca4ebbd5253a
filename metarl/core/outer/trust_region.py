"""The outer step: natural gradient in a trust region (Schulman et al. 2015, appendix C)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from metarl.core.differences import derivative

HessianVectorProduct: TypeAlias = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """Minimise ``loss`` subject to ``kl <= max_kl`` over a flat vector theta [P]."""

    loss_and_kl: Callable[[Tensor], tuple[float, float]]
    loss_gradient: Callable[[Tensor], tuple[tuple[float, float], Tensor]]  # (loss, kl), gradient
    kl_gradient: Callable[[Tensor], Tensor]
    kl_hvp: Callable[[Tensor, Tensor], Tensor]  # exact: (theta, vector) -> Hessian @ vector


@dataclass(frozen=True)
class TrustRegionConfig:
    """Settings of the outer TRPO step.

    Args:
        max_kl: radius delta of the trust region, nats.
        cg_iterations: conjugate-gradient iterations for the direction.
        cg_damping: multiple of the identity added to the KL's Hessian.
        cg_tolerance: stop when the residual is this fraction of the gradient's norm.
        backtracks: step sizes that the line search tries at most.
        backtrack_ratio: factor between them.
        hvp: Hessian-vector products of the KL: finite differences of its gradient, or exact ones
            by double backward (slower, more memory).
        hvp_epsilon: length of the finite difference in parameter space. 1e-3 suits smooth networks;
            the inner gradient of a ReLU network jumps where a unit switches, and takes about 2e-2
            to average over the jumps (shorter, conjugate gradient diverges).
        hvp_length: length of the finite difference along a vector v: ``hvp_epsilon`` whatever v is,
            or ``hvp_epsilon |v| / |theta|``, as in rllab (with ``hvp_epsilon`` 1 and central
            differences), which Finn et al. 2017 used.
        hvp_symmetric: use central differences; the one-sided default saves half of the gradients
            and is allowed because the KL's gradient is zero at the sampling policy.
    """

    max_kl: Annotated[float, Gt(0)] = 0.01
    cg_iterations: Annotated[int, Ge(1)] = 10
    cg_damping: Annotated[float, Ge(0)] = 1e-5
    cg_tolerance: Annotated[float, Ge(0)] = 1e-10
    backtracks: Annotated[int, Ge(1)] = 15
    backtrack_ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.8
    hvp: Literal["finite-difference", "exact"] = "finite-difference"
    hvp_epsilon: Annotated[float, Gt(0)] = 1e-3
    hvp_length: Literal["fixed", "proportional"] = "fixed"
    hvp_symmetric: bool = False


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two vectors, accumulated in float64."""
    return float(a.double() @ b.double())


def conjugate_gradient(
    hvp: HessianVectorProduct, b: Tensor, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solve H x = b for a positive definite H (Nocedal and Wright, algorithm 5.2).

    Args:
        hvp: v -> H v.
        b: right-hand side [P]; not modified.
        iterations: at most so many products.
        tolerance: stop when norm(b - H x) <= tolerance * norm(b).

    Returns:
        x [P] and the residual b - H x [P], as the recursion sees it. Stops early where the
        curvature along the direction is not positive.
    """
    x, r, p = torch.zeros_like(b), b, b
    rr = bb = dot(b, b)
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
    gradient: Callable[[Tensor], Tensor], theta: Tensor, config: TrustRegionConfig
) -> HessianVectorProduct:
    """Hessian-vector products from gradients only, perturbing along the unit vector u = v / |v|.

    One-sided, where the gradient is zero at theta:  |v| g(theta + eps u) / eps
    Symmetric:  |v| (g(theta + eps u) - g(theta - eps u)) / (2 eps)

    eps is ``hvp_epsilon``, or ``hvp_epsilon |v| / |theta|`` with ``hvp_length`` proportional.
    """

    def length(v: Tensor) -> float:
        if config.hvp_length == "fixed" or not v.any():  # any length does for v = 0
            return config.hvp_epsilon
        return config.hvp_epsilon * math.sqrt(dot(v, v) / dot(theta, theta))

    def hvp(v: Tensor) -> Tensor:
        epsilon = length(v)
        # Without the gradient at theta: it is zero, or cancels.
        forward = derivative(gradient, theta, v, epsilon, at_x=0.0)
        if not config.hvp_symmetric:
            return forward
        return (forward - derivative(gradient, theta, -v, epsilon, at_x=0.0)) / 2

    return hvp


def trust_region_step(
    problem: Problem, theta: Tensor, config: TrustRegionConfig, check_hvp: bool = False
) -> tuple[Tensor, dict[str, float]]:
    """One TRPO step from theta [P], where the KL and its gradient are zero.

    Direction x = H^-1 g by conjugate gradient, first step length sqrt(2 max_kl / x'Hx), then
    backtracking until the loss improves and kl <= max_kl. When something is not finite, the
    curvature is not positive, or no backtrack is accepted, theta is kept.

    Args:
        check_hvp: also measure the relative difference of the two Hessian-vector products along g.

    Returns:
        The new theta and statistics of the step.
    """
    approximate = finite_difference_hvp(problem.kl_gradient, theta, config)
    product = (
        approximate if config.hvp == "finite-difference" else (lambda v: problem.kl_hvp(theta, v))
    )
    (loss_before, kl_before), g = problem.loss_gradient(theta)
    norm = math.sqrt(dot(g, g))
    stats = {
        "loss_before": loss_before,
        "kl_before": kl_before,
        "gradient_norm": norm,
        "accepted": 0.0,
        "loss_after": loss_before,
        "kl": kl_before,
    }
    if not (math.isfinite(norm) and norm > 0):
        return theta, stats
    if check_hvp:
        stats["hvp_error"] = relative_difference(approximate(g), problem.kl_hvp(theta, g))

    def damped(v: Tensor) -> Tensor:
        return product(v) + config.cg_damping * v

    x, residual = conjugate_gradient(damped, g, config.cg_iterations, config.cg_tolerance)
    # Products over lengths that depend on v are not linear in v: x'Hx takes one of its own.
    linear = config.hvp == "exact" or config.hvp_length == "fixed"
    curvature = dot(x, g - residual if linear else damped(x))
    stats["cg_residual"] = math.sqrt(dot(residual, residual)) / norm
    if not (math.isfinite(curvature) and curvature > 0):
        return theta, stats
    step = math.sqrt(2 * config.max_kl / curvature) * x
    return line_search(problem.loss_and_kl, theta, step, config, stats)


def line_search(
    loss_and_kl: Callable[[Tensor], tuple[float, float]],
    theta: Tensor,
    step: Tensor,
    config: TrustRegionConfig,
    stats: dict[str, float],
) -> tuple[Tensor, dict[str, float]]:
    """Largest theta - ratio^k step that lowers the loss within the trust region; else theta."""
    for k in range(config.backtracks):
        candidate = theta - config.backtrack_ratio**k * step
        loss, kl = loss_and_kl(candidate)
        if loss < stats["loss_before"] and kl <= config.max_kl:
            return candidate, stats | {
                "accepted": 1.0,
                "backtrack": float(k),
                "loss_after": loss,
                "kl": kl,
            }
    return theta, stats


def relative_difference(a: Tensor, b: Tensor) -> float:
    """norm(a - b) / norm(b), 0 where both are zero."""
    difference = math.sqrt(dot(a - b, a - b))
    return difference / math.sqrt(dot(b, b)) if difference > 0 else 0.0
