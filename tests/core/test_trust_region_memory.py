"""What a trust region keeps of earlier steps, and how long its steps are."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metarl.core.outer.averages import moving_mean
from metarl.core.outer.curvature import conjugate_gradient
from metarl.core.outer.step import Objective
from metarl.core.outer.trust_region import TrustRegion

HESSIAN = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]], dtype=torch.float64)
THETA = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
SLOPES = torch.tensor([[1.0, 0.5, -1.0], [0.2, 1.0, 0.4], [1.0, -0.3, 0.6]], dtype=torch.float64)
EXACT = TrustRegion(hvp="exact", cg_damping=0.0, max_kl=1e-4)


def problem(slope: Tensor, theta: Tensor = THETA) -> Objective:
    """A linear loss, and a KL that is quadratic around theta."""

    def loss_and_kl(x: Tensor) -> Tensor:
        d = x - theta
        return torch.stack([slope @ d, d @ HESSIAN @ d / 2])

    return Objective(
        loss_and_kl,
        lambda x: (loss_and_kl(x), slope),
        lambda x, **_: HESSIAN @ (x - theta),
        lambda x, v, **_: HESSIAN @ v,
        iteration=1,
    )


def on_the_boundary(x: Tensor) -> Tensor:
    """The step along -x whose quadratic KL is the radius."""
    return -math.sqrt(2 * EXACT.max_kl / float(x @ HESSIAN @ x)) * x


def shifts(config: TrustRegion, slopes: Tensor = SLOPES) -> list[Tensor]:
    """Steps from one theta for one slope after another; only the memory changes."""
    state, steps = config.init(THETA), []
    for slope in slopes:
        new, state, stats = config.step(problem(slope), THETA, state)
        assert stats["accepted"]
        assert stats["kl"] <= config.max_kl
        steps.append((new - THETA) / config.backtrack_ratio ** stats["backtrack"])
    return steps


def weighted(rows: Tensor, decay: float) -> Tensor:
    """The mean of rows, of which each weighs ``decay`` times the next."""
    weights = decay ** torch.arange(len(rows) - 1, -1, -1, dtype=torch.float64)
    return weights @ rows / weights.sum()


def test_a_moving_mean_is_the_weighted_mean():
    mean = torch.full((3,), 7.0, dtype=torch.float64)  # counts nothing
    for k, row in enumerate(SLOPES, start=1):
        mean = moving_mean(mean, row, 0.6, torch.tensor(float(k), dtype=torch.float64))
        torch.testing.assert_close(mean, weighted(SLOPES[:k], 0.6))


def test_a_gradient_memory_steps_along_the_mean_gradient():
    found = shifts(replace(EXACT, memory="gradient", memory_decay=0.6))
    for k, step in enumerate(found, start=1):
        x = torch.linalg.solve(HESSIAN, weighted(SLOPES[:k], 0.6))
        torch.testing.assert_close(step, on_the_boundary(x))


def test_a_direction_memory_steps_along_the_mean_of_unit_natural_gradients():
    found = shifts(replace(EXACT, memory="direction", memory_decay=0.6))
    x = torch.linalg.solve(HESSIAN, SLOPES.T).T
    x = x / ((x @ HESSIAN) * x).sum(1, keepdim=True).sqrt()
    for k, step in enumerate(found, start=1):
        torch.testing.assert_close(step, on_the_boundary(weighted(x[:k], 0.6)))


def test_a_guess_is_where_conjugate_gradient_starts():
    config = replace(EXACT, memory="guess", memory_decay=0.6, cg_iterations=1)
    slopes = torch.stack([SLOPES[0], SLOPES[0] + 0.1])
    first, second = shifts(config, slopes)
    product = HESSIAN.__matmul__
    x, _ = conjugate_gradient(product, slopes[0], 1)
    torch.testing.assert_close(first, on_the_boundary(x))
    start = 0.6 * x
    residual = slopes[1] - HESSIAN @ start
    along = residual * (residual @ residual) / (residual @ HESSIAN @ residual)
    torch.testing.assert_close(second, on_the_boundary(start + along))


def test_a_guess_with_a_larger_residual_than_zero_is_dropped():
    b = SLOPES[0]
    expected = conjugate_gradient(HESSIAN.__matmul__, b, 2)
    found = conjugate_gradient(HESSIAN.__matmul__, b, 2, guess=-10 * b)
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("memory", ["gradient", "direction"])
def test_a_memory_that_misleads_is_emptied_and_the_step_is_of_the_batch_alone(memory: str):
    config = replace(EXACT, memory=memory, memory_decay=0.99, average_decay=0.5)
    _, state, _ = config.step(problem(SLOPES[0]), THETA, config.init(THETA))
    uphill = state | {"vector": -1e3 * state["vector"]}
    new, state, stats = config.step(problem(SLOPES[0]), THETA, uphill)
    alone, fresh, _ = config.step(problem(SLOPES[0]), THETA, config.init(THETA))
    assert stats["accepted"]
    assert stats["restarted"]
    assert torch.equal(new, alone)
    assert torch.equal(state["vector"], fresh["vector"])
    assert (state["age"], state["steps"]) == (1, 2), "the average goes on"


def test_rejected_steps_leave_no_memory():
    config = replace(EXACT, memory="gradient")
    _, state, _ = config.step(problem(SLOPES[0]), THETA, config.init(THETA))
    bad = replace(problem(SLOPES[1]), loss_and_kl=lambda x: torch.tensor([1e9, 0.0]))
    new, state, stats = config.step(bad, THETA, state)
    assert not stats["accepted"]
    assert torch.equal(new, THETA)
    assert state["age"] == 0
    assert not state["vector"].any()


def test_without_memory_and_average_there_is_no_state():
    assert EXACT.init(THETA) == {}
    assert EXACT.step(problem(SLOPES[0]), THETA, {})[1] == {}


def test_the_average_of_theta_is_what_is_evaluated():
    config = replace(EXACT, average_decay=0.5)
    theta, state, seen = THETA, config.init(THETA), []
    assert torch.equal(config.evaluated(theta, state), theta)
    for slope in SLOPES:
        theta, state, _ = config.step(problem(slope, theta), theta, state)
        seen.append(theta)
    torch.testing.assert_close(config.evaluated(theta, state), weighted(torch.stack(seen), 0.5))


def test_a_length_is_fitted_to_the_kl_that_was_seen():
    """The KL is four times what its Hessian says: half of the length fits."""
    base = problem(SLOPES[0])
    tried: list[float] = []

    def loss_and_kl(x: Tensor) -> Tensor:
        loss, kl = base.loss_and_kl(x)
        tried.append(float((x - THETA).norm()))
        return torch.stack([loss, 4 * kl])

    config = replace(EXACT, fit_length=True)
    _, _, stats = config.step(replace(base, loss_and_kl=loss_and_kl), THETA, {})
    assert stats["backtrack"] == 1
    assert tried[1] / tried[0] == pytest.approx(math.sqrt(0.98 / 4))
    assert stats["kl"] == pytest.approx(0.98 * config.max_kl)
