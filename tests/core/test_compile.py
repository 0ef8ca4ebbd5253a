"""Traced and compiled programs do what the functions do that they were made of."""

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.core.adapt import adapt
from metarl.core.compile import Compiled, Traced, compiler_fault
from metarl.core.params import Functional, Params, parameters_of
from metarl.core.task_map import TaskMap


@pytest.mark.needs_compiler
@pytest.mark.parametrize(("chunk_size", "threads"), [(1, 2), (2, 1)])
def test_compiled_meta_gradients_are_those_of_eager_ones(chunk_size: int, threads: int) -> None:
    """Four tasks: a program serves every chunk, and the second call too, with other parameters."""
    torch.manual_seed(0)
    predict = Functional(model := nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)))
    data = tuple((torch.randn(4, 5, 2), torch.randn(4, 5, 1)) for _ in range(2))

    def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (predict(params, batch[0]) - batch[1]).square().mean()

    def objective(meta: Params, task) -> Tensor:
        value = loss(adapt(loss, meta, [dict.fromkeys(meta, 0.1)] * 2, [task[0]] * 2), task[1])
        return torch.stack([value, 2 * value])

    eager = TaskMap(chunk_size)
    fast = TaskMap(chunk_size, threads, compiled=True)
    meta = parameters_of(model)
    for _ in range(2):
        value, gradient = fast.mean_and_grad(objective, meta, data)
        expected_value, expected = eager.mean_and_grad(objective, meta, data)
        torch.testing.assert_close(value, expected_value)
        for name in meta:
            torch.testing.assert_close(gradient[name], expected[name], rtol=1e-4, atol=1e-6)
        meta = {name: p - 0.1 * gradient[name] for name, p in meta.items()}
    again = fast.mean_and_grad(objective, meta, data)[1]
    for name, g in fast.mean_and_grad(objective, meta, data)[1].items():
        assert torch.equal(g, again[name])


@pytest.mark.needs_compiler
def test_there_is_one_program_per_shape_however_many_threads_ask() -> None:
    traced = []

    def double(x: dict[str, Tensor]) -> tuple[Tensor]:
        traced.append(tuple(x["a"].shape))
        return (2 * x["a"],)

    program = Compiled(double)
    threads = [
        threading.Thread(target=lambda: program({"a": torch.ones(3)}), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = len(traced)
    assert calls == 2, "one call for errors of the function itself, one that is traced"
    assert torch.equal(program({"a": torch.arange(3.0)})[0], torch.tensor([0.0, 2.0, 4.0]))
    assert len(traced) == calls
    assert program({"a": torch.ones(2, 2)})[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert traced[-1] == (2, 2)


@pytest.mark.parametrize(("columns", "transposed"), [(1, True), (6, True), (15, True), (16, False)])
def test_products_of_few_columns_are_transposed(columns: int, transposed: bool) -> None:
    """And neither their values nor their layout show it."""
    a, b = torch.randn(50, 20), torch.randn(20, columns)
    graph = make_fx(lambda a, b: (a @ b).view(-1), Compiled.decompositions)(a, b)
    (product,) = (n for n in graph.graph.nodes if n.target is torch.ops.aten.mm.default)
    shape = product.meta["val"].shape
    assert shape == ((columns, 50) if transposed else (50, columns))
    torch.testing.assert_close(graph(a, b), (a @ b).view(-1))


@pytest.mark.needs_compiler
def test_compiled_tanh_is_close_enough() -> None:
    x = torch.linspace(-20, 20, 10_001)
    (y,) = Compiled(lambda x: (torch.tanh(x),))(x)
    torch.testing.assert_close(y, torch.tanh(x), rtol=0, atol=3e-7)


@pytest.mark.needs_compiler
def test_names_in_another_order_are_another_program() -> None:
    x, y = torch.ones(2), torch.zeros(2)
    program = Compiled(lambda tree: (tree["a"] - tree["b"],))
    assert program({"a": x, "b": y})[0].tolist() == [1, 1]
    assert program({"b": x, "a": y})[0].tolist() == [-1, -1]


def test_why_nothing_can_be_compiled_is_a_line(monkeypatch) -> None:
    def fail(self, *inputs):
        raise RuntimeError("no working C++ compiler\nin three\nlines")

    monkeypatch.setattr(Compiled, "_finish", fail)
    compiler_fault.cache_clear()
    assert compiler_fault() == "no working C++ compiler"
    compiler_fault.cache_clear()


def test_what_cannot_be_compiled_is_computed_anyway(monkeypatch) -> None:
    def fail(*arguments):
        raise RuntimeError("No space left on device\nwhile writing main.cpp")

    monkeypatch.setattr(Compiled, "_finish", fail)
    double = Compiled(lambda pair: {"sum": pair[0] + 2 * pair[1]})
    x = torch.arange(3.0)
    with pytest.warns(UserWarning, match="not compiled, which is slower: No space left on device$"):
        assert torch.equal(double((x, x))["sum"], 3 * x)
    assert torch.equal(double((x + 1, x))["sum"], 3 * x + 1)  # without a word


# --- traced


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> int:
    """Programs are traced at the third call."""
    monkeypatch.setattr(Traced, "from_call", 3)
    return Traced.from_call


def test_what_is_called_often_is_traced_and_stays_the_same_to_the_last_bit(soon: int) -> None:
    calls = []
    predict = Functional(model := nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)))
    of_all = torch.func.vmap(predict)

    def function(params: Params, x: Tensor) -> tuple[Tensor, Params]:
        calls.append(len(x))
        return of_all(params, x), {"sum": x.sum(1)}

    torch.manual_seed(0)
    params = {name: torch.randn(5, *p.shape) for name, p in parameters_of(model).items()}
    program = Traced(function)
    for _ in range(soon - 1):
        program(params, torch.randn(5, 4, 3))
    assert len(calls) == soon - 1
    program(params, torch.randn(5, 4, 3))
    traced = len(calls)
    for _ in range(3):
        x = torch.randn(5, 4, 3)
        y, others = program(params, x)
        assert torch.equal(y, of_all(params, x))
        assert torch.equal(others["sum"], x.sum(1))
        params = {name: p + 1 for name, p in params.items()}
    assert len(calls) == traced
    assert program(params, torch.randn(5, 6, 3))[0].shape == (5, 6, 2)
    assert len(calls) == traced + 1, "other shapes are another program"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x + 1 if x.sum() > 0 else x - 1, "."),  # depends on the data
        (lambda x: x + torch.rand(2), "two calls with the same tensors differ$"),
    ],
)
def test_what_cannot_be_traced_is_computed_anyway(function, why: str, soon: int) -> None:
    program, x = Traced(function), torch.ones(2)
    for _ in range(soon - 1):
        program(x)
    with pytest.warns(UserWarning, match=f"not traced, which is slower: {why}"):
        program(x)
    assert (program(-x) <= 0).all()  # without a word


def test_a_function_that_fails_is_asked_again(soon: int) -> None:
    """Out of memory, say: the program is made when it no longer fails."""
    fails = [False] * (soon - 1) + [True]

    def function(x: Tensor) -> Tensor:
        if fails and fails.pop(0):
            raise MemoryError
        return x + 1

    program, x = Traced(function), torch.ones(2)
    for _ in range(soon - 1):
        program(x)
    with pytest.raises(MemoryError):
        program(x)
    assert program(x).tolist() == [2, 2]
    assert None not in program._programs.values()
