"""Families of gymnasium environments: spaces, seeds, workers, and what goes wrong."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metarl_envs import FAMILIES, GymFamily
from metarl_envs.gym_batch import GymBatch
from metarl_envs.gym_workers import WorkerError
from metarl_envs.single import TaskEnv

NAMES = [name for name, family in FAMILIES.items() if issubclass(family, GymFamily)]


class Counter(gymnasium.Env[Any, Any]):
    """Counts to its task; ``fault`` chooses what goes wrong after two env steps."""

    observation_space: Any = spaces.Box(0, 9, (2, 3), np.float32)
    action_space: Any = spaces.Discrete(3, start=5)
    fault = ""

    def __init__(self) -> None:
        self.goal, self.count = 0.0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        self.start = self.np_random.uniform()
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert action in (5, 6, 7)
        self.count += 1
        reward = float(action) + self.start
        if self.count == 2:
            if self.fault == "raise":
                raise RuntimeError("the motor is hot")
            if self.fault == "nan":
                reward = float("nan")
            if self.fault == "shape":
                return np.zeros(7, np.float32), reward, False, False, {}
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(3600)
        solved = self.count >= self.goal
        return self._seen(), reward, solved, False, {"success": solved}

    def _seen(self) -> Any:
        return np.full((2, 3), min(self.count, 9), np.float32)


@dataclass(frozen=True, kw_only=True)
class Counting(GymFamily):
    """Count to a number of env steps."""

    fault: str = ""
    horizon: int = 6
    task_fields = ("goal",)

    def make(self) -> Any:
        env = Counter()
        env.fault = self.fault
        return env

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Any:
        return rng.integers(3, 9, (n, 1)).astype(float)

    def set_task(self, env: Any, task: Any) -> None:
        env.goal = task[0]


def rngs(number: int) -> list[np.random.Generator]:
    return [np.random.default_rng([7, i]) for i in range(number)]


def actions(family: GymFamily, shape: tuple[int, int], rng: np.random.Generator) -> Any:
    space = family.action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, shape).astype(np.float64)
    return 3 * rng.normal(size=(*shape, *space.shape))  # beyond the bounds, too


def episodes(batch: GymBatch, tasks: Any) -> list[Any]:
    """Everything that a batch says from its reset to the end of all episodes."""
    rng = np.random.default_rng(3)
    seen = [batch.reset(tasks, rngs(len(tasks)))]
    while batch.alive.any():
        step = batch.step(actions(batch.family, batch.shape, rng))
        seen += step
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_gymnasiums_own_environment_with_the_task(name: str):
    family = FAMILIES[name](horizon=25)
    assert isinstance(family, GymFamily)
    tasks = family.sample_tasks(np.random.default_rng(0), 2)
    batch = family.environments(2, 3)
    first = batch.reset(tasks, rngs(2))
    rng = np.random.default_rng(5)
    chosen = [actions(family, (2, 3), rng) for _ in range(25)]
    steps = [batch.step(a) for a in chosen]
    m, n = 1, 2
    env = gymnasium.make(family.env_id, max_episode_steps=25)
    family.set_task(env, tasks[m])
    seed = rngs(2)[m].integers(2**31, size=3)[n]
    observation, _ = env.reset(seed=int(seed))
    np.testing.assert_array_equal(first[m, n], observation)
    for action, step in zip(chosen, steps, strict=True):
        one = action[m, n]
        if isinstance(family.action_space, spaces.Box):
            one = np.clip(one, family.action_space.low, family.action_space.high)
            one = one.astype(np.float32)
        else:
            one = int(one)
        observation, reward, terminated, truncated, _ = env.step(one)
        np.testing.assert_array_equal(step.observation[m, n], observation)
        assert step.reward[m, n] == pytest.approx(float(reward))
        assert (step.terminated[m, n], step.truncated[m, n]) == (terminated, truncated)
        if terminated or truncated:
            break
    assert terminated or truncated


@pytest.mark.parametrize("name", NAMES)
def test_tasks_change_the_episodes_and_are_within_their_ranges(name: str):
    family = FAMILIES[name](horizon=20)
    tasks = family.sample_tasks(np.random.default_rng(0), 50)
    for values, field in zip(tasks.T, family.task_fields, strict=True):
        low, high = getattr(family, f"{field}_range")
        assert low <= values.min() < values.max() <= high
    for column in range(family.task_dim):  # every field has an effect, with equal seeds
        pair = np.repeat(tasks[:1], 2, axis=0)
        pair[1, column] = getattr(family, f"{family.task_fields[column]}_range")[1]
        one, two = (episodes(family.environments(1, 1), task[None]) for task in pair)
        if (name, family.task_fields[column]) != ("mountain-car", "goal"):  # seen at the goal only
            assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=False))


@pytest.mark.parametrize("family", [Counting(), FAMILIES["pendulum"](horizon=4)], ids=str)
def test_results_do_not_depend_on_the_number_of_workers(family: GymFamily):
    tasks = family.sample_tasks(np.random.default_rng(1), 3)
    expected = episodes(family.environments(3, 2), tasks)
    for workers in (1, 4):
        batch = family.environments(3, 2, workers)
        for _ in range(2):  # the second time from environments that were used before
            found = episodes(batch, tasks)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        batch.close()


def test_episodes_end_by_the_environment_or_by_the_horizon():
    family = Counting()
    batch = family.environments(2, 1)
    batch.reset(np.array([[3.0], [9.0]]), rngs(2))
    for t in range(1, 7):
        step = batch.step(np.zeros((2, 1)))
        assert step.terminated[:, 0].tolist() == [t == 3, False]
        assert step.truncated[:, 0].tolist() == [False, t == 6]
        np.testing.assert_equal(step.success[:, 0], [t == 3 if t <= 3 else np.nan, False])
        assert step.reward[0, 0] == 0 if t > 3 else 5 <= step.reward[0, 0] < 6
    assert not batch.alive.any()


def test_a_shorter_time_limit_of_the_environment_ends_its_episodes():
    class Short(FAMILIES["pendulum"]):  # type: ignore[misc]
        def make(self) -> Any:
            return gymnasium.make(self.env_id, max_episode_steps=3)

    batch = Short(horizon=5).environments(1, 1)
    batch.reset(np.ones((1, 3)), rngs(1))
    truncated = [bool(batch.step(np.zeros((1, 1, 1))).truncated[0, 0]) for _ in range(3)]
    assert truncated == [False, False, True]


def test_observations_are_flat_unless_the_family_keeps_them():
    class Kept(Counting):
        flatten = False

    assert Counting().observation_space.shape == (6,)
    assert Kept().observation_space.shape == (2, 3)
    assert Kept().environments(1, 1).reset(np.ones((1, 1)), rngs(1)).shape == (1, 1, 2, 3)
    with pytest.raises(ValueError, match="only a vector can be followed by a task"):
        _ = Kept().observation_space_with_task
    told = Counting().environments(1, 1, 0, observe_task=True)
    assert told.reset(np.full((1, 1), 4.0), rngs(1)).shape == (1, 1, 7)


def test_discrete_and_composed_observations_become_numbers():
    class Discrete(Counting):
        def make(self) -> Any:
            env = super().make()
            env.observation_space = spaces.Dict(a=spaces.Discrete(4), b=spaces.Box(0, 1, (2,)))
            env._seen = lambda: {"a": 2, "b": np.array([0.25, 0.5], np.float32)}
            return env

    family = Discrete()
    assert family.observation_space.shape == (6,)
    observation = family.environments(1, 1).reset(np.ones((1, 1)), rngs(1))[0, 0]
    np.testing.assert_array_equal(observation, [0, 0, 1, 0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "Counting: the reward is nan in the task"),
        ("shape", r"Counting: an observation has shape \(7,\), but its space says \(2, 3\)"),
        ("raise", "the motor is hot"),
    ],
)
def test_what_an_environment_does_wrong_is_said(fault: str, said: str):
    for workers, kind in ((0, (ValueError, RuntimeError)), (1, WorkerError)):
        batch = Counting(fault=fault).environments(1, 2, workers)
        batch.reset(np.full((1, 1), 5.0), rngs(1))
        batch.step(np.zeros((1, 2)))
        with pytest.raises(kind, match=said):
            batch.step(np.zeros((1, 2)))
        batch.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("die", r"worker process \d+ died, exit code -9"),
        ("hang", r"worker process \d+ did not answer for 3 s \(env.timeout\)"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_named(fault: str, said: str):
    timeout = 3.0 if fault == "hang" else 600.0
    batch = Counting(fault=fault, timeout=timeout).environments(1, 2, 2)
    batch.reset(np.full((1, 1), 5.0), rngs(1))
    batch.step(np.zeros((1, 2)))
    with pytest.raises(WorkerError, match=said):
        batch.step(np.zeros((1, 2)))
    batch.close()


def test_a_factory_that_fails_is_named():
    class Broken(Counting):
        def make(self) -> Any:
            raise OSError("no display")

    with pytest.raises(ValueError, match=r"Broken.make failed: OSError: no display"):
        _ = Broken().action_space

    class Nameless(GymFamily):
        task_fields = ("x",)
        sample_tasks, set_task = Counting.sample_tasks, Counting.set_task

    with pytest.raises(ValueError, match="must have an env_id, or a make"):
        _ = Nameless().action_space


@pytest.mark.parametrize(
    ("actions_", "observations", "said"),
    [
        (spaces.MultiBinary(3), spaces.Box(0, 1, (2,)), "actions are those of a Box or Discrete"),
        (
            spaces.Discrete(3),
            spaces.Sequence(spaces.Discrete(2)),
            "are not supported",
        ),
    ],
)
def test_spaces_that_are_not_supported_are_refused(actions_: Any, observations: Any, said: str):
    class Odd(Counting):
        def make(self) -> Any:
            env = super().make()
            env.action_space, env.observation_space = actions_, observations
            return env

    with pytest.raises(ValueError, match=said):
        _ = Odd().action_space


def test_bad_tasks_and_actions_are_refused():
    batch = Counting().environments(2, 1)
    with pytest.raises(ValueError, match=r"tasks must be finite with shape \(2, 1\)"):
        batch.reset(np.full((2, 1), np.nan), rngs(2))
    batch.reset(np.full((2, 1), 5.0), rngs(2))
    with pytest.raises(ValueError, match=r"action must have shape \(2, 1\)"):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="action 3 is not one of 3"):
        batch.step(np.full((2, 1), 3.0))


def test_families_of_gymnasium_are_not_wrapped_a_second_time():
    with pytest.raises(ValueError, match=r"use its make\(\)"):
        TaskEnv("cartpole")
