"""Sinusoids: what is drawn, from which ranges, and that it depends on nothing else."""

import math

import numpy as np
import pytest
import torch

from metarl.experiment.registries import SOURCE
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose
from metarl.supervised.regression import BLOCK
from metarl.supervised.sinusoid import Sinusoid
from metarl.supervised.task_data import TaskRequest

TRAIN = TaskRequest(
    seed=0, purpose=Purpose.TRAIN_TASKS, iteration=3, tasks=400, shots=10, queries=7
)
TEST = TRAIN._replace(purpose=Purpose.EVALUATION_TASKS, iteration=0)


@pytest.mark.parametrize("what", [TRAIN, TEST])
def test_targets_are_those_of_the_task(what: TaskRequest):
    tasks, episode = Sinusoid().draw(what)
    assert tasks.shape == (400, 2)
    amplitude, phase = (torch.from_numpy(x)[:, None, None] for x in tasks.T)
    for batch, points in zip(episode, (10, 7), strict=True):
        assert batch.inputs.shape == batch.targets.shape == (400, points, 1)
        assert batch.inputs.dtype == batch.targets.dtype == torch.float32
        expected = amplitude * torch.sin(batch.inputs - phase)
        torch.testing.assert_close(batch.targets, expected, check_dtype=False, rtol=0, atol=1e-5)


def test_everything_is_uniform_in_its_range():
    source = Sinusoid(phase_range=(0, 2 * math.pi), x_range=(-2, 6))
    tasks, episode = source.draw(TRAIN)
    samples = [*tasks.T, episode.support.inputs.numpy(), episode.query.inputs.numpy()]
    ranges = [(0.1, 5.0), (0, 2 * math.pi), (-2, 6), (-2, 6)]
    for x, (low, high) in zip(samples, ranges, strict=True):
        assert low <= x.min() < low + 0.05 * (high - low)
        assert high >= x.max() > high - 0.05 * (high - low)
        assert np.mean(x) == pytest.approx((low + high) / 2, abs=0.06 * (high - low))
        assert np.std(x) == pytest.approx((high - low) / math.sqrt(12), rel=0.1)


def test_the_best_predictor_that_does_not_adapt_has_the_loss_that_it_must():
    """Variance of the targets at x, over tasks with phases in [0, pi]: analytically 3.006."""
    tasks = [Sinusoid().draw(TRAIN._replace(iteration=i))[0] for i in range(50)]
    amplitude, phase = np.concatenate(tasks).T
    x = np.linspace(-5, 5, 50)[:, None]
    y = amplitude * np.sin(x - phase)
    assert np.mean(np.var(y, axis=1)) == pytest.approx(3.006, rel=0.03)
    assert np.mean(np.square(y)) == pytest.approx(4.252, rel=0.03)


def test_equal_draws_are_equal_and_iterations_differ_also_across_blocks():
    source = Sinusoid()
    first = source.draw(TRAIN)
    others = [TRAIN._replace(iteration=i) for i in (BLOCK - 1, BLOCK, BLOCK + 3)]
    others += [TRAIN._replace(seed=1), TEST]
    drawn = [Sinusoid().draw(what)[0] for what in others]
    again = source.draw(TRAIN)
    np.testing.assert_array_equal(first.tasks, again.tasks)
    assert torch.equal(first.episodes.query.targets, again.episodes.query.targets)
    values = [float(x[0, 0]) for x in [first.tasks, *drawn]]
    assert len(set(values)) == len(values)
    assert not torch.equal(first.episodes.support.inputs[:, :7], first.episodes.query.inputs)


def test_held_out_tasks_are_the_same_whatever_is_drawn_of_them():
    source = Sinusoid()
    tasks, _ = source.draw(TEST)
    for what in (TEST._replace(shots=5), TEST._replace(variant="half-range")):
        np.testing.assert_array_equal(source.draw(what)[0], tasks)
    _, half = source.draw(TEST._replace(variant="half-range", shots=5))
    assert 0 <= half.support.inputs.min() < half.support.inputs.max() <= 5
    assert half.query.inputs.min() < -4.5


def test_noise_is_on_the_support_targets_only():
    (_, quiet), (_, noisy) = (Sinusoid(noise=noise).draw(TRAIN) for noise in (0.0, 0.3))
    assert torch.equal(quiet.support.inputs, noisy.support.inputs)
    assert torch.equal(quiet.query.targets, noisy.query.targets)
    difference = noisy.support.targets - quiet.support.targets
    assert float(difference.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float(difference.mean())) < 0.02


def test_ranges_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"data.x_range should be \[low, high\], got \[5.0, -5.0\]"):
        SOURCE.make({"source": "sinusoid", "x_range": [5, -5]})
