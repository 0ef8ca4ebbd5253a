"""``gymnasium.make``: tasks, constants and the end of an episode."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from metarl_envs.half_cheetah import HalfCheetahVelocity
from metarl_envs.registry import SIMULATED
from metarl_envs.single import TaskEnv


def make(cls="HalfCheetahVelocity", **kwargs):
    return gymnasium.make(f"metarl/{cls}-v0", **kwargs)


@pytest.mark.parametrize("task", [[1.5], 1.5, np.array([1.5]), np.float32(1.5)])
def test_a_given_task_stays(task):
    env = make(task=task)
    for _ in range(2):
        _, info = env.reset()
        np.testing.assert_array_equal(info["task"], [1.5])
        np.testing.assert_array_equal(env.step(env.action_space.sample())[-1]["task"], [1.5])


def test_without_a_task_every_reset_draws_one():
    env = make("AntGoal")
    _, first = env.reset(seed=5)
    _, second = env.reset()
    _, again = env.reset(seed=5)
    assert (first["task"] != second["task"]).all()
    np.testing.assert_array_equal(first["task"], again["task"])


def test_reset_sets_and_unsets_the_task():
    env = make("AntGoal", task=[1.0, 0.0])
    _, info = env.reset(options={"task": [0.0, 2.0]})
    np.testing.assert_array_equal(info["task"], [0.0, 2.0])
    _, info = env.reset()  # from now on
    np.testing.assert_array_equal(info["task"], [0.0, 2.0])
    _, info = env.reset(options={"task": None})
    assert (info["task"] != [0.0, 2.0]).all()


def test_the_task_decides_the_reward():
    rewards = []
    for task in (50.0, 52.0):  # faster than any cheetah
        env = make(task=task)
        env.reset(seed=0)
        rewards.append(env.step(np.zeros(6))[1])
    assert rewards[0] - rewards[1] == pytest.approx(2.0, abs=1e-12)


def test_info_is_the_callers_own():
    task = np.array([1.5])
    env = make(task=task)
    _, info = env.reset()
    info["task"][0] = task[0] = 9.0
    assert env.reset()[1]["task"] == [1.5]


@pytest.mark.parametrize("task", [[1.0, 2.0], [], [[1.5]], [np.nan], np.inf])
def test_a_task_of_the_wrong_shape_is_refused(task):
    with pytest.raises(ValueError, match="velocity"):
        make(task=task)
    with pytest.raises(ValueError, match="velocity"):
        make().reset(options={"task": task})


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"goal_x": 1.0}, "goal_y is missing"),
        ({"goal_x": 1.0, "goal_y": 2.0, "goal_z": 3.0}, "there is no field 'goal_z'"),
        ({"goal_x": 1.0, "goal_y": np.nan}, "goal_y is nan"),
        ({"goal_x": "far", "goal_y": 2.0}, "got "),
    ],
)
def test_a_task_by_name_that_does_not_fit_names_its_field(task, said):
    with pytest.raises(
        ValueError, match=rf"AntGoal is 2 finite numbers \(goal_x, goal_y\).*{said}"
    ):
        make("AntGoal", task=task)


def test_a_task_by_name_is_that_task():
    _, info = make("AntGoal", task={"goal_y": 2.0, "goal_x": 1.0}).reset()
    assert info["task"].tolist() == [1.0, 2.0]


def test_a_number_is_no_task_of_two_columns():
    with pytest.raises(ValueError, match="goal_x, goal_y"):
        make("AntGoal", task=1.0)


def test_unknown_reset_options_are_refused():
    with pytest.raises(ValueError, match=r"\['task'\], got \['tasks'\]"):
        make().reset(options={"tasks": 1.0})


def test_truncates_itself_at_the_horizon():
    env = make(horizon=3, frame_skip=1)
    assert env.unwrapped.family.dt == 0.01
    env.reset()
    ends = [env.step(env.action_space.sample())[2:] for _ in range(3)]
    assert [(terminated, truncated) for terminated, truncated, _ in ends] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    assert [info["diverged"] for *_, info in ends] == [False] * 3
    with pytest.raises(ResetNeeded):
        env.step(env.action_space.sample())
    env.reset()
    env.step(env.action_space.sample())


def test_step_needs_a_reset():
    with pytest.raises(ResetNeeded):
        TaskEnv("point-navigation").step(np.zeros(2))


def test_a_diverged_episode_is_truncated_with_reward_zero():
    env = make(disable_env_checker=True)
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.full(6, np.nan))
    assert (reward, terminated, truncated, info["diverged"]) == (0.0, False, True, True)
    assert np.isfinite(observation).all()


def test_an_action_of_the_wrong_shape_is_refused():
    env = TaskEnv("half-cheetah-velocity")
    env.reset()
    for action in (np.zeros(1), np.zeros((1, 6)), 0.0):
        with pytest.raises(ValueError, match="shape"):
            env.step(action)


def test_an_unknown_constant_names_the_known_ones(name):
    cls = SIMULATED[name].__name__
    with pytest.raises(TypeError, match=r"horizn.*horizon=\d+, action_scale="):
        make(cls, horizn=3)
    with pytest.raises(ValueError, match=r"horizon must be .*got 0.*action_scale="):
        make(cls, horizon=0)


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match=r"half-cheetah-velocity.*got 'cheetah'"):
        TaskEnv("cheetah")


def test_a_family_may_be_given():
    family = HalfCheetahVelocity(horizon=7)
    assert TaskEnv(family).family is family
    with pytest.raises(TypeError, match="horizon"):
        TaskEnv(family, horizon=3)


def test_spec_makes_the_same_environment_again():
    env = make(task=1.5, horizon=3)
    again = env.spec.make()
    assert again.unwrapped.family == env.unwrapped.family
    np.testing.assert_array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
