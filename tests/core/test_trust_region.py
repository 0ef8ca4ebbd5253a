"""Conjugate gradient, Hessian-vector products, and the guarded step."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import scipy.optimize
import torch
from torch import Tensor

from metarl.core.outer.curvature import (
    conjugate_gradient,
    finite_difference_hvp,
    relative_difference,
)
from metarl.core.outer.step import Objective
from metarl.core.outer.trust_region import TrustRegion


def positive_definite(size: int, seed: int = 0) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T + torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_conjugate_gradient_solves_the_system(size: int) -> None:
    h = positive_definite(size)
    b = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = b.clone()
    x, residual = conjugate_gradient(lambda v: h @ v, b, iterations=3 * size)
    torch.testing.assert_close(x, torch.linalg.solve(h, b))
    torch.testing.assert_close(residual, b - h @ x, atol=1e-8, rtol=0)
    assert torch.equal(b, kept), "the right-hand side must not be aliased"


def test_conjugate_gradient_reports_the_residual_when_cut_short() -> None:
    h, b = positive_definite(12), torch.ones(12, dtype=torch.float64)
    x, residual = conjugate_gradient(lambda v: h @ v, b, iterations=3)
    torch.testing.assert_close(residual, b - h @ x)
    assert float(residual.norm()) > 1e-3


def test_conjugate_gradient_stops_at_negative_curvature() -> None:
    h = torch.diag(torch.tensor([1.0, -2.0]))
    x, residual = conjugate_gradient(lambda v: h @ v, torch.tensor([1.0, 1.0]), iterations=5)
    assert torch.isfinite(x).all()
    assert torch.isfinite(residual).all()


def gaussian_problem(dtype: torch.dtype = torch.float64) -> tuple[Objective, Tensor, Tensor]:
    """Linear loss, KL of N(f(theta), 1) from itself at theta0 for a nonlinear f, its Hessian."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64).to(dtype)
    theta = torch.randn(4, generator=generator, dtype=torch.float64).to(dtype)
    slope = torch.randn(4, generator=generator, dtype=torch.float64).to(dtype)

    def kl(vector: Tensor) -> Tensor:
        return (torch.tanh(inputs @ vector) - torch.tanh(inputs @ theta)).square().mean() / 2

    def gradient(vector: Tensor, **_) -> Tensor:
        leaf = vector.detach().requires_grad_()
        return torch.autograd.grad(kl(leaf), leaf)[0]

    def hvp(vector: Tensor, v: Tensor, **_) -> Tensor:
        return torch.autograd.functional.hvp(kl, vector, v)[1]

    def loss_and_kl(vector: Tensor) -> Tensor:
        return torch.stack([slope @ vector, kl(vector)])

    problem = Objective(loss_and_kl, lambda v: (loss_and_kl(v), slope), gradient, hvp)
    return problem, theta, torch.autograd.functional.hessian(kl, theta)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("dtype", "epsilon", "tolerance"),
    [(torch.float64, 1e-5, 1e-4), (torch.float32, 1e-3, 2e-2)],
)
def test_finite_difference_product_equals_the_dense_hessian(
    dtype, epsilon: float, tolerance: float, symmetric: bool
) -> None:
    problem, theta, hessian = gaussian_problem(dtype)
    product = finite_difference_hvp(problem.kl_gradient, theta, epsilon, symmetric=symmetric)
    for scale in (1e-4, 1.0, 1e4):  # the perturbation must not depend on the length of v
        v = scale * torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=dtype)
        expected = hessian @ v
        assert float((product(v) - expected).norm() / expected.norm()) < tolerance
        torch.testing.assert_close(problem.kl_hvp(theta, v), expected)
    assert torch.equal(product(torch.zeros(4, dtype=dtype)), torch.zeros(4, dtype=dtype))


RLLAB = TrustRegion(
    hvp_epsilon=1.0, hvp_length="proportional", hvp_symmetric=True, inner_hessian="exact"
)


def test_proportional_differences_are_rllabs() -> None:
    """(g(theta + e v) - g(theta - e v)) / 2 e with e = 1 / |theta|, whatever the length of v."""
    theta = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)  # of length 1.3

    def gradient(x: Tensor) -> Tensor:
        return (x - theta) + torch.tanh(3 * (x - theta))

    product = finite_difference_hvp(gradient, theta, 1.0, proportional=True, symmetric=True)
    for v in (torch.tensor([0.01, 0.0, 0.02]), torch.tensor([5.0, -3.0, 1.0])):
        v = v.double()
        expected = (gradient(theta + v / 1.3) - gradient(theta - v / 1.3)) / (2 / 1.3)
        torch.testing.assert_close(product(v), expected)
    assert torch.equal(product(torch.zeros_like(theta)), torch.zeros_like(theta))


def test_step_length_is_of_the_curvature_over_the_steps_own_direction() -> None:
    """Where products are not linear, conjugate gradient's recursion does not know x'Hx."""
    slope = torch.tensor([1.0, -0.5], dtype=torch.float64)
    theta = torch.tensor([0.6, 0.8], dtype=torch.float64)  # of length 1
    matrix = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    asked: list[Tensor] = []

    def gradient(x: Tensor, **_) -> Tensor:
        asked.append(x - theta)
        return matrix @ torch.sinh(x - theta)

    problem = Objective(
        lambda x: torch.stack([slope @ (x - theta), torch.zeros(())]),
        lambda x: (torch.zeros(2), slope),
        gradient,
        lambda x, v, **_: matrix @ v,
        iteration=1,
    )
    config = replace(RLLAB, max_kl=0.5, cg_iterations=1, cg_damping=0.0)
    new, _, stats = config.step(problem, theta, config.init(theta))
    x = slope * (slope @ slope) / (slope @ matrix @ torch.sinh(slope))  # one iteration
    torch.testing.assert_close(asked[-2], x)
    curvature = x @ matrix @ torch.sinh(x)
    torch.testing.assert_close(theta - new, x / curvature.sqrt())
    assert stats["accepted"] == 1


@pytest.mark.parametrize("hvp", ["finite-difference", "exact"])
def test_step_is_the_constrained_optimum_of_the_model(hvp: str) -> None:
    """For a tiny trust region the step is the minimiser of the linear loss on the KL ellipsoid."""
    problem, theta, hessian = gaussian_problem()
    config = TrustRegion(max_kl=1e-8, cg_damping=0.0, hvp=hvp, hvp_epsilon=1e-6)
    new, _, stats = config.step(problem, theta, config.init(theta))
    slope = problem.loss_gradient(theta)[1]
    slope, h = slope.numpy(), hessian.numpy()
    unit = math.sqrt(config.max_kl)  # the optimum in units of which everything is of order one
    result = scipy.optimize.minimize(
        lambda s: slope @ s,
        x0=-0.1 * slope,
        constraints={"type": "ineq", "fun": lambda s: 1 - s @ h @ s / 2},
        options={"ftol": 1e-12},
    )
    assert result.success
    step = (new - theta) / config.backtrack_ratio ** stats["backtrack"]
    torch.testing.assert_close(step / unit, torch.from_numpy(result.x), rtol=2e-3, atol=2e-3)
    assert stats["accepted"] == 1
    assert stats["kl"] <= config.max_kl
    assert stats["loss_after"] < stats["loss_before"]
    assert stats["hvp_error"] < 1e-3


def test_damping_is_added_to_the_curvature() -> None:
    problem, theta, hessian = gaussian_problem()
    config = TrustRegion(max_kl=1e-8, cg_damping=10.0, hvp="exact")
    new, _, _ = config.step(problem, theta, config.init(theta))
    g = problem.loss_gradient(theta)[1]
    direction = torch.linalg.solve(hessian + 10 * torch.eye(4, dtype=torch.float64), g)
    step = theta - new
    torch.testing.assert_close(step / step.norm(), direction / direction.norm())


def changed(problem: Objective, **fields) -> Objective:
    return replace(problem, **fields)


def broken_problems(problem: Objective) -> dict[str, Objective]:
    nan = torch.full((4,), math.nan, dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    return {
        "nan-gradient": changed(problem, loss_gradient=lambda v: (torch.zeros(2), nan)),
        "zero-gradient": changed(problem, loss_gradient=lambda v: (torch.zeros(2), zero)),
        "nan-curvature": changed(problem, kl_gradient=lambda v, **_: nan),
        "negative-curvature": changed(
            problem, kl_gradient=lambda v, g=problem.kl_gradient, **_: -g(v)
        ),
        "nan-loss": changed(problem, loss_and_kl=lambda v: torch.tensor([math.nan, 0.0])),
        "nan-kl": changed(problem, loss_and_kl=lambda v: torch.tensor([-1e9, math.nan])),
        "kl-always-too-large": changed(problem, loss_and_kl=lambda v: torch.tensor([-1e9, 1.0])),
        "loss-never-better": changed(problem, loss_and_kl=lambda v: torch.tensor([1e9, 0.0])),
    }


@pytest.mark.parametrize("case", list(broken_problems(gaussian_problem()[0])))
def test_guards_keep_theta(case: str) -> None:
    problem, theta, _ = gaussian_problem()
    new, _, stats = TrustRegion().step(broken_problems(problem)[case], theta, {})
    assert torch.equal(new, theta)
    assert stats["accepted"] == 0


def test_line_search_takes_the_first_acceptable_backtrack() -> None:
    problem, theta, _ = gaussian_problem()
    tried: list[float] = []

    def loss_and_kl(vector: Tensor) -> Tensor:
        tried.append(float((vector - theta).norm()))
        return torch.tensor([-1e9, 0.0 if len(tried) == 4 else 1.0])

    config = TrustRegion(backtrack_ratio=0.5)
    _, _, stats = config.step(changed(problem, loss_and_kl=loss_and_kl), theta, config.init(theta))
    assert stats["backtrack"] == 3
    ratios = [b / a for a, b in pairwise(tried)]
    assert ratios == pytest.approx([0.5, 0.5, 0.5], rel=1e-6)


def test_a_relative_difference_is_never_flattering():
    one, zero = torch.ones(2), torch.zeros(2)
    assert relative_difference(zero, zero) == 0
    assert relative_difference(2 * one, one) == pytest.approx(1.0)
    assert relative_difference(one, zero) == math.inf
    assert math.isnan(relative_difference(torch.full((2,), torch.nan), one))
