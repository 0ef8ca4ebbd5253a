"""Schedules of outer steps, against PyTorch's."""

import dataclasses

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from metarl.core.outer.adam import Adam
from metarl.core.outer.schedule import ScheduledStep
from metarl.core.outer.step import Objective
from metarl.core.outer.trust_region import TrustRegion
from metarl.experiment.settings import parse
from metarl.runtime.errors import UserError


@pytest.mark.parametrize("of", [int, torch.tensor])
def test_factors(of) -> None:
    def factors(schedule: str, final: float) -> list[float]:
        step = Adam(schedule=schedule, schedule_iterations=4, schedule_final=final)
        return [float(step.factor(of(done))) for done in range(6)]

    assert factors("linear", 0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert factors("cosine", 0.0) == pytest.approx(
        [1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0], abs=1e-6
    )
    assert factors("constant", 0.0) == [1.0] * 6


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_adam_with_a_schedule_is_pytorchs(schedule: str) -> None:
    torch.manual_seed(0)
    config = Adam(learning_rate=0.03, schedule=schedule, schedule_iterations=10, schedule_final=0.1)
    theta = torch.randn(20, dtype=torch.float64)
    state = config.init(theta)
    reference = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Adam([reference], lr=0.03)
    if schedule == "linear":
        scheduler = LinearLR(optimizer, 1.0, 0.1, total_iters=10)
    else:
        scheduler = CosineAnnealingLR(optimizer, T_max=10, eta_min=0.003)
    for _ in range(10):
        reference.grad = torch.randn(20, dtype=torch.float64)
        optimizer.step()
        theta, state = config.update(theta, reference.grad, state)
        scheduler.step()
        torch.testing.assert_close(theta, reference.detach(), rtol=1e-12, atol=1e-12)


def objective(gradient: torch.Tensor, iteration: int = 0) -> Objective:
    """A linear loss, and a KL of half the squared distance from zero."""

    def loss_and_kl(theta: torch.Tensor) -> torch.Tensor:
        return torch.stack([gradient @ theta, theta @ theta / 2])

    return Objective(
        loss_and_kl=loss_and_kl,
        loss_gradient=lambda theta: (loss_and_kl(theta), gradient),
        kl_gradient=lambda theta, fraction=1.0, hessian_epsilon=None: theta,
        kl_hvp=lambda theta, v, fraction=1.0: v,
        iteration=iteration,
    )


@pytest.mark.parametrize("length", [0.5, 30.0])
def test_long_gradients_are_clipped_as_pytorch_does(length: float) -> None:
    gradient = length * torch.nn.functional.normalize(torch.randn(9, dtype=torch.float64), dim=0)
    parameter = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
    parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 2.0)
    config = Adam(clip_norm=2.0, epsilon=1.0)  # with a large epsilon the length matters
    theta = torch.zeros(9, dtype=torch.float64)
    found, _, stats = config.step(objective(gradient), theta, config.init(theta))
    expected, _ = config.update(theta, parameter.grad, config.init(theta))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert float(stats["gradient_norm"]) == pytest.approx(length), "before it is clipped"


def test_the_trust_region_shrinks() -> None:
    config = TrustRegion(
        max_kl=0.02, hvp="exact", schedule="linear", schedule_iterations=10, cg_damping=0.0
    )
    theta = torch.zeros(5, dtype=torch.float64)
    for iteration, share in ((0, 1.0), (5, 0.5), (9, 0.1)):
        _, _, stats = config.step(objective(torch.ones(5).double(), iteration), theta, {})
        # The model is exact: the first length lies on the border, or a backtrack is inside.
        assert stats["kl"] <= 0.02 * share * (1 + 1e-9)
        assert stats["kl"] >= 0.02 * share * 0.8**2 * (1 - 1e-9)
    kept, _, stats = config.step(objective(torch.ones(5).double(), 10), theta, {})
    assert stats["accepted"] == 0
    assert torch.equal(kept, theta)


def test_a_schedule_lasts_as_long_as_the_run_unless_told() -> None:
    def outer(**settings) -> dict:
        return parse([{"iterations": 70, "outer": {"name": "trpo", **settings}}]).outer

    assert outer()["schedule_iterations"] is None
    assert outer(schedule="linear")["schedule_iterations"] == 70
    assert outer(schedule="cosine", schedule_iterations=9)["schedule_iterations"] == 9
    with pytest.raises(UserError, match=r"outer.schedule "):
        outer(schedule="steps")
    with pytest.raises(UserError, match=r"outer.clip_norm"):
        parse([{"outer": {"name": "adam", "clip_norm": 0}}])
    assert {field.name for field in dataclasses.fields(ScheduledStep)} <= outer().keys()
