"""TRPO as an outer step: natural gradient in a trust region (Schulman et al. 2015, appendix C)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from annotated_types import Ge, Gt, Interval, Le
from torch import Tensor

from metarl.core.differences import derivative
from metarl.core.outer.schedule import ScheduledStep
from metarl.core.outer.step import Objective, State, Stats

HessianVectorProduct: TypeAlias = Callable[[Tensor], Tensor]


def suited_epsilon(activation: str, hvp_length: str = "fixed") -> float:
    """Return the ``hvp_epsilon`` that suits a network with these hidden units."""
    if hvp_length == "proportional":
        return 1.0
    return 2e-2 if activation == "relu" else 1e-3


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
        iterations: largest number of products.
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
    gradient: Callable[[Tensor], Tensor], theta: Tensor, config: "TrustRegion"
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


@dataclass(frozen=True)
class TrustRegion(ScheduledStep):
    """Natural gradient in a trust region (TRPO).

    Args:
        max_kl: radius delta of the trust region, nats, before the schedule.
        cg_iterations: conjugate-gradient iterations for the direction.
        cg_damping: multiple of the identity added to the KL's Hessian.
        cg_tolerance: stop when the residual is this fraction of the gradient's norm.
        backtracks: largest number of step sizes that the line search tries.
        backtrack_ratio: factor between successive step sizes.
        hvp: Hessian-vector products of the KL: finite differences of its gradient, or exact by
            double backward (slower, more memory).
        hvp_epsilon: length of the finite difference in parameter space; default: 1e-3 for tanh,
            2e-2 for ReLU networks, whose inner gradient jumps where a unit switches and must be
            averaged over the jumps.
        hvp_length: fixed: hvp_epsilon along every vector v; proportional: hvp_epsilon |v| /
            |theta|, as in rllab (with hvp_epsilon 1 and central differences), which Finn et al.
            2017 used.
        hvp_symmetric: central differences; one-sided ones, the default, save half of the gradients
            and suffice because the KL's gradient is zero at the sampling policy.
        hvp_check_every: iterations between checks of the finite-difference product against the
            exact one, which is logged; 0: never.
        curvature_fraction: fraction of the query data for the curvature, spread over all of it; 1
            in the paper (Schulman et al. 2015, appendix C.1, take a tenth too).
        inner_hessian: derivative of the inner loop in the KL's gradient: by finite differences of
            the inner gradient, hvp_epsilon long, or exact as in the paper (1.3 to 1.5 times the
            work). FOMAML has none; those of ANIL and CAVIA are always exact.
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
    hvp_check_every: Annotated[int, Ge(0)] = 10
    curvature_fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    inner_hessian: Literal["finite-difference", "exact"] = "finite-difference"

    needs_kl: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.hvp_length == "proportional" and self.inner_hessian != "exact":
            raise ValueError(
                "outer.hvp_length proportional needs outer.inner_hessian exact, "
                "because outer.hvp_epsilon is then a ratio"
            )

    def step(
        self, objective: Objective, theta: Tensor, state: State
    ) -> tuple[Tensor, State, Stats]:
        """One TRPO step from theta [P], where the KL and its gradient are zero.

        Direction x = H^-1 g by conjugate gradient, first step length sqrt(2 max_kl / x'Hx), then
        backtracking until the loss improves and kl <= max_kl. When something is not finite, the
        curvature is not positive, or no backtrack is accepted, theta is kept.
        """
        product = self.curvature_product(objective, theta)
        values, g = objective.loss_gradient(theta)
        loss_before, kl_before, norm = float(values[0]), float(values[1]), math.sqrt(dot(g, g))
        stats = {
            "loss_before": loss_before,
            "kl_before": kl_before,
            "gradient_norm": norm,
            "accepted": 0.0,
            "loss_after": loss_before,
            "kl": kl_before,
        }
        if not (math.isfinite(norm) and norm > 0):
            return theta, state, stats
        if self._is_check_due(objective):
            approximate, exact = self._approximate(objective, theta), self._exact(objective, theta)
            stats["hvp_error"] = relative_difference(approximate(g), exact(g))

        def damped(v: Tensor) -> Tensor:
            return product(v) + self.cg_damping * v

        x, residual = conjugate_gradient(damped, g, self.cg_iterations, self.cg_tolerance)
        # Products over lengths that depend on v are not linear in v: x'Hx takes one of its own.
        is_linear = self._is_exact(objective) or self.hvp_length == "fixed"
        curvature = dot(x, g - residual if is_linear else damped(x))
        stats["cg_residual"] = math.sqrt(dot(residual, residual)) / norm
        if not (math.isfinite(curvature) and curvature > 0):
            return theta, state, stats
        max_kl = self.max_kl * self.factor(objective.iteration)
        full_step = math.sqrt(2 * max_kl / curvature) * x
        theta, stats = line_search(objective.loss_and_kl, theta, full_step, max_kl, self, stats)
        return theta, state, stats

    def curvature_product(self, objective: Objective, theta: Tensor) -> HessianVectorProduct:
        """v -> product of the KL's Hessian at theta with v, without damping."""
        make = self._exact if self._is_exact(objective) else self._approximate
        return make(objective, theta)

    def _is_exact(self, objective: Objective) -> bool:
        # Finite differences of a first-order gradient would mix two derivatives into no Hessian.
        return self.hvp == "exact" or objective.first_order

    def _exact(self, objective: Objective, theta: Tensor) -> HessianVectorProduct:
        return partial(objective.kl_hvp, theta, fraction=self.curvature_fraction)

    def _approximate(self, objective: Objective, theta: Tensor) -> HessianVectorProduct:
        return finite_difference_hvp(self.kl_gradient(objective), theta, self)

    def kl_gradient(self, objective: Objective) -> Callable[[Tensor], Tensor]:
        """theta -> gradient of the KL, as finite-difference products take it."""
        by_differences = self.inner_hessian == "finite-difference"
        return partial(
            objective.kl_gradient,
            fraction=self.curvature_fraction,
            hessian_epsilon=self.hvp_epsilon if by_differences else None,
        )

    def _is_check_due(self, objective: Objective) -> bool:
        every = self.hvp_check_every
        return every > 0 and objective.iteration % every == 0 and not objective.first_order


def line_search(
    loss_and_kl: Callable[[Tensor], Tensor],
    theta: Tensor,
    step: Tensor,
    max_kl: float,
    config: TrustRegion,
    stats: dict[str, float],
) -> tuple[Tensor, dict[str, float]]:
    """Largest theta - ratio^k step that lowers the loss within the trust region; else theta."""
    for k in range(config.backtracks):
        candidate = theta - config.backtrack_ratio**k * step
        loss, kl = loss_and_kl(candidate).tolist()
        if loss < stats["loss_before"] and kl <= max_kl:
            return candidate, stats | {
                "accepted": 1.0,
                "backtrack": float(k),
                "loss_after": loss,
                "kl": kl,
            }
    return theta, stats


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return norm(a - b) / norm(b); 0 if both are zero, infinity if b alone is."""
    difference, size = math.sqrt(dot(a - b, a - b)), math.sqrt(dot(b, b))
    if difference == 0:
        return 0.0
    return difference / size if size else math.inf
