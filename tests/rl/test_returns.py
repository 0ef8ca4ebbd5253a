"""Returns, advantages and masked statistics against golden numbers and libraries."""

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarl.rl.returns import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    masked_mean,
    standardize,
)

# The example of rlax's tests of truncated generalised advantage estimation.
REWARDS = torch.tensor([[0.0, 0.0, 1.0, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0, 1.0]])
VALUES = torch.tensor([[1.0, 4.0, -3.0, -2.0, -1.0, -1.0], [-3.0, -2.0, -1.0, 0.0, 5.0, -1.0]])
DISCOUNTS = torch.tensor([[0.99] * 5, [0.9, 0.9, 0.9, 0.0, 0.9]])
GOLDEN = {
    1.0: [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3.0, 2.0, 1.0, 0.0, -4.9]],
    0.7: [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1.0, 0.0, -4.9]],
    0.4: [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1.0, 0.0, -4.9]],
}


@pytest.mark.parametrize("lambda_", GOLDEN)
def test_advantages_equal_rlax(lambda_: float) -> None:
    advantages = generalized_advantages(REWARDS, DISCOUNTS, VALUES, lambda_)
    torch.testing.assert_close(advantages, torch.tensor(GOLDEN[lambda_]), atol=1e-3, rtol=0)


def test_lambda_one_is_return_minus_value() -> None:
    values = VALUES.clone()
    values[:, -1] = 0
    advantages = generalized_advantages(REWARDS, DISCOUNTS, values, 1.0)
    torch.testing.assert_close(
        advantages, discounted_returns(REWARDS, DISCOUNTS) - values[:, :-1], atol=1e-5, rtol=1e-5
    )


def test_discounted_returns_equal_a_linear_filter() -> None:
    rewards = np.random.default_rng(0).standard_normal((3, 50))
    backwards = scipy.signal.lfilter([1], [1, -0.97], rewards[:, ::-1], axis=1)
    result = discounted_returns(
        torch.from_numpy(rewards), torch.full((3, 50), 0.97, dtype=torch.float64)
    )
    torch.testing.assert_close(result, torch.from_numpy(backwards[:, ::-1].copy()))


def test_termination_cuts_the_return() -> None:
    rewards, discounts = torch.ones(1, 4), torch.tensor([[0.5, 0.0, 0.5, 0.5]])
    assert discounted_returns(rewards, discounts).tolist() == [[1.5, 1.0, 1.5, 1.0]]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 5))
def test_masked_statistics_ignore_padding(numbers: list[float], padding: int) -> None:
    x = torch.tensor([*numbers, *[1e6] * padding], dtype=torch.float64)
    mask = torch.tensor([1.0] * len(numbers) + [0.0] * padding, dtype=torch.float64)
    assert float(masked_mean(x, mask)) == pytest.approx(np.mean(numbers), abs=1e-9)
    scaled = standardize(x, mask)
    assert torch.equal(scaled[len(numbers) :], torch.zeros(padding, dtype=torch.float64))
    if np.std(numbers) > 1e-3:
        valid = scaled[: len(numbers)].numpy()
        assert valid.mean() == pytest.approx(0, abs=1e-6)
        assert valid.std() == pytest.approx(1, abs=1e-4), "standard deviation, not variance"


def test_statistics_of_nothing_are_finite() -> None:
    nothing = torch.zeros(3)
    assert float(masked_mean(torch.ones(3), nothing)) == 0
    assert torch.equal(standardize(torch.ones(3), nothing), nothing)
    assert torch.isfinite(explained_variance(torch.ones(3), torch.ones(3), nothing))


def test_explained_variance() -> None:
    target, mask = torch.tensor([1.0, 2.0, 3.0, 99.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert float(explained_variance(target, target, mask)) == 1
    assert float(explained_variance(torch.full((4,), 2.0), target, mask)) == pytest.approx(0)
    assert float(explained_variance(-target, target, mask)) == pytest.approx(1 - 4)
