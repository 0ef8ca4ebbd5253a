"""Environments can be copied and pickled: a copy steps to the same bits."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from metarl_envs import FAMILIES, BatchedEnv
from metarl_envs.family import TaskFamily
from metarl_envs.gym_workers import Worker
from metarl_envs.single import TaskEnv
from metarl_envs.vector import TaskVectorEnv

RLLAB = {"observation": "rllab", "contact_cost": 0.01, "velocity_of": "centre-of-mass"}
NATIVE = {name: family for name, family in FAMILIES.items() if issubclass(family, TaskFamily)} | {
    "rllab's ant": partial(FAMILIES["ant-direction"], **RLLAB)
}


def same_state(env: Any) -> Any:
    """Another environment of the same kind, in the state of this one."""
    other = copy.deepcopy(env)
    rng = np.random.default_rng(9)
    for _ in range(2):
        other.step(actions_of(other, rng))
    other.set_state(env.get_state())
    return other


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "state": same_state,
}


def actions_of(env: Any, rng: np.random.Generator) -> Any:
    """Random actions, of the middle of the space."""
    if isinstance(env, BatchedEnv):
        low, high = env.family.control_range
        if isinstance(env.family.action_space, gymnasium.spaces.Discrete):
            return rng.integers(env.family.action_space.n, size=env.shape)
        return rng.uniform(low, high, (*env.shape, len(low))) / 2
    env.action_space.seed(int(rng.integers(100)))
    return env.action_space.sample()


def play(env: Any, steps: int = 3) -> list[Any]:
    rng = np.random.default_rng(5)
    found: list[Any] = []
    for _ in range(steps):
        step = env.step(actions_of(env, rng))
        found += [*step[:2]]
        found += [*env.family.sample_tasks(env.np_random, 1)] if isinstance(env, TaskEnv) else []
    return found


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", NATIVE)
def test_a_copy_of_batched_environments_steps_to_the_same_bits(name: str, how: str):
    family = NATIVE[name](horizon=20)
    env = BatchedEnv(family, 2, 2, observe_task=True)
    rng = np.random.default_rng(1)
    env.reset(family.sample_tasks(rng, 2), [np.random.default_rng(m) for m in (3, 4)])
    play(env, 2)
    other = COPIES[how](env)
    np.testing.assert_equal(play(other), play(env))
    np.testing.assert_array_equal(other.alive, env.alive)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["point-navigation", "half-cheetah-params", "random-mdp"])
def test_a_copy_of_gymnasium_environments_steps_to_the_same_bits(name: str, how: str):
    for env in (TaskEnv(name), TaskVectorEnv(2, name)):
        env.reset(seed=3)
        play(env, 2)
        other = COPIES[how](env)
        np.testing.assert_equal(play(other), play(env))
        again, anew = env.reset()[0], other.reset()[0]
        np.testing.assert_array_equal(again, anew)


def test_a_state_that_was_taken_does_not_change():
    env = TaskEnv("half-cheetah-velocity")
    env.reset(seed=1)
    state = env.get_state()
    first = play(env)
    for _ in range(2):
        env.set_state(state)
        np.testing.assert_equal(play(env), first)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_draws_its_own_pictures(how: str):
    env = TaskEnv("point-navigation", render_mode="rgb_array", width=32, height=32)
    env.reset(seed=1)
    other = COPIES[how](env)
    before = env.render().copy()
    np.testing.assert_array_equal(other.render(), before)
    other.step(np.array([0.1, 0.1]))
    np.testing.assert_array_equal(env.render(), before)
    assert not np.array_equal(other.render(), before)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_gymnasium_environments_of_ones_own_are_copied_but_not_workers(how: str):
    family = FAMILIES["cartpole"]()
    env = family.environments(2, 1)
    env.reset(
        family.sample_tasks(np.random.default_rng(0), 2), [*map(np.random.default_rng, (1, 2))]
    )
    other = COPIES[how](env)
    actions = np.zeros((2, 1), dtype=np.int64)
    np.testing.assert_equal(other.step(actions), env.step(actions))
    with pytest.raises(TypeError, match="in worker processes cannot be copied"):
        copy.deepcopy(Worker.__new__(Worker))
