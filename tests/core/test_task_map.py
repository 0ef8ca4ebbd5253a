"""The task axis: loop = vmap = threads, and gradients that are those of the mean."""

import threading
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from metarl.core.adapt import adapt
from metarl.core.params import Functional, Params, flatten, parameters_of, tree_map, unflatten
from metarl.core.task_map import TaskMap, sum_of_products, thread_pool
from metarl.rl.sampler import Sampler

TASKS = 7
ARRANGEMENTS = [(1, 1), (1, 2), (1, 3), (3, 1), (3, 2), (7, 1), (20, 2)]


@pytest.fixture
def problem():
    """A MAML objective over seven tasks in float64: [query loss, its square]."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    forward = Functional(model)
    data = tuple(
        (torch.randn(TASKS, 5, 3).double(), torch.randn(TASKS, 5, 1).double()) for _ in range(2)
    )

    def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (forward(params, x) - y).square().mean()

    def objective(meta: Params, task) -> Tensor:
        support, query = task
        value = loss(adapt(loss, meta, [dict.fromkeys(meta, 0.1)], [support]), query)
        return torch.stack([value, value.square()])

    return objective, parameters_of(model), data


def reference(objective, meta: Params, data) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, gradient and Hessian by autograd over one graph of all tasks."""
    tasks = [tree_map(lambda x, i=i: x[i], data) for i in range(TASKS)]

    def mean(vector: Tensor) -> Tensor:
        params = unflatten(vector, meta)
        return torch.stack([objective(params, task) for task in tasks]).mean(0)

    vector = flatten(meta)
    value = mean(vector)
    gradient = torch.autograd.functional.jacobian(lambda v: mean(v)[0], vector)
    hessian = torch.autograd.functional.hessian(lambda v: mean(v)[0], vector)
    return value, gradient, hessian


@pytest.mark.parametrize(("chunk_size", "threads"), ARRANGEMENTS)
def test_every_arrangement_gives_the_mean_gradient_and_curvature(
    problem, chunk_size: int, threads: int
) -> None:
    objective, meta, data = problem
    value, gradient, hessian = reference(objective, meta, data)
    task_map = TaskMap(chunk_size, threads)
    v = torch.randn(len(gradient), dtype=torch.float64)

    torch.testing.assert_close(task_map.mean(objective, meta, data), value)
    mean, grads = task_map.mean_and_grad(objective, meta, data)
    torch.testing.assert_close(mean, value)
    torch.testing.assert_close(flatten(grads), gradient)
    product = task_map.hvp(objective, meta, data, unflatten(v, meta))
    torch.testing.assert_close(flatten(product), hessian @ v)


def test_threads_do_not_change_a_bit(problem) -> None:
    objective, meta, data = problem
    torch.set_num_threads(1)
    results = [
        flatten(TaskMap(1, threads).mean_and_grad(objective, meta, data)[1])
        for threads in (1, 2, 3)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(("chunk_size", "threads"), ARRANGEMENTS)
def test_map_keeps_the_order_and_the_structure(chunk_size: int, threads: int) -> None:
    data = {"x": torch.arange(float(TASKS)), "y": torch.ones(TASKS, 2)}
    result = TaskMap(chunk_size, threads).map(
        lambda task: {"double": 2 * task["x"], "pair": (task["y"], task["x"])}, data
    )
    assert torch.equal(result["double"], 2 * torch.arange(float(TASKS)))
    assert torch.equal(result["pair"][0], torch.ones(TASKS, 2))
    assert not result["double"].requires_grad


def test_an_objective_that_ignores_a_parameter_has_zero_gradient_there() -> None:
    meta = {"used": torch.ones(2), "unused": torch.ones(3)}
    data = torch.ones(4, 2)
    _, gradient = TaskMap().mean_and_grad(lambda m, x: (m["used"] * x).sum(), meta, data)
    assert torch.equal(gradient["unused"], torch.zeros(3))
    _, gradient = TaskMap().mean_and_grad(lambda m, x: x.sum(), meta, data)
    assert torch.equal(gradient["used"], torch.zeros(2))


def test_an_error_in_a_task_reaches_the_caller() -> None:
    def broken(meta: Params, x: Tensor) -> Tensor:
        raise ArithmeticError("task is broken")

    with pytest.raises(ArithmeticError, match="task is broken"):
        TaskMap(1, 2).mean(broken, {"w": torch.ones(1)}, torch.ones(3, 1))


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (1, -1)])
def test_arguments_are_checked(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        TaskMap(*arguments)


def test_peak_graph_is_one_chunk(problem) -> None:
    """Saved tensors of a graph are freed before the next chunk's are made."""
    _, meta, data = problem
    alive = peak = 0

    class Token:
        def __init__(self, tensor: Tensor):
            nonlocal alive, peak
            self.tensor = tensor
            alive += 1
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def first(meta: Params, task) -> Tensor:
        return (meta["0.weight"].exp().sum() * task[0][0].sum()).exp()

    peaks = []
    for tasks in (1, 7):
        alive = peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Token, lambda token: token.tensor):
            TaskMap().mean_and_grad(first, meta, tree_map(lambda x, n=tasks: x[:n], data))
        peaks.append(peak)
    assert peaks[0] == peaks[1] > 0


def test_sum_of_products() -> None:
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0]])}
    b = {"x": torch.tensor([4.0, 5.0]), "y": torch.tensor([[6.0]])}
    assert float(sum_of_products(a, b)) == 4 + 10 + 18


def test_pool_threads_compute_with_the_callers_number_of_threads(monkeypatch):
    """MKL and OpenMP count per calling thread: a new one would use all cores."""
    told: list[tuple[str, int]] = []
    caller = torch.get_num_threads()
    monkeypatch.setattr(
        torch, "set_num_threads", lambda n: told.append((threading.current_thread().name, n))
    )
    barrier = threading.Barrier(3)
    with thread_pool(3) as pool:
        names = set(pool.map(lambda _: (barrier.wait(), threading.current_thread().name)[1], "abc"))
    assert {name for name, _ in told} == names
    assert [n for _, n in told] == [caller] * 3


@pytest.mark.parametrize("make", [TaskMap, Sampler], ids=["TaskMap", "Sampler"])
def test_who_uses_threads_takes_that_pool(make, monkeypatch):
    asked = []
    monkeypatch.setattr(f"{make.__module__}.thread_pool", asked.append)
    if make is TaskMap:
        TaskMap(threads=3)
    else:
        Sampler(lambda *_: None, lambda *_: None, 1, threads=2)
    assert asked == [3 if make is TaskMap else 2]


@pytest.mark.needs_compiler
def test_partials_of_one_function_with_equal_arguments_are_one_program() -> None:
    def scaled(scale: float, meta: Params, x: Tensor) -> Tensor:
        return scale * (meta["w"] * x).sum()

    task_map, meta, data = TaskMap(compiled=True), {"w": torch.ones(3)}, torch.ones(1, 3)
    for scale in (2.0, 2.0, 3.0):
        assert float(task_map.mean(partial(scaled, scale), meta, data)) == 3 * scale
    assert len(task_map._programs) == 2
