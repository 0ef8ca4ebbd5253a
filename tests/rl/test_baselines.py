"""The linear feature baseline against a direct least-squares solution."""

import numpy as np
import pytest
import torch

from metarl.rl import baselines


def test_features_are_those_of_the_formula() -> None:
    x = baselines.features(torch.tensor([[[2.0, -20.0], [0.5, 3.0]]]), torch.arange(2))
    assert x.dtype == torch.float64
    expected = [
        [2.0, -10.0, 4.0, 100.0, 0.0, 0.0, 0.0, 1.0],
        [0.5, 3.0, 0.25, 9.0, 0.01, 1e-4, 1e-6, 1.0],
    ]
    torch.testing.assert_close(x[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("ridge", [1e-5, 1.0])
def test_fit_equals_augmented_least_squares(ridge: float) -> None:
    """Ridge regression is ordinary least squares with sqrt(ridge) I appended to the rows."""
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(5, 30, 3, generator=generator)
    targets = torch.randn(5, 30, generator=generator)
    mask = (torch.arange(30) < torch.tensor([[30], [12], [1], [30], [0]])).float()

    x = baselines.features(observations, torch.arange(observations.shape[1]))
    weights = baselines.fit(x, targets, mask, ridge)

    rows = x[mask.bool()].numpy()
    augmented = np.concatenate([rows, np.sqrt(ridge) * np.eye(rows.shape[1])])
    right = np.concatenate([targets[mask.bool()].numpy(), np.zeros(rows.shape[1])])
    expected, *_ = np.linalg.lstsq(augmented, right, rcond=None)
    prediction = (x @ weights)[mask.bool()].numpy()
    np.testing.assert_allclose(prediction, rows @ expected, atol=1e-6)
    if ridge == 1.0:  # well conditioned: the coefficients agree as well
        np.testing.assert_allclose(weights.numpy(), expected, atol=1e-8)


def test_fit_recovers_values_that_are_linear_in_the_features() -> None:
    observations = torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(1))
    x = baselines.features(observations, torch.arange(observations.shape[1]))
    truth = torch.arange(1.0, x.shape[-1] + 1, dtype=torch.float64)
    targets = (x @ truth).float()
    prediction = x @ baselines.fit(x, targets, torch.ones(4, 50), ridge=1e-8)
    torch.testing.assert_close(prediction.float(), targets, atol=1e-3, rtol=1e-4)


def test_fit_of_a_singular_problem_is_finite() -> None:
    x = baselines.features(torch.zeros(2, 10, 3), torch.arange(10))  # constant columns
    weights = baselines.fit(x, torch.ones(2, 10), torch.ones(2, 10))
    assert torch.isfinite(weights).all()
    torch.testing.assert_close((x @ weights).float(), torch.ones(2, 10), atol=1e-3, rtol=0)


def test_fit_of_no_data_is_zero() -> None:
    x = baselines.features(torch.randn(2, 10, 3), torch.arange(10))
    assert torch.equal(
        baselines.fit(x, torch.ones(2, 10), torch.zeros(2, 10)), torch.zeros(10).double()
    )
