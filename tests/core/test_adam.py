"""Adam as a pure function, against PyTorch's."""

import pytest
import torch

from metarl.core.outer.adam import Adam, AdamState


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_updates_are_those_of_pytorch(beta1: float) -> None:
    torch.manual_seed(0)
    config = Adam(learning_rate=0.03, beta1=beta1, beta2=0.99, epsilon=1e-6)
    theta = torch.randn(20, dtype=torch.float64)
    state = config.init(theta)
    reference = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Adam([reference], lr=0.03, betas=(beta1, 0.99), eps=1e-6)
    for done in range(1, 31):
        reference.grad = torch.randn(20, dtype=torch.float64)
        optimizer.step()
        theta, state = config.update(theta, reference.grad, state)
        assert state.step == done
        torch.testing.assert_close(theta, reference.detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(config.evaluated(theta, state), theta), "without a decay"


def test_the_average_is_of_all_updates_and_the_latest_count_most() -> None:
    theta = torch.linspace(1, 2, 5, dtype=torch.float64)
    config = Adam(learning_rate=0.1, average_decay=0.9)
    state = config.init(theta)
    seen = []
    for _ in range(10):
        theta, state = config.update(theta, theta.sin(), state)
        seen.append(theta)
        weights = 0.9 ** torch.arange(len(seen) - 1, -1, -1, dtype=torch.float64)
        expected = weights @ torch.stack(seen) / weights.sum()
        torch.testing.assert_close(config.evaluated(theta, state), expected, rtol=1e-12, atol=0.0)
    assert (state.average - theta).abs().min() > 0.01


def test_arguments_stay_as_they_are() -> None:
    theta, gradient = torch.ones(3), torch.ones(3)
    state = AdamState(torch.ones(3), torch.ones(3), torch.ones(3), torch.tensor(4.0))
    Adam(average_decay=0.5).update(theta, gradient, state)
    for tensor in (theta, gradient, state.mean, state.square, state.average):
        assert torch.equal(tensor, torch.ones(3))
    assert state.step == 4
