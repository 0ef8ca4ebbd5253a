"""The point world from start to end."""

import numpy as np
import pytest

from metarl_envs import BatchedEnv
from metarl_envs.point import PointNavigation


def start(tasks, num_envs=1, **constants):
    family = PointNavigation(**constants)
    batch = BatchedEnv(family, len(tasks), num_envs)
    batch.reset(np.array(tasks, dtype=float), [np.random.default_rng() for _ in tasks])
    return batch


def test_moves_by_the_scaled_and_clipped_action():
    batch = start([[0.5, 0.5]])
    # .1 a, each coordinate clipped to [-.1, .1] on its own.
    for action, position in [
        ([0.5, -0.25], [0.05, -0.025]),
        ([3.0, 0.5], [0.15, 0.025]),
        ([-7.0, -9.0], [0.05, -0.075]),
    ]:
        step = batch.step(np.array([[action]]))
        np.testing.assert_allclose(step.observation[0, 0], position, atol=1e-15)


def test_reward_is_of_the_state_after_the_step():
    batch = start([[0.3, 0.4], [0.3, 0.4]])
    step = batch.step(np.array([[[0.0, 0.0]], [[0.0, 1.0]]]))
    np.testing.assert_allclose(step.reward[:, 0], [-0.5, -np.hypot(0.3, 0.3)], rtol=1e-12)


def test_terminates_where_both_coordinates_are_close():
    batch = start([[0.1, 0.0], [0.1, 0.0], [0.1, 0.0]], goal_tolerance=0.01)
    step = batch.step(np.array([[[0.91, 0.09]], [[0.91, 0.11]], [[0.89, 0.0]]]))
    np.testing.assert_array_equal(step.terminated[:, 0], [True, False, False])
    np.testing.assert_array_equal(batch.alive[:, 0], [False, True, True])
    assert not step.truncated.any()


def test_tolerance_zero_never_terminates():
    batch = start([[0.0, 0.0]], goal_tolerance=0.0)
    assert not batch.step(np.zeros((1, 1, 2))).terminated.any()


@pytest.mark.parametrize(("squared", "expected"), [(False, -38.3), (True, -16.7)])
def test_return_of_staying_at_the_origin(squared, expected):
    """100 times the mean distance to a corner of a square of side .5, and the mean square."""
    family = PointNavigation(squared=squared)
    tasks = family.sample_tasks(np.random.default_rng(0), 4000)
    batch = BatchedEnv(family, 4000, 1)
    batch.reset(tasks, [np.random.default_rng(0)] * 4000)
    returns = sum(batch.step(np.zeros((4000, 1, 2))).reward for _ in range(family.horizon))
    assert returns.mean() == pytest.approx(expected, abs=0.5)
