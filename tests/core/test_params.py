"""Parameter dictionaries and modules as functions."""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from metarl.core.adapt import adapt
from metarl.core.params import (
    Functional,
    flatten,
    leading_size,
    parameters_of,
    tree_map,
    unflatten,
)

Pair = namedtuple("Pair", "a b")


def test_flatten_and_unflatten_are_inverse() -> None:
    params = {"w": torch.randn(3, 2), "b": torch.randn(2), "s": torch.tensor(1.5)}
    vector = flatten(params)
    assert vector.shape == (9,)
    back = unflatten(vector, params)
    assert list(back) == list(params)
    assert all(torch.equal(back[n], params[n]) for n in params)
    with pytest.raises(RuntimeError):
        unflatten(vector[:-1], params)


def test_functional_call_equals_the_module_and_leaves_it_alone() -> None:
    module = nn.Linear(3, 2)
    params = parameters_of(module)
    x = torch.randn(4, 3)
    assert torch.equal(Functional(module)(params, x), module(x))
    doubled = {n: 2 * p for n, p in params.items()}
    torch.testing.assert_close(Functional(module)(doubled, x), 2 * module(x))
    assert all(torch.equal(p, params[n]) for n, p in module.named_parameters())


def test_functional_call_of_a_module_with_shared_weights() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    x = torch.randn(2, 3)
    params = {name: 2 * p for name, p in parameters_of(module).items()}
    found = Functional(module)(params, x)
    first = torch.tanh(x @ params["0.weight"].T + params["0.bias"])
    torch.testing.assert_close(found, first @ params["0.weight"].T + params["2.bias"])


def test_functional_is_safe_on_threads() -> None:
    """Two threads calling with different parameters must not see each other's."""
    module = nn.Sequential(*[nn.Linear(16, 16) for _ in range(6)])
    forward, params, x = Functional(module), parameters_of(module), torch.randn(8, 16)
    scaled = [{n: p * (1 + k / 10) for n, p in params.items()} for k in range(40)]
    expected = [forward(p, x) for p in scaled]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            results = list(pool.map(lambda p: forward(p, x), scaled))
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_frozen_parameters_are_constants() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    before = {name: p.clone() for name, p in module.named_parameters()}
    forward, theta, x = Functional(module), parameters_of(module), torch.randn(2, 4, 3)
    assert list(theta) == ["2.weight", "2.bias"]
    torch.testing.assert_close(forward(theta, x), module(x))
    phi = adapt(
        lambda p, x: forward(p, x).square().mean(), theta, [dict.fromkeys(theta, 0.1)], [x[0]]
    )
    adapted = forward.with_parameters(phi).state_dict()
    moved = [name for name, p in adapted.items() if not torch.equal(p, before[name])]
    assert moved == ["2.weight", "2.bias"]
    per_task = torch.func.vmap(lambda x: forward(phi, x))(x)
    torch.testing.assert_close(per_task, forward(phi, x))


def test_a_module_without_anything_to_train_is_refused() -> None:
    for module in (nn.Linear(2, 2).requires_grad_(False), nn.Tanh()):
        with pytest.raises(ValueError, match="none of its parameters has requires_grad"):
            Functional(module)


def test_batch_norm_uses_the_batch_and_the_module_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    forward, x = Functional(module), torch.randn(6, 3)
    assert forward.has_changed
    found = forward(parameters_of(module), x)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert module[1].num_batches_tracked == 0


def test_parameters_of_are_copies() -> None:
    module = nn.Linear(2, 2)
    params = parameters_of(module)
    params["weight"].zero_()
    assert module.weight.abs().sum() > 0
    assert not params["weight"].requires_grad


def test_a_missing_parameter_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="bias"):
        Functional(nn.Linear(2, 2))({"weight": torch.ones(2, 2)}, torch.ones(2))


def test_tree_map() -> None:
    tree = {"p": Pair(torch.ones(3, 2), [torch.zeros(3)])}
    mapped = tree_map(lambda x: x + 1, tree)
    assert isinstance(mapped["p"], Pair)
    assert torch.equal(mapped["p"].b[0], torch.ones(3))
    assert leading_size(tree) == 3
    with pytest.raises(TypeError, match="int"):
        tree_map(lambda x: x, (1, 2))
