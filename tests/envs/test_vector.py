"""``gymnasium.make_vec`` against gymnasium's SyncVectorEnv of single environments, side by side."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from metarl_envs.registry import SIMULATED

# Episodes of some families terminate before the horizon, at different times.
EARLY_ENDS = {
    "point-navigation": {"goal_tolerance": 0.25},
    "ant-direction": {"healthy_z": (0.55, 0.95)},
    "ant-forward-backward": {"healthy_z": (0.55, 0.95)},
    "ant-velocity": {"healthy_z": (0.55, 0.95)},
}
N = 3


def make_both(name, mode, tasks=(None,) * N, **kwargs):
    """The vector environment, and its reference: one ``gymnasium.make`` per sub-environment."""
    gym_id = f"metarl/{SIMULATED[name].__name__}-v0"
    kwargs = {"horizon": 6} | EARLY_ENDS.get(name, {}) | kwargs
    task = None if tasks[0] is None else np.array(tasks)
    ours = gymnasium.make_vec(
        gym_id, num_envs=N, autoreset_mode=mode, threads=2, task=task, **kwargs
    )

    def maker(task):
        return lambda: gymnasium.make(gym_id, task=task, disable_env_checker=True, **kwargs)

    return ours, SyncVectorEnv([maker(task) for task in tasks], autoreset_mode=mode)


def assert_same(ours, theirs):
    """What two environments returned is the same, types, dtypes, keys and bits."""
    assert data_equivalence(ours, theirs, exact=True), f"{ours}\n!=\n{theirs}"


def reset_both(ours, theirs, mask=None, **kwargs):
    def options():  # SyncVectorEnv takes the mask out of the dict it is given
        return None if mask is None else {"reset_mask": mask.copy()}

    assert_same(ours.reset(options=options(), **kwargs), theirs.reset(options=options(), **kwargs))


def run_both(ours, theirs, steps, seed=0):
    """Step both and compare; finished episodes are reset by hand where nothing else does it."""
    rng = np.random.default_rng(seed)
    ended = 0
    for t in range(steps):
        actions = rng.normal(size=ours.action_space.shape)
        returned = ours.step(actions)
        assert_same(returned, theirs.step(actions))
        done = returned[2] | returned[3]
        ended += done.sum()
        if ours.metadata["autoreset_mode"] is AutoresetMode.DISABLED and done.any():
            reset_both(ours, theirs, mask=done, seed=[t, None, t + 1])
    return ended


@pytest.mark.parametrize("mode", AutoresetMode)
def test_equals_sync_vector_env(name, mode):
    ours, theirs = make_both(name, mode)
    reset_both(ours, theirs, seed=17)
    assert run_both(ours, theirs, 25) >= 9  # three episodes each
    reset_both(ours, theirs)  # the generators go on
    run_both(ours, theirs, 8)
    reset_both(ours, theirs, seed=[3, None, 5])
    run_both(ours, theirs, 8)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_reset_mask_equals_sync_vector_env(name, mode):
    ours, theirs = make_both(name, mode)
    reset_both(ours, theirs, seed=1)
    for mask in ([True, False, False], [False, True, True], [True, True, True]):
        run_both(ours, theirs, 4)
        reset_both(ours, theirs, mask=np.array(mask), seed=9)
        run_both(ours, theirs, 3)
        reset_both(ours, theirs, mask=np.array(mask))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_given_tasks_equal_sync_vector_env(name, mode):
    tasks = SIMULATED[name]().sample_tasks(np.random.default_rng(4), N)
    ours, theirs = make_both(name, mode, tasks=tasks)
    reset_both(ours, theirs, seed=1)
    run_both(ours, theirs, 15)
    np.testing.assert_array_equal(ours.reset()[1]["task"], tasks)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(
    ("name", "constants"),
    [("half-cheetah-velocity", {}), ("ant-goal", {}), ("point-navigation", {"goal_tolerance": 0})],
)
def test_divergence_equals_sync_vector_env(name, constants, mode):
    ours, theirs = make_both(name, mode, **constants)
    reset_both(ours, theirs, seed=1)
    run_both(ours, theirs, 2)
    actions = np.zeros(ours.action_space.shape)
    actions[1] = np.nan
    returned = ours.step(actions)
    assert_same(returned, theirs.step(actions))
    assert returned[3].tolist() == [False, True, False]
    if mode is AutoresetMode.SAME_STEP:
        assert returned[4]["final_info"]["diverged"].tolist() == [False, True, False]
    else:
        assert returned[4]["diverged"].tolist() == [False, True, False]
    if mode is AutoresetMode.DISABLED:
        reset_both(ours, theirs, mask=returned[3])
    run_both(ours, theirs, 10)


@pytest.mark.parametrize("limit", [4, 100, -1, None])
def test_max_episode_steps_limits_the_horizon(limit):
    ours, theirs = make_both("half-cheetah-velocity", "NextStep", max_episode_steps=limit)
    reset_both(ours, theirs, seed=1)
    run_both(ours, theirs, 15)


def test_spaces_and_names_equal_sync_vector_env(name):
    ours, theirs = make_both(name, "SameStep")
    for attribute in (
        "num_envs",
        "single_observation_space",
        "single_action_space",
        "observation_space",
        "action_space",
    ):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert ours.metadata["render_fps"] == theirs.metadata["render_fps"]
    ours.reset(seed=5)
    theirs.reset(seed=5)
    assert ours.np_random_seed == theirs.np_random_seed == (5, 6, 7)
    assert [rng.bit_generator.state for rng in ours.np_random] == [
        rng.bit_generator.state for rng in theirs.np_random
    ]


def test_thread_count_does_not_matter(name):
    gym_id = f"metarl/{SIMULATED[name].__name__}-v0"
    one, *others = (
        gymnasium.make_vec(gym_id, num_envs=5, threads=threads, horizon=7) for threads in (1, 2, 3)
    )
    for other in others:
        reset_both(other, one, seed=3)
        run_both(other, one, 20)


def test_returned_arrays_share_no_memory(name):
    ours, _ = make_both(name, "SameStep")
    observation, info = ours.reset()
    returned = [observation, *info.values()]
    for _ in range(8):
        *arrays, info = ours.step(ours.action_space.sample())
        if "final_obs" in info:
            returned += [x for x in info.pop("final_obs") if x is not None]
            info |= info.pop("final_info")
        returned += [*arrays, *info.values()]
    for a, b in itertools.combinations(returned, 2):
        assert not np.shares_memory(a, b)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (1.5, [1.5, 1.5, 1.5]),
        ([1.5], [1.5, 1.5, 1.5]),
        ([[0.5], [1.0], [1.5]], [0.5, 1.0, 1.5]),
        ([0.5, 1.0, 1.5], [0.5, 1.0, 1.5]),
    ],
)
def test_one_task_or_one_each(task, expected):
    gym_id = "metarl/HalfCheetahVelocity-v0"
    envs = gymnasium.make_vec(gym_id, num_envs=3, task=task)
    assert envs.reset()[1]["task"][:, 0].tolist() == expected
    envs = gymnasium.make_vec(gym_id, num_envs=3)
    assert envs.reset(options={"task": task})[1]["task"][:, 0].tolist() == expected
    assert envs.reset()[1]["task"][:, 0].tolist() == expected  # from now on
    assert envs.reset(options={"task": None})[1]["task"][:, 0].tolist() != expected


def test_options_set_the_tasks_of_masked_sub_environments_only():
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=3, task=1.0)
    envs.reset()
    options = {"task": [0.5, 0.6, 0.7], "reset_mask": np.array([True, False, True])}
    _, info = envs.reset(options=options)
    assert info["task"][:, 0].tolist() == [0.5, 0.0, 0.7]
    assert info["_task"].tolist() == [True, False, True]
    assert set(options) == {"task", "reset_mask"}
    assert envs.reset()[1]["task"][:, 0].tolist() == [0.5, 1.0, 0.7]


@pytest.mark.parametrize("task", [[1.0, 2.0], [[1.0], [2.0]], np.ones((3, 2)), [[[1.0]]], np.nan])
def test_tasks_of_the_wrong_shape_are_refused(task):
    gym_id = "metarl/HalfCheetahVelocity-v0"
    with pytest.raises(ValueError, match="task"):
        gymnasium.make_vec(gym_id, num_envs=3, task=task)
    with pytest.raises(ValueError, match="task"):
        gymnasium.make_vec(gym_id, num_envs=3).reset(options={"task": task})


@pytest.mark.parametrize(
    "mask",
    [[True, False, False], np.ones(2, bool), np.ones(3), np.ones((3, 1), bool), np.zeros(3, bool)],
)
def test_reset_mask_is_refused_as_by_sync_vector_env(mask):
    ours, theirs = make_both("point-navigation", "Disabled")
    for envs in (ours, theirs):
        envs.reset()
    with pytest.raises((TypeError, ValueError)) as expected:
        theirs.reset(options={"reset_mask": mask})
    with pytest.raises(expected.type, match="reset_mask"):
        ours.reset(options={"reset_mask": mask})


def test_wrong_seeds_options_and_modes_are_refused():
    envs = gymnasium.make_vec("metarl/PointNavigation-v0", num_envs=3)
    with pytest.raises(ValueError, match="3 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match=r"\['reset_mask', 'task'\], got \['mask'\]"):
        envs.reset(options={"mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="Later"):
        gymnasium.make_vec("metarl/PointNavigation-v0", autoreset_mode="Later")
    with pytest.raises(ValueError, match="horizon"):
        gymnasium.make_vec("metarl/PointNavigation-v0", max_episode_steps=0)
    with pytest.raises(ValueError, match="human"):
        gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", render_mode="human")


@pytest.mark.parametrize("mode", AutoresetMode)
def test_step_needs_a_reset(mode):
    envs = gymnasium.make_vec("metarl/PointNavigation-v0", num_envs=3, autoreset_mode=mode)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 2)))
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        envs.step(np.zeros((3, 2)))


def test_without_autoreset_a_finished_sub_environment_needs_a_reset():
    envs = gymnasium.make_vec(
        "metarl/PointNavigation-v0", num_envs=2, autoreset_mode="Disabled", horizon=1
    )
    envs.reset()
    assert envs.step(np.zeros((2, 2)))[3].all()
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        envs.step(np.zeros((2, 2)))
