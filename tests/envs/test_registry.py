"""What every family in the registry must do; a new family is tested by being registered."""

import itertools
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl_envs import BatchedEnv, State
from metarl_envs.registry import SIMULATED
from metarl_envs.single import TaskEnv


def make_batch(name, num_tasks=2, num_envs=3, threads=1, seed=0, **constants):
    """A batch on seeded tasks, reset, and its first observations."""
    family = SIMULATED[name](**constants)
    batch = BatchedEnv(family, num_tasks, num_envs, threads)
    tasks = family.sample_tasks(np.random.default_rng(seed), num_tasks)
    rngs = [np.random.default_rng([seed, m]) for m in range(num_tasks)]
    return batch, tasks, batch.reset(tasks, rngs)


def random_actions(batch, steps, seed=7):
    """Normal actions, some of them beyond the actuators' limits, [steps, M, N, A]."""
    shape = (steps, *batch.shape, batch.family.action_dim)
    return np.random.default_rng(seed).normal(size=shape)


def rollout(batch, actions):
    return [batch.step(action) for action in actions]


def assert_same_steps(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_gymnasium_checker_is_content(name):
    env = gymnasium.make(f"metarl/{SIMULATED[name].__name__}-v0").unwrapped
    # Rendering a body needs OpenGL: see test_rendering.py.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=name != "point-navigation")
    unbounded = "Box observation space m"  # minimum and maximum value is infinite, as it should be
    assert [str(w.message) for w in caught if unbounded not in str(w.message)] == []


def test_spaces_and_shapes(name):
    batch, tasks, observation = make_batch(name)
    family = batch.family
    assert tasks.shape == (2, family.task_dim)
    assert observation.shape == (2, 3, family.observation_dim)
    step = batch.step(random_actions(batch, 1)[0])
    assert step.observation.shape == (2, 3, family.observation_dim)
    assert step.observation.dtype == step.reward.dtype == np.float64
    assert all(x.shape == (2, 3) for x in step[1:])
    env = TaskEnv(name)
    assert env.observation_space.shape == (family.observation_dim,)
    assert env.action_space.shape == (family.action_dim,)


def test_action_space_is_what_the_actuators_do_not_clip(name):
    env = TaskEnv(name, action_scale=0.25)
    low, high = env.family.control_range
    np.testing.assert_allclose(env.action_space.low, 4 * low, rtol=1e-6)
    np.testing.assert_allclose(env.family.control(env.action_space.high), high, rtol=1e-6)
    np.testing.assert_array_equal(env.family.control(9 * env.action_space.high), high)


def test_action_scale_only_scales_actions(name):
    plain, *_ = make_batch(name, action_scale=1.0)
    scaled, *_ = make_batch(name, action_scale=0.25)
    actions = random_actions(plain, 10)
    assert_same_steps(rollout(plain, 0.25 * actions), rollout(scaled, actions))


def test_an_action_has_one_effect_whatever_its_dtype(name):
    single, *_ = make_batch(name)
    double, *_ = make_batch(name)
    actions = random_actions(single, 5).astype(np.float32)
    assert_same_steps(rollout(single, actions), rollout(double, actions.astype(np.float64)))


def test_seed_determines_the_run(name):
    first, _, start = make_batch(name, seed=3)
    again, _, start_again = make_batch(name, seed=3)
    np.testing.assert_array_equal(start, start_again)
    actions = random_actions(first, 20)
    assert_same_steps(rollout(first, actions), rollout(again, actions))


def test_other_seeds_give_other_tasks_and_noise(name):
    batch, tasks, start = make_batch(name, num_tasks=8, seed=3)
    _, other_tasks, other_start = make_batch(name, num_tasks=8, seed=4)
    assert (tasks != other_tasks).any()
    if name == "point-navigation":  # it starts at the origin
        assert not start.any()
    else:
        # Every observation of every environment is noisy, and no two are alike.
        assert (start != other_start).all()
        assert len(np.unique(start.reshape(-1, batch.family.observation_dim), axis=0)) == 24


@pytest.mark.parametrize("threads", [2, 3])
def test_thread_count_does_not_matter(name, threads):
    one, *_ = make_batch(name, num_tasks=3)
    many, *_ = make_batch(name, num_tasks=3, threads=threads)
    actions = random_actions(one, 40)
    assert_same_steps(rollout(one, actions), rollout(many, actions))


def test_batched_equals_single(name):
    """The episodes of an M x N batch are those of M * N environments, bit for bit."""
    batch, tasks, observation = make_batch(name, horizon=25)
    actions = random_actions(batch, 25)
    start = batch.simulator.state.copy()
    alive = np.ones(batch.shape, dtype=bool)
    single = {}
    for i, (m, n) in enumerate(np.ndindex(batch.shape)):
        single[m, n] = env = TaskEnv(name, task=tasks[m], horizon=25)
        env.reset()
        env.batch.simulator.reset(
            np.array([0]), State(start.qpos[i : i + 1], start.qvel[i : i + 1]), tasks[[m]]
        )
    for action in actions:
        step = batch.step(action)
        for m, n in np.argwhere(alive):
            observation, reward, terminated, truncated, _ = single[m, n].step(action[m, n])
            np.testing.assert_array_equal(observation, step.observation[m, n])
            assert reward == step.reward[m, n]
            assert terminated == step.terminated[m, n]
            assert truncated == step.truncated[m, n]
        alive &= ~step.terminated & ~step.truncated
        np.testing.assert_array_equal(alive, batch.alive)
    assert not alive.any()


def test_one_env_per_task_draws_as_single(name):
    """With N = 1 also the draws agree: the task, then the initial state, from one generator."""
    family = SIMULATED[name]()
    batch = BatchedEnv(family, 2, 1)
    rngs = [np.random.default_rng(seed) for seed in (11, 12)]
    tasks = np.concatenate([family.sample_tasks(rng, 1) for rng in rngs])
    observations = batch.reset(tasks, rngs)
    for m, seed in enumerate((11, 12)):
        observation, info = TaskEnv(name).reset(seed=seed)
        np.testing.assert_array_equal(info["task"], tasks[m])
        np.testing.assert_array_equal(observation, observations[m, 0])


def test_returned_arrays_share_no_memory(name):
    batch, _, observation = make_batch(name, horizon=4)
    returned = [observation, *batch.simulator.state[:2]]
    for step in rollout(batch, random_actions(batch, 6)):  # also after the end
        returned += step
        returned += [batch.alive, batch.tasks]
    returned = [x for x in returned if x.size]  # the point world has no velocities
    for a, b in itertools.combinations(returned, 2):
        assert not np.shares_memory(a, b)


def test_finished_episodes_are_frozen_and_leave_the_physics(name):
    batch, tasks, _ = make_batch(name, horizon=5)
    late, *_ = make_batch(name, horizon=5)
    actions = random_actions(batch, 8)
    rollout(batch, actions[:3])
    rollout(late, actions[:3])
    # Task 0 starts anew after 3 env steps, so that it goes on when task 1 ends after 5.
    rngs = [np.random.default_rng(0), np.random.default_rng(1)]
    before = batch.simulator.state.copy()
    batch.reset(tasks, rngs, mask=np.array([True, False]))
    np.testing.assert_array_equal(batch.simulator.state.qpos[3:], before.qpos[3:])
    *_, last = rollout(batch, actions[3:5])
    assert_same_steps(  # untouched by the other task's reset
        [[x[1] for x in last]], [[x[1] for x in rollout(late, actions[3:5])[-1]]]
    )
    ended = ~batch.alive
    assert ended[1].all()
    for action in actions[5:]:
        action[ended] = np.nan  # nobody looks at the actions of finished episodes
        step = batch.step(action)
        np.testing.assert_array_equal(step.observation[1], last.observation[1])
        for x in step[1:-1]:
            assert not x[1].any()
    assert not batch.alive.any()
    np.testing.assert_array_equal(step.truncated[0], ~ended[0])


def test_an_episode_ends_at_its_horizon(name):
    batch, *_ = make_batch(name, horizon=3)
    *early, last = rollout(batch, random_actions(batch, 3))
    assert not any(step.truncated.any() for step in early)
    assert (last.truncated | last.terminated).all()


@pytest.mark.parametrize("bad", [np.zeros((1, 9)), np.zeros(2), np.full((2, 1), np.nan)])
def test_batch_refuses_tasks_of_the_wrong_shape(name, bad):
    batch, tasks, _ = make_batch(name)
    if bad.ndim == 2 and np.isnan(bad).any():
        bad = np.full_like(tasks, np.nan)
    with pytest.raises(ValueError, match=batch.family.task_fields[0]):
        batch.reset(bad, [np.random.default_rng(m) for m in range(2)])


def test_batch_refuses_too_few_generators_and_wrong_actions(name):
    batch, tasks, _ = make_batch(name)
    with pytest.raises(ValueError, match="one generator per task"):
        batch.reset(tasks, [np.random.default_rng()])
    with pytest.raises(ValueError, match="action must have shape"):
        batch.step(np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match="action must have shape"):
        batch.step(np.zeros((6, batch.family.action_dim)))


@pytest.mark.parametrize(
    "constants",
    [
        {"horizon": 0},
        {"horizon": 2.5},
        {"horizon": "50"},
        {"action_scale": 0.0},
        {"action_scale": -1.0},
        {"action_scale": float("nan")},
        {"action_scale": float("inf")},
    ],
)
def test_bad_constants_are_refused_by_name(name, constants):
    (key,) = constants
    with pytest.raises(ValueError, match=key):
        SIMULATED[name](**constants)


def test_a_folder_with_an_envs_package_of_its_own_is_no_obstacle(tmp_path: Path, run_python):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise SystemExit('not this one')")
    result = run_python(
        "import gymnasium, metarl.commands.main\n"
        "env = gymnasium.make('metarl_envs:metarl/HalfCheetahVelocity-v0')\n"
        "print(env.reset(seed=0)[0].shape)\n",
    )
    assert (result.stdout, result.stderr) == ("(17,)\n", "")
