"""Implicit meta-gradients against differentiation through many inner steps, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.core.adapt import Rates, adapt
from metarl.core.gradients import exact
from metarl.core.implicit import ProximalTerm, implicit_adapt, pulled_loss, residual, solve
from metarl.core.params import Params, flatten, unflatten
from metarl.core.task_map import TaskMap

STEPS, RATE = 400, 0.3
LIKE: Params = {"weight": torch.zeros(4, 2).double(), "bias": torch.zeros(2).double()}


def loss_of(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Logistic loss of a linear model: convex, and its Hessian changes with the parameters."""
    x, y = batch
    logits = x @ params["weight"] + params["bias"]
    return torch.nn.functional.softplus(-y * logits).mean()


def problem(tasks: int = 3) -> tuple[Tensor, Any]:
    """theta [P], and support and query data of every task."""
    generator = torch.Generator().manual_seed(0)

    def examples() -> tuple[Tensor, Tensor]:
        x = torch.randn(tasks, 12, 4, generator=generator)
        y = torch.randn(tasks, 12, 2, generator=generator)
        return x.double(), y.sign().double()

    return torch.randn(10, generator=generator).double(), (examples(), examples())


def outer(proximal: ProximalTerm, steps: int, meta: Params, task: Any) -> Tensor:
    """Query loss of the implicit phi."""
    support, query = task
    theta = unflatten(meta["meta"], LIKE)
    rates: list[Rates] = [dict.fromkeys(LIKE, RATE)] * steps
    return loss_of(implicit_adapt(loss_of, theta, rates, [support] * steps, proximal), query)


def unrolled(strength: float, meta: Params, task: Any) -> Tensor:
    """The same by differentiating through all inner steps."""
    support, query = task
    theta = unflatten(meta["meta"], LIKE)
    rates: list[Rates] = [dict.fromkeys(LIKE, RATE)] * STEPS
    loss = partial(pulled_loss, loss_of, theta, strength)
    return loss_of(adapt(loss, theta, rates, [support] * STEPS, exact), query)


@pytest.mark.parametrize(("strength", "chunk_size"), [(0.1, 1), (2.0, 3)])
def test_at_a_stationary_phi_the_meta_gradient_is_that_through_all_inner_steps(
    strength: float, chunk_size: int
):
    theta, data = problem()
    task_map = TaskMap(chunk_size)
    expected = task_map.mean_and_grad(partial(unrolled, strength), {"meta": theta}, data)
    proximal = ProximalTerm(strength, cg_iterations=12)
    found = task_map.mean_and_grad(partial(outer, proximal, STEPS), {"meta": theta}, data)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1]["meta"], expected[1]["meta"], rtol=1e-6, atol=1e-9)
    first_order = partial(outer, ProximalTerm(strength, cg_iterations=0), STEPS)
    rough = task_map.mean_and_grad(first_order, {"meta": theta}, data)[1]["meta"]
    assert not torch.allclose(rough, expected[1]["meta"], rtol=1e-2)


def test_a_phi_is_stationary_after_many_inner_steps():
    theta, ((x, y), _) = problem()
    params, support = unflatten(theta, LIKE), (x[0], y[0])
    found = []
    for steps in (1, 10, STEPS):
        rates: list[Rates] = [dict.fromkeys(LIKE, RATE)] * steps
        phi = implicit_adapt(loss_of, params, rates, [support] * steps, ProximalTerm(2.0))
        found.append(float(residual(loss_of, params, phi, support, 2.0)))
    assert 1 > found[0] > found[1] > found[2]
    assert found[2] < 1e-10
    assert float(residual(loss_of, params, params, support, 2.0)) == pytest.approx(1)


def nodes(value: Tensor) -> int:
    """Number of nodes in the graph of a tensor, which keep what backward needs."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return len(seen)


def test_memory_does_not_grow_with_the_number_of_inner_steps():
    theta, data = problem(1)
    task = tuple((x[0], y[0]) for x, y in data)
    meta = {"meta": theta.requires_grad_()}
    few, many = (nodes(outer(ProximalTerm(), steps, meta, task)) for steps in (1, STEPS))
    assert few == many < 100 < nodes(unrolled(2.0, meta, task))


def test_an_implicit_derivative_has_none_of_its_own():
    theta, data = problem(1)
    theta.requires_grad_()
    value = outer(ProximalTerm(), 2, {"meta": theta}, tuple((x[0], y[0]) for x, y in data))
    with pytest.raises(NotImplementedError, match="cannot be differentiated again"):
        torch.autograd.grad(value, theta, create_graph=True)


def test_solutions_are_those_of_a_dense_solver():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator).double()
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=generator).double()
    expected = torch.linalg.solve(matrix, b)
    for iterations in (6, 30):  # once it is there, it stays
        found = solve(lambda v: matrix @ v, b, iterations)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(solve(lambda v: v, b, 3), b)
    assert torch.equal(solve(lambda v: -2 * v, b, 3), b), "without curvature it is first order"


def test_products_have_the_hessian_at_phi():
    """The derivative of one inner step's phi along w, against a dense Hessian."""
    theta, data = problem(1)
    support = (data[0][0][0], data[0][1][0])
    rates: list[Rates] = [dict.fromkeys(LIKE, RATE)]
    theta.requires_grad_()
    phi = flatten(
        implicit_adapt(loss_of, unflatten(theta, LIKE), rates, [support], ProximalTerm(0.5, 12))
    )
    w = torch.ones_like(phi)
    (found,) = torch.autograd.grad(phi, theta, w)
    hessian = torch.autograd.functional.hessian(
        lambda x: loss_of(unflatten(x, LIKE), support), phi.detach()
    )
    expected = torch.linalg.solve(torch.eye(len(phi)).double() + hessian / 0.5, w)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
