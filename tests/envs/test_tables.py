"""Bandits and random MDPs: rewards, transitions and optima by hand and by enumeration."""

from itertools import product

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl_envs import BatchedEnv, TaskFamily
from metarl_envs.tables import Bandit, RandomMDP


def play(family: TaskFamily, tasks: np.ndarray, envs: int, actions: np.ndarray) -> tuple:
    """Observations [M, N, T + 1, O] and rewards [M, N, T] under actions [T]."""
    batch = BatchedEnv(family, len(tasks), envs)
    rngs = [np.random.default_rng([1, m]) for m in range(len(tasks))]
    observations, rewards = [batch.reset(tasks, rngs)], []
    for action in actions:
        step = batch.step(np.full((len(tasks), envs), float(action)))
        observations.append(step.observation)
        rewards.append(step.reward)
    assert not batch.alive.any()
    return np.stack(observations, 2), np.stack(rewards, 2)


def test_an_arm_pays_as_often_as_it_should():
    family = Bandit(arms=3, horizon=4)
    tasks = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 0.1]])
    _, rewards = play(family, tasks, 5000, np.array([0, 1, 2, 1]))
    assert set(np.unique(rewards)) <= {0.0, 1.0}
    expected = tasks[:, [0, 1, 2, 1]]
    np.testing.assert_allclose(rewards.mean(1), expected, atol=0.03)
    assert rewards[0, :, 0].sum() == 0
    assert rewards[0, :, 2].min() == 1
    assert [family.optimum(task) for task in tasks] == [4.0, 3.0]
    assert family.task_fields == ("arm_0", "arm_1", "arm_2")


def test_states_and_rewards_follow_the_tables():
    family = RandomMDP(states=3, actions=2, horizon=2, reward_noise=0.5)
    task = family.sample_tasks(np.random.default_rng(0), 1)[0]
    transitions, means = family.tables(task)
    np.testing.assert_allclose(transitions.sum(-1), 1)
    observations, rewards = play(family, task[None], 20_000, np.array([1, 0]))
    np.testing.assert_array_equal(observations[0, :, 0], np.tile([1.0, 0, 0], (20_000, 1)))
    np.testing.assert_allclose(observations[0, :, 1].mean(0), transitions[0, 1], atol=0.02)
    np.testing.assert_allclose(rewards[0, :, 0].mean(), means[0, 1], atol=0.02)
    np.testing.assert_allclose(rewards[0, :, 0].std(), 0.5, atol=0.02)
    two = transitions[0, 1] @ transitions[:, 0]
    np.testing.assert_allclose(observations[0, :, 2].mean(0), two, atol=0.02)
    np.testing.assert_allclose(rewards[0, :, 1].mean(), transitions[0, 1] @ means[:, 0], atol=0.02)


def test_the_optimum_is_that_of_all_policies():
    family = RandomMDP(states=3, actions=2, horizon=2)
    task = family.sample_tasks(np.random.default_rng(3), 1)[0]
    transitions, means = family.tables(task)
    returns = [
        means[0, first] + transitions[0, first] @ means[np.arange(3), list(second)]
        for first, *second in product(range(2), repeat=4)
    ]
    assert family.optimum(task) == pytest.approx(max(returns))


@pytest.mark.parametrize("name", ["Bandit", "RandomMDP"])
def test_they_are_gymnasium_environments(name: str):
    env = gymnasium.make(f"metarl_envs:metarl/{name}-v0")
    check_env(env.unwrapped, skip_render_check=True)
    with pytest.raises(ValueError, match="is not drawn"):
        gymnasium.make(f"metarl_envs:metarl/{name}-v0", render_mode="rgb_array")


def test_bad_constants_are_refused():
    for family, constants in ((Bandit, {"arms": 0}), (RandomMDP, {"states": 0})):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            family(**constants)
    with pytest.raises(ValueError, match="reward_noise must be >= 0"):
        RandomMDP(reward_noise=-1.0)
