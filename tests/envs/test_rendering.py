"""Frames of the point world, and of the bodies where there is an OpenGL library to draw them."""

import subprocess

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.passive_env_checker import env_render_passive_checker

from metarl_envs.rendering import GOAL, GRID, PATH, POINT
from metarl_envs.single import TaskEnv
from metarl_envs.vector import TaskVectorEnv


def make_point(task, **kwargs):
    env = TaskEnv("point-navigation", task=task, render_mode="rgb_array", **kwargs)
    env.reset()
    return env


def centre(frame, colour):
    """Mean column and row of the pixels of a colour."""
    rows, columns = np.nonzero((frame == colour).all(axis=-1))
    return columns.mean(), rows.mean()


def has_path(frame):
    return bool((frame == PATH).all(axis=-1).any())


def test_point_frame_shows_where_things_are():
    env = make_point([0.25, 0.5])  # the view is 1.25 wide: 384 pixels per metre
    env.step(np.array([-1.0, 0.5]))
    frame = env.render()
    assert frame.shape == (480, 480, 3)
    assert frame.dtype == np.uint8
    # The origin is at (240, 240), y points up.
    assert centre(frame, GOAL) == pytest.approx((240 + 0.25 * 384, 240 - 0.5 * 384), abs=1)
    assert centre(frame, POINT) == pytest.approx((240 - 0.1 * 384, 240 - 0.05 * 384), abs=1)
    assert centre(frame, GRID) == pytest.approx((240, 240), abs=20)


def test_point_frame_shows_the_path_also_where_nobody_looked():
    env = make_point([0.5, 0.5])
    for action in ([1.0, 0.0], [1.0, 0.0], [0.0, -1.0]):
        env.step(np.array(action))
    rows, columns = np.nonzero((env.render() == PATH).all(axis=-1))
    assert columns.min() == pytest.approx(240, abs=12)  # the origin's cross lies below it
    assert columns.max() == pytest.approx(240 + 0.2 * 384, abs=2)
    assert (np.abs(rows - 240) <= 1).sum() > 60  # most of it along the x axis
    env.reset()
    assert not has_path(env.render())


def test_point_frame_widens_to_show_all():
    env = make_point([0.5, 0.5])
    for _ in range(20):
        env.step(np.array([-1.0, 0.0]))
    frame = env.render()
    # 2 m from the origin and the view 1.25 times as wide: at a tenth of the frame.
    assert centre(frame, POINT) == pytest.approx((48, 240), abs=1)
    assert centre(frame, GOAL) == pytest.approx((240 + 0.5 * 96, 240 - 0.5 * 96), abs=1)


def test_point_frames_have_the_size_asked_for():
    assert make_point([0.5, 0.5], width=320, height=240).render().shape == (240, 320, 3)


def test_point_vector_frames():
    envs = TaskVectorEnv(
        2, "point-navigation", task=[[0.5, 0.0], [0.0, 0.5]], render_mode="rgb_array"
    )
    envs.reset()
    envs.step(np.array([[0.0, 1.0], [1.0, 0.0]]))
    first, second = envs.render()
    assert centre(first, GOAL) == pytest.approx((432, 240), abs=1)
    assert centre(second, GOAL) == pytest.approx((240, 48), abs=1)
    # Each has its own path, which begins anew with its episode.
    assert has_path(first)
    assert has_path(second)
    envs.reset(options={"reset_mask": np.array([False, True])})
    first, second = envs.render()
    assert has_path(first)
    assert not has_path(second)
    envs.close()


def test_without_a_render_mode_there_is_no_frame():
    assert TaskEnv("ant-goal").render() is None
    assert TaskVectorEnv(2, "ant-goal").render() is None


def test_unknown_render_modes_name_the_known_ones():
    with pytest.raises(ValueError, match=r"one of rgb_array, got 'human'"):
        TaskEnv("point-navigation", render_mode="human")
    with pytest.raises(ValueError, match=r"human, rgb_array, depth_array, rgbd_tuple, got 'ansi'"):
        TaskEnv("ant-goal", render_mode="ansi")


def test_frames_per_second_are_those_of_real_time():
    assert TaskEnv("half-cheetah-velocity").metadata["render_fps"] == 20
    assert TaskEnv("half-cheetah-velocity", frame_skip=1).metadata["render_fps"] == 100
    assert TaskEnv("point-navigation").metadata["render_fps"] == 20


# In a process of its own, as MUJOCO_GL must be set before mujoco is imported.
DRAW_BODIES = """
import numpy as np
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from metarl_envs.single import TaskEnv
from metarl_envs.vector import TaskVectorEnv

frames = {}
for name in ("half-cheetah-velocity", "ant-goal"):
    for mode in ("rgb_array", "depth_array"):
        env = TaskEnv(name, render_mode=mode, width=160, height=120)
        env.reset(seed=0)
        env_render_passive_checker(env)
        frames[f"{name} {mode} start"] = env.render()
        frames[f"{name} {mode} again"] = env.render()
        for _ in range(10):
            env.step(np.ones(env.action_space.shape))
        frames[f"{name} {mode} moved"] = env.render()
        env.reset(seed=0)
        frames[f"{name} {mode} reset"] = env.render()
        env.close()
        env.close()
envs = TaskVectorEnv(2, "half-cheetah-velocity", render_mode="rgb_array", width=160, height=120)
envs.reset(seed=0)
frames["vector 0"], frames["vector 1"] = envs.render()
envs.close()
envs.close()
np.savez("frames.npz", **frames)
"""


def test_bodies_are_drawn_as_they_stand(run_with_opengl, tmp_path):
    result: subprocess.CompletedProcess[str] = run_with_opengl(DRAW_BODIES)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["frames.npz"]
    frames = np.load("frames.npz")
    for name in ("half-cheetah-velocity", "ant-goal"):
        for mode, shape in (("rgb_array", (120, 160, 3)), ("depth_array", (120, 160))):
            start, again, moved, reset = (
                frames[f"{name} {mode} {when}"] for when in ("start", "again", "moved", "reset")
            )
            assert start.shape == shape
            assert len(np.unique(start)) > 20  # there is something in it
            np.testing.assert_array_equal(start, again)
            np.testing.assert_array_equal(start, reset)
            changed = (start != moved).reshape(120, 160, -1).any(axis=-1)
            assert changed.mean() > 0.02
    # Sub-environment 0 is the single environment of the same seed, 1 is another.
    np.testing.assert_array_equal(
        frames["vector 0"], frames["half-cheetah-velocity rgb_array start"]
    )
    assert (frames["vector 0"] != frames["vector 1"]).any()


def test_without_opengl_the_error_says_what_to_set(run_python):
    program = (
        "from metarl_envs.single import TaskEnv\n"
        "env = TaskEnv('ant-goal', render_mode='rgb_array')\n"
        "env.reset()\n"
        "env.render()\n"
    )
    result = run_python(program)
    if result.returncode == 0:
        pytest.skip("there is a display, or MUJOCO_GL is set")
    assert "RuntimeError" in result.stderr
    assert "MUJOCO_GL=egl" in result.stderr


def test_point_frames_please_gymnasium():
    env = gymnasium.make("metarl/PointNavigation-v0", render_mode="rgb_array")
    env.reset()
    env_render_passive_checker(env.unwrapped)
