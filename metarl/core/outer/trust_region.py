"""TRPO as an outer step: natural gradient in a trust region (Schulman et al. 2015, appendix C)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from annotated_types import Ge, Gt, Interval, Le
from torch import Tensor

from metarl.core.outer.averages import moving_mean
from metarl.core.outer.curvature import (
    HessianVectorProduct,
    conjugate_gradient,
    dot,
    finite_difference_hvp,
    relative_difference,
)
from metarl.core.outer.schedule import ScheduledStep, is_due
from metarl.core.outer.step import Objective, Stats


def suited_epsilon(activation: str, hvp_length: str = "fixed") -> float:
    """Return the ``hvp_epsilon`` that suits a network with these hidden units."""
    if hvp_length == "proportional":
        return 1.0
    return 2e-2 if activation == "relu" else 1e-3


Memory: TypeAlias = dict[str, Tensor]
"""What a trust region keeps of earlier steps: ``vector`` [P] of the last ``age`` steps if it has a
memory, ``average`` [P] of theta over ``steps`` steps if it averages. Counts are float64, []."""


def without_vector(memory: Memory) -> Memory:
    """Return the memory with an empty vector; the average stays."""
    return memory | {k: torch.zeros_like(memory[k]) for k in ("vector", "age") if k in memory}


FITTED_SHARE = 0.98  # of the trust region's radius, as the KL is not quite quadratic


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
        fit_length: after a length whose KL is too large, try the one whose KL would be .98 of the
            radius if it grew with the square of the length; default: the next backtrack.
        memory: what earlier steps add to the direction, against the noise of a single batch: none;
            gradient: a moving average in place of the gradient; direction: a moving average of
            natural gradients, each of length 1 by its own KL's Hessian; guess: the last
            direction, times memory_decay, as the start of conjugate gradient. Where no step is
            accepted, the memory is emptied and the step is that of the batch alone.
        memory_decay: weight of a step in a moving average relative to the step after it.
        average_decay: the same for the moving average of theta that is evaluated; 0: theta itself.
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
    fit_length: bool = False
    memory: Literal["none", "gradient", "direction", "guess"] = "none"
    memory_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    average_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0

    needs_kl: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.hvp_length == "proportional" and self.inner_hessian != "exact":
            raise ValueError(
                "outer.hvp_length proportional needs outer.inner_hessian exact, "
                "because outer.hvp_epsilon is then a ratio"
            )

    def init(self, theta: Tensor) -> Memory:
        none = torch.zeros((), dtype=torch.float64, device=theta.device)
        memory = {"vector": torch.zeros_like(theta), "age": none}
        average = {"average": theta, "steps": none}
        return (memory if self.memory != "none" else {}) | (average if self.average_decay else {})

    def evaluated(self, theta: Tensor, state: Memory) -> Tensor:
        return state.get("average", theta)

    def step(
        self, objective: Objective, theta: Tensor, state: Memory
    ) -> tuple[Tensor, Memory, Stats]:
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

        def damped_product(v: Tensor) -> Tensor:
            return product(v) + self.cg_damping * v

        max_kl = self.max_kl * self.factor(objective.iteration)

        def attempt(memory: Memory) -> tuple[Tensor, Memory, dict[str, float]]:
            x, curvature, memory, residual = self._direction(objective, damped_product, g, memory)
            attempt_stats = stats | {"cg_residual": residual}
            if not (math.isfinite(curvature) and curvature > 0):
                return theta, memory, attempt_stats
            full_step = math.sqrt(2 * max_kl / curvature) * x
            new, attempt_stats = line_search(
                objective.loss_and_kl, theta, full_step, max_kl, self, attempt_stats
            )
            return new, memory, attempt_stats

        new, memory, result = attempt(state)
        if not result["accepted"] and state.get("age"):
            new, memory, result = attempt(without_vector(state))
            result["restarted"] = 1.0
        if not result["accepted"]:
            memory = without_vector(memory)
        return new, self._with_average(memory, new), result

    def _direction(
        self, objective: Objective, product: HessianVectorProduct, g: Tensor, memory: Memory
    ) -> tuple[Tensor, float, Memory, float]:
        """Return the direction x [P], x'Hx, the memory with this step in it, and the residual of
        conjugate gradient relative to its right-hand side.
        """
        b, guess = g, None
        if self.memory != "none":
            age, vector = memory["age"] + 1, memory["vector"]
            mean = partial(moving_mean, vector, decay=self.memory_decay, count=age)
            b = mean(g) if self.memory == "gradient" else g
            guess = self.memory_decay * vector if self.memory == "guess" else None
        x, r = conjugate_gradient(product, b, self.cg_iterations, self.cg_tolerance, guess)
        # Products over lengths that depend on v are not linear in v: x'Hx takes one of its own.
        is_linear = self._is_exact(objective) or self.hvp_length == "fixed"
        curvature = dot(x, b - r if is_linear else product(x))
        if self.memory == "direction" and curvature > 0:
            x = mean(x / math.sqrt(curvature))
            curvature = dot(x, product(x))
        if self.memory != "none":
            memory = memory | {"vector": b if self.memory == "gradient" else x, "age": age}
        return x, curvature, memory, math.sqrt(dot(r, r) / dot(b, b))

    def _with_average(self, memory: Memory, theta: Tensor) -> Memory:
        """Return the memory with theta in its average, if there is one."""
        if not self.average_decay:
            return memory
        steps = memory["steps"] + 1
        average = moving_mean(memory["average"], theta, self.average_decay, steps)
        return memory | {"average": average, "steps": steps}

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
        return finite_difference_hvp(
            self.kl_gradient(objective),
            theta,
            self.hvp_epsilon,
            proportional=self.hvp_length == "proportional",
            symmetric=self.hvp_symmetric,
        )

    def kl_gradient(self, objective: Objective) -> Callable[[Tensor], Tensor]:
        """theta -> gradient of the KL, as finite-difference products take it."""
        by_differences = self.inner_hessian == "finite-difference"
        return partial(
            objective.kl_gradient,
            fraction=self.curvature_fraction,
            hessian_epsilon=self.hvp_epsilon if by_differences else None,
        )

    def _is_check_due(self, objective: Objective) -> bool:
        return is_due(objective.iteration, self.hvp_check_every) and not objective.first_order


def line_search(
    loss_and_kl: Callable[[Tensor], Tensor],
    theta: Tensor,
    step: Tensor,
    max_kl: float,
    config: TrustRegion,
    stats: dict[str, float],
) -> tuple[Tensor, dict[str, float]]:
    """First of theta - step, and of shorter steps, that lowers the loss within the trust region;
    else theta.
    """
    length = 1.0
    for k in range(config.backtracks):
        candidate = theta - length * step
        loss, kl = loss_and_kl(candidate).tolist()
        if loss < stats["loss_before"] and kl <= max_kl:
            return candidate, stats | {
                "accepted": 1.0,
                "backtrack": float(k),
                "loss_after": loss,
                "kl": kl,
                "kl_share": kl / max_kl,
            }
        fits = config.fit_length and max_kl < kl < math.inf
        length *= math.sqrt(FITTED_SHARE * max_kl / kl) if fits else config.backtrack_ratio
    return theta, stats
