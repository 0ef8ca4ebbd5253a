"""The inner loop: its gradient, its variants, and a problem whose meta-gradient is known."""

import pytest
import torch
from torch import Tensor, nn

from metarl.core.adapt import Rates, adapt
from metarl.core.algorithms import (
    ALGORITHMS,
    RATE_PREFIX,
    PerElement,
    adapted_names,
    inner_rates,
    split_rates,
    with_rates,
)
from metarl.core.gradients import InnerGradient, by_differences, exact, first_order
from metarl.core.params import Functional, Params, flatten, parameters_of, unflatten


@pytest.fixture(autouse=True)
def float64():
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


def small_problem(inner_steps: int):
    """A two-layer regression network with support batches and a query batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    forward = Functional(model)
    support = [(torch.randn(6, 3), torch.randn(6, 2)) for _ in range(inner_steps)]
    query = (torch.randn(7, 3), torch.randn(7, 2))

    def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (forward(params, x) - y).square().mean()

    return loss, parameters_of(model), support, query


def judge(
    loss,
    theta: Params,
    rates: list[Rates],
    support,
    query,
    gradient: InnerGradient = exact,
) -> Tensor:
    return loss(adapt(loss, theta, rates, support, gradient), query)


def numerical_gradient(fn, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    units = torch.eye(len(x)) * epsilon
    return torch.stack([(fn(x + u) - fn(x - u)) / (2 * epsilon) for u in units])


@pytest.mark.parametrize("inner_steps", [1, 2, 3])
@pytest.mark.parametrize("rate", ["scalar", "per-step", "per-parameter", "partial"])
@pytest.mark.parametrize("inner_gradient", [exact, by_differences(1e-7)])
def test_meta_gradient_equals_finite_differences(
    inner_steps: int, rate: str, inner_gradient: InnerGradient
) -> None:
    loss, theta, support, query = small_problem(inner_steps)
    generator = torch.Generator().manual_seed(1)
    names = [n for n in theta if rate != "partial" or n.startswith("2.")]
    rates: list[Rates] = []
    for k in range(inner_steps):
        alpha = 0.3 / (k + 1) if rate == "per-step" else 0.3
        if rate == "per-parameter":
            rates.append(
                {n: alpha * torch.rand(theta[n].shape, generator=generator) for n in names}
            )
        else:
            rates.append(dict.fromkeys(names, alpha))

    def objective(vector: Tensor) -> Tensor:
        params = unflatten(vector, theta)
        return judge(loss, params, rates, support, query, inner_gradient)

    vector = flatten(theta).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(vector), vector)
    torch.testing.assert_close(
        gradient, numerical_gradient(objective, vector.detach()), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("head_only", [False, True])
def test_hessian_by_finite_differences_costs_a_gradient_a_step_also_under_vmap(
    inner_steps: int, head_only: bool
) -> None:
    """Of each task along its own direction; nothing where nothing comes back."""
    loss, theta, _, _ = small_problem(1)
    data = (torch.randn(4, 6, 3), torch.randn(4, 6, 2))
    names = [n for n in theta if n.startswith("2.") or not head_only]
    rates: list[Rates] = [dict.fromkeys(names, 0.3)] * inner_steps
    calls = []

    def counted(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        return loss(params, batch)

    def of_task(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        phi = adapt(counted, params, rates, [batch] * inner_steps, by_differences(1e-6))
        return torch.stack([loss(phi, batch), (0 * flatten(phi)).sum()])

    def gradient(entry: int, values) -> Tensor:
        return torch.autograd.grad(values(theta)[:, entry].sum(), list(theta.values()))

    theta = {name: p.requires_grad_() for name, p in theta.items()}
    tasks = list(zip(*data, strict=True))
    one_by_one = gradient(0, lambda p: torch.stack([of_task(p, task) for task in tasks]))
    assert len(calls) == 2 * inner_steps * 4
    at_once = gradient(0, lambda p: torch.func.vmap(of_task, in_dims=(None, 0))(p, data))
    torch.testing.assert_close(at_once, one_by_one)
    nothing = gradient(1, lambda p: torch.func.vmap(of_task, in_dims=(None, 0))(p, data))
    assert all((g == 0).all() for g in nothing)


def test_a_derivative_by_finite_differences_has_none_of_its_own() -> None:
    loss, theta, support, query = small_problem(1)
    vector = flatten(theta).requires_grad_()
    rates: list[Rates] = [dict.fromkeys(theta, 0.3)]
    value = judge(loss, unflatten(vector, theta), rates, support, query, by_differences(1e-6))
    with pytest.raises(NotImplementedError, match="has none of its own"):
        torch.autograd.grad(value, vector, create_graph=True)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_gradient_of_learned_rates_equals_finite_differences(inner_steps: int) -> None:
    loss, theta, support, query = small_problem(inner_steps)
    meta_sgd = ALGORITHMS["meta-sgd"]
    meta = with_rates(meta_sgd, theta, list(theta), rate=0.2)
    assert len(flatten(meta)) == 2 * len(flatten(theta))

    def objective(vector: Tensor) -> Tensor:
        params, learned = split_rates(unflatten(vector, meta))
        rates = inner_rates(list(theta), [0.2, 0.1, 0.1][:inner_steps], learned, 0.2, PerElement())
        return judge(loss, params, rates, support, query)

    vector = flatten(meta).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(vector), vector)
    torch.testing.assert_close(
        gradient, numerical_gradient(objective, vector.detach()), rtol=1e-6, atol=1e-8
    )


def test_learned_rates_start_as_maml_and_later_steps_keep_their_ratio() -> None:
    loss, theta, support, _ = small_problem(2)
    meta = with_rates(ALGORITHMS["meta-sgd"], theta, list(theta), rate=0.2)
    params, learned = split_rates(meta)
    alphas = [0.2, 0.1]
    sgd = adapt(loss, params, inner_rates(list(theta), alphas, learned, 0.2, PerElement()), support)
    maml = adapt(loss, theta, inner_rates(list(theta), alphas, {}, 0.2, None), support)
    for name in theta:
        torch.testing.assert_close(sgd[name], maml[name])
    assert all(name.startswith(RATE_PREFIX) for name in set(meta) - set(theta))


def test_first_order_is_the_plain_gradient_at_phi() -> None:
    loss, theta, support, query = small_problem(2)
    rates: list[Rates] = [dict.fromkeys(theta, 0.3)] * 2
    leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
    fomaml = torch.autograd.grad(
        judge(loss, leaves, rates, support, query, first_order), list(leaves.values())
    )
    phi = {n: p.detach().requires_grad_() for n, p in adapt(loss, theta, rates, support).items()}
    plain = torch.autograd.grad(loss(phi, query), list(phi.values()))
    second = torch.autograd.grad(judge(loss, leaves, rates, support, query), list(leaves.values()))
    for a, b, c in zip(fomaml, plain, second, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(a, c, rtol=1e-3)


def test_anil_leaves_the_body_bit_identical() -> None:
    loss, theta, support, _ = small_problem(2)
    names = adapted_names(ALGORITHMS["anil"], list(theta), head=("2.",))
    assert names == ("2.weight", "2.bias")
    phi = adapt(loss, theta, inner_rates(names, [0.1, 0.1], {}, 0.1, None), support)
    assert torch.equal(phi["0.weight"], theta["0.weight"])
    assert torch.equal(phi["0.bias"], theta["0.bias"])
    assert not torch.equal(phi["2.weight"], theta["2.weight"])
    assert list(phi) == list(theta), "flatten relies on the order"


def test_boil_leaves_the_head_bit_identical() -> None:
    loss, theta, support, _ = small_problem(2)
    names = adapted_names(ALGORITHMS["boil"], list(theta), head=("2.",))
    assert names == ("0.weight", "0.bias")
    phi = adapt(loss, theta, inner_rates(names, [0.1, 0.1], {}, 0.1, None), support)
    assert torch.equal(phi["2.weight"], theta["2.weight"])
    assert not torch.equal(phi["0.weight"], theta["0.weight"])
    with pytest.raises(ValueError, match="all parameters are of the head"):
        adapted_names(ALGORITHMS["boil"], ["head.weight"], head=("head",))


def test_anil_refuses_a_model_without_the_named_head() -> None:
    with pytest.raises(ValueError, match="no parameter starts with last"):
        adapted_names(ALGORITHMS["anil"], ["0.weight"], head=("last",))


def test_rates_and_batches_must_match() -> None:
    loss, theta, support, _ = small_problem(2)
    with pytest.raises(ValueError, match="zip"):
        adapt(loss, theta, [dict.fromkeys(theta, 0.1)], support)
    with pytest.raises(KeyError):
        adapt(loss, theta, [{"nonsense": 0.1}] * 2, support)


def test_linear_gaussian_problem_with_known_meta_gradient() -> None:
    """A Gaussian bandit: everything about its adaptation is known in closed form.

    Policy N(theta, 1), reward -(a - g)^2 / 2. The expected inner loss is J(theta) =
    ((theta - g)^2 + 1) / 2, so phi = theta - alpha (theta - g), and the expected outer loss
    ((phi - g)^2 + 1) / 2 has the meta-gradient (1 - alpha)^2 (theta - g): the factor (1 - alpha)
    once for phi and once more for d phi / d theta, which first order drops.
    """
    theta, goal, alpha = torch.tensor(1.7), torch.tensor(-0.4), 0.3

    def expected_loss(params: Params, goal: Tensor) -> Tensor:
        return ((params["mean"] - goal).square() + 1) / 2

    for kind, power in ((exact, 2), (first_order, 1)):
        leaf = theta.clone().requires_grad_()
        outer = judge(expected_loss, {"mean": leaf}, [{"mean": alpha}], [goal], goal, kind)
        (gradient,) = torch.autograd.grad(outer, leaf)
        torch.testing.assert_close(gradient, (1 - alpha) ** power * (theta - goal))
