"""The gradient check finds what is wrong, where it is wrong, and nothing else."""

import math

import pytest
import torch
from torch import Tensor, nn

from metarl.core.adapt import adapt
from metarl.core.gradcheck import check_gradient
from metarl.core.gradients import first_order
from metarl.core.params import Functional, Params, parameters_of


def problem(seed: int = 0):
    """A small network, its MAML objective for a squared error, its parameters and data."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    params = {
        name: 0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in parameters_of(module).items()
    }
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    predict = Functional(module)

    def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (predict(params, batch[0]) - batch[1]).square().mean()

    return loss, params, (x[:4], x[:4].sum(1, keepdim=True)), (x[4:], x[4:].prod(1, keepdim=True))


def test_a_right_meta_gradient_is_right_everywhere():
    loss, params, support, query = problem()

    def objective(theta: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        return loss(adapt(loss, theta, [dict.fromkeys(theta, 0.1)] * 2, [support] * 2), data)

    found = check_gradient(objective, params, query)
    assert [entry.name for entry in found] == list(params)
    assert all(entry.error < 1e-7 for entry in found), found
    assert max(abs(entry.gradient) for entry in found) > 1e-3


def test_a_first_order_gradient_is_told_from_the_meta_gradient():
    loss, params, support, query = problem()

    def objective(theta: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        phi = adapt(loss, theta, [dict.fromkeys(theta, 0.5)], [support], first_order)
        return loss(phi, data)

    assert max(entry.error for entry in check_gradient(objective, params, query)) > 1e-2


def test_the_parameter_and_the_entry_that_are_wrong_are_named():
    params = {name: torch.ones(3, 2, dtype=torch.float64) for name in ("right", "wrong")}

    def objective(p: Params, data: Tensor) -> Tensor:
        cut = p["wrong"].clone()
        cut[2, 1] = cut[2, 1].detach()  # counts, but its gradient is lost
        return (data * (p["right"] + cut)).square().sum()

    data = torch.arange(1.0, 7.0, dtype=torch.float64).view(3, 2)
    right, wrong = check_gradient(objective, params, data)
    assert right.error < 1e-8
    assert (wrong.name, wrong.where, wrong.gradient) == ("wrong", (2, 1), 0.0)
    assert wrong.finite_difference == pytest.approx(2 * 6**2 * 2)
    assert wrong.error == pytest.approx(1.0)


def test_a_parameter_that_does_not_matter_has_gradient_zero():
    params = {name: torch.ones((), dtype=torch.float64) for name in ("used", "unused")}
    used, unused = check_gradient(lambda p, _: p["used"].exp(), params, None)
    assert (unused.gradient, unused.finite_difference, unused.where) == (0.0, 0.0, ())
    assert used.gradient == pytest.approx(math.e)


@pytest.mark.parametrize(
    ("params", "objective", "said"),
    [
        ({"x": torch.ones(2)}, lambda p, _: p["x"].sum(), "x should be float64"),
        ({"x": torch.ones(2).double()}, lambda p, _: p["x"], "a finite scalar"),
        (
            {"x": -torch.ones(2).double()},
            lambda p, _: p["x"].log().sum(),
            "a finite scalar, got nan",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(params, objective, said: str):
    with pytest.raises(ValueError, match=said):
        check_gradient(objective, params, None)


def test_a_gradient_that_is_not_a_number_is_the_worst_entry():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, gradient):
            return torch.tensor([1.0, float("nan"), 1.0], dtype=torch.float64)

    params = {"w": torch.ones(3, dtype=torch.float64)}
    (entry,) = check_gradient(lambda p, data: Broken.apply(p["w"]), params, None)
    assert entry.where == (1,)
    assert not entry.error <= 1e-4
