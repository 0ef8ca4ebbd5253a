"""Videos of recorded episodes, and the geometry of families that pictures rest on."""

import json
import os
import pickle
import subprocess
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest

from metarl.runtime.record import EvaluationRecord, EvaluationSettings, Row
from metarl_envs import State, Transition
from metarl_envs.family import TaskFamily
from metarl_envs.point import PointNavigation
from metarl_envs.registry import SIMULATED
from metarl_envs.rendering import GOAL, PAPER, PATH, POINT
from metarl_envs.video import (
    TEXT_HEIGHT,
    Clip,
    PointPainter,
    frame,
    make_painter,
    status,
    write_video,
)

GARBAGE = 99.0  # what follows an episode's end in a clip, to be seen nowhere


def point_clip(task=(0.4, 0.2), panels=2, steps=8, lengths=(8, 3, 5, 6)):
    """Points that go 0.1 m per env step to the right, down, left and up, an episode a panel."""
    directions = np.array([[1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1.0]])[:panels]
    qpos = 0.1 * np.arange(steps + 1)[:, None] * directions[:, None]
    rewards = -1.0 - np.zeros((panels, steps))
    for panel, length in enumerate(lengths[:panels]):
        qpos[panel, length + 1 :] = GARBAGE
        rewards[panel, length:] = GARBAGE
    captions = [f"panel {panel}" for panel in range(panels)]
    lengths = np.array(lengths[:panels])
    return Clip(PointNavigation(horizon=steps), np.array(task), qpos, rewards, lengths, captions)


def moving_clip(name, task, x, lengths=None, **constants):
    """A body whose first coordinates are ``x`` [T + 1] or [T + 1, 2], one panel, rewards -1."""
    family = SIMULATED[name](**constants)
    x = np.asarray(x, dtype=float).reshape(len(x), -1)
    qpos = np.repeat(
        family.initial_state(np.random.default_rng(0), np.zeros((1, family.task_dim))).qpos,
        len(x),
        axis=0,
    )
    qpos[:, : x.shape[1]] = x
    rewards = np.full((1, len(x) - 1), -1.0)
    lengths = np.array([len(x) - 1] if lengths is None else lengths)
    return Clip(family, np.array(task), qpos[None], rewards, lengths, ["before adaptation"])


def save(path, clip, name, **constants):
    """A clip's file in the format that ``Clip.load`` documents."""
    text = np.array(json.dumps([name, constants, clip.captions]))
    arrays = {key: getattr(clip, key) for key in ("task", "qpos", "rewards", "lengths")}
    np.savez(path, text=text, **arrays)


def pixels(picture):
    return np.asarray(picture).astype(int)


def centre(picture, colour):
    """Mean column and row of the pixels of a colour."""
    rows, columns = np.nonzero((pixels(picture) == colour).all(axis=-1))
    return columns.mean(), rows.mean()


def decode(path):
    """What a video says of itself, and its frames [K, height, width, 3]."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        facts = SimpleNamespace(
            codec=stream.codec_context.name,
            pixels=stream.codec_context.pix_fmt,
            fps=stream.average_rate,
            seconds=frames[-1].time,
            container=container.format.name,
            streams=len(container.streams),
        )
    return facts, np.stack([f.to_ndarray(format="rgb24") for f in frames]).astype(int)


# --- clips


def test_a_clip_is_what_reports_save(tmp_path):
    from metarl.report.film import _save_clip  # here, as environments else know no PyTorch
    from metarl.report.view import RunView
    from metarl.rl.evaluate import RecordedRollouts

    rng = np.random.default_rng(0)
    episodes = RecordedRollouts(  # 2 inner steps, 2 tasks, 2 trajectories each, 4 env steps
        rng.normal(size=(3, 2, 2, 5, 2)),
        rng.normal(size=(3, 2, 2, 4)),
        rng.integers(1, 5, (3, 2, 2)),
    )
    env = {"family": "point-navigation", "horizon": 4, "goal_range": [-2.0, 2.0]}
    evaluation = EvaluationRecord(
        *("", "return", [Row(0, 0.0, 0.0, 0.0, 0.0)], [], [], ["x", "y"]),
        tasks=[[0.25, 0.5], [-1.5, 1.25]],
        scores=[[0.0, 0.0]],
        others=[],
        main_test="",
        problem="env",
        protocol=EvaluationSettings(env, 2, 0, None, []),
        iteration=1,
        episodes_sha256="",
    )
    family = PointNavigation(horizon=4, goal_range=(-2.0, 2.0))
    view = RunView("run", {}, {}, [], evaluation, episodes, family)
    _save_clip(view, episodes, 1, tmp_path / "clip.npz")
    clip = Clip.load(tmp_path / "clip.npz")
    assert isinstance(clip.family, PointNavigation)
    assert (clip.family.horizon, list(clip.family.goal_range)) == (4, [-2.0, 2.0])
    np.testing.assert_array_equal(clip.task, [-1.5, 1.25])
    np.testing.assert_array_equal(clip.qpos, episodes.qpos[:, 1, 0])
    np.testing.assert_array_equal(clip.rewards, episodes.rewards[:, 1, 0])
    np.testing.assert_array_equal(clip.lengths, episodes.lengths[:, 1, 0])
    assert clip.captions == ["before adaptation", "after 1 inner step", "after 2 inner steps"]


class Intruder:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("key", ["text", "task", "qpos", "rewards", "lengths"])
def test_a_clip_with_pickled_objects_is_refused(tmp_path, key):
    save("clip.npz", point_clip(), "point-navigation")
    Clip.load(tmp_path / "clip.npz")
    with np.load("clip.npz") as file:
        arrays = dict(file)
    np.savez("clip.npz", **(arrays | {key: np.array([Intruder()], dtype=object)}))
    with pytest.raises(ValueError, match="allow_pickle"):
        Clip.load(tmp_path / "clip.npz")
    assert not (tmp_path / "unpickled").exists()


def test_a_pickle_is_no_clip(tmp_path):
    (tmp_path / "clip.npz").write_bytes(pickle.dumps(Intruder()))
    with pytest.raises(ValueError, match="allow_pickle"):
        Clip.load(tmp_path / "clip.npz")
    assert not (tmp_path / "unpickled").exists()


# --- pictures of the point world


def test_the_point_is_where_the_recorded_state_says():
    # The view is 2 m wide, as 1.25 times the 0.8 m that panel 0 reaches: 100 pixels per metre.
    painter = PointPainter(point_clip(), 300, 200)
    for t in (0, 3, 8):
        picture = painter.draw(0, t)
        assert picture.size == (300, 200)
        assert centre(picture, POINT) == pytest.approx((150 + 10 * t, 100), abs=0.5)
        assert centre(picture, GOAL) == pytest.approx((150 + 40, 100 - 20), abs=0.5)
    for t in (0, 1, 3):
        assert centre(painter.draw(1, t), POINT) == pytest.approx((150, 100 + 10 * t), abs=0.5)
        assert centre(painter.draw(1, t), GOAL) == pytest.approx((150 + 40, 100 - 20), abs=0.5)


def test_the_path_is_drawn_up_to_the_present():
    painter = PointPainter(point_clip(), 200, 200)
    columns = [np.nonzero((pixels(painter.draw(0, t)) == PATH).all(-1))[1] for t in (0, 4, 8)]
    assert len(columns[0]) == 0
    assert 100 + 30 < columns[1].max() < 100 + 40
    assert 100 + 70 < columns[2].max() < 100 + 80


def test_all_panels_have_the_same_scale_which_follows_what_they_show():
    clip = point_clip(panels=4)
    painter = PointPainter(clip, 200, 200)
    goals = [centre(painter.draw(panel, 0), GOAL) for panel in range(4)]
    assert goals == [pytest.approx((140, 80), abs=0.5)] * 4
    # Without the one that goes far, and with a far goal, the scale is another.
    near = PointPainter(point_clip(lengths=(2, 3)), 200, 200)  # at least 1.25 m wide
    assert centre(near.draw(0, 0), GOAL) == pytest.approx((100 + 160 * 0.4, 100 - 160 * 0.2), abs=1)
    far = PointPainter(point_clip(task=(0.0, -3.2)), 200, 200)
    assert centre(far.draw(0, 0), GOAL) == pytest.approx((100, 100 + 25 * 3.2), abs=0.5)
    assert centre(far.draw(0, 8), POINT) == pytest.approx((100 + 25 * 0.8, 100), abs=0.5)


def test_panels_lie_row_by_row_in_two_columns():
    clip = point_clip(panels=3)
    painter = make_painter(clip, 200, 160)
    whole = pixels(frame(clip, painter, 2, 200, 160))
    height = 160 + TEXT_HEIGHT
    assert whole.shape == (2 * height, 400, 3)
    for panel, (row, column) in enumerate([(0, 0), (0, 200), (height, 0)]):
        cut = whole[row : row + height, column : column + 200]
        np.testing.assert_array_equal(cut[TEXT_HEIGHT:], pixels(painter.draw(panel, 2)))
        assert len(np.unique(cut[:TEXT_HEIGHT])) > 10  # there is text
    assert (whole[height:, 200:] == PAPER).all()  # there is no fourth panel


def test_a_panel_whose_episode_is_over_stands_still():
    clip = point_clip(panels=2)  # the second is over after 3 env steps
    painter = make_painter(clip, 200, 160)
    frames = [pixels(frame(clip, painter, t, 200, 160)) for t in range(9)]
    for before, after in pairwise(frames):
        assert (before[:, :200] != after[:, :200]).any()
    for before, after in pairwise(frames[:4]):
        assert (before[:, 200:] != after[:, 200:]).any()
    for after in frames[4:]:
        np.testing.assert_array_equal(frames[3][:, 200:], after[:, 200:])


def test_captions_and_status_are_written_on_the_picture():
    clip = point_clip(panels=1)
    painter = make_painter(clip, 200, 160)
    plain = pixels(frame(clip, painter, 4, 200, 160))
    for other in (clip._replace(captions=["other"]), clip._replace(rewards=clip.rewards - 1)):
        changed = (pixels(frame(other, painter, 4, 200, 160)) != plain).any(axis=-1)
        assert changed[:80].any()
        assert not changed[80:].any()


def test_a_family_without_a_painter_is_refused(tmp_path):
    class Elsewhere:
        pass

    clip = point_clip()._replace(family=Elsewhere())
    with pytest.raises(NotImplementedError, match="nothing draws Elsewhere"):
        write_video(clip, tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


# --- what a panel says


def test_status_of_a_goal_in_the_plane():
    clip = moving_clip("point-navigation", [0.3, 0.4], [[0, 0], [0, 0.1], [0.3, 0.1], [0.3, 0.4]])
    clip = clip._replace(rewards=np.array([[-1.25, -2.5, -0.5]]))
    assert [status(clip, 0, t) for t in range(4)] == [
        ["return so far 0.0", "distance to goal 0.50 m"],
        ["return so far -1.2", "distance to goal 0.42 m"],  # sqrt(0.3^2 + 0.3^2)
        ["return so far -3.8", "distance to goal 0.30 m"],
        ["return so far -4.2", "distance to goal 0.00 m"],
    ]


def test_status_of_a_goal_for_a_body_looks_at_its_place():
    clip = moving_clip("ant-goal", [1.0, -2.0], [[0, 0], [1, 1], [4, 2]])
    assert status(clip, 0, 1) == ["return so far -1.0", "distance to goal 3.00 m"]
    assert status(clip, 0, 2) == ["return so far -2.0", "distance to goal 5.00 m"]


@pytest.mark.parametrize("name", ["half-cheetah-velocity", "ant-velocity"])
def test_status_of_a_velocity_is_of_the_last_ten_env_steps(name):
    # An env step is 0.05 s: ten of them at 1 m/s, then ten at -3 m/s.
    x = np.cumsum([0.0] + [0.05] * 10 + [-0.15] * 10)
    clip = moving_clip(name, [1.25], x)
    said = {t: status(clip, 0, t) for t in (0, 1, 10, 15, 20)}
    assert said == {
        0: ["return so far 0.0"],  # nothing has moved yet
        1: ["return so far -1.0", "velocity 1.00 m/s over 0.05 s, goal 1.25"],
        10: ["return so far -10.0", "velocity 1.00 m/s over 0.5 s, goal 1.25"],
        15: ["return so far -15.0", "velocity -1.00 m/s over 0.5 s, goal 1.25"],
        20: ["return so far -20.0", "velocity -3.00 m/s over 0.5 s, goal 1.25"],
    }


def test_status_knows_how_long_an_env_step_is():
    x = 0.02 * np.arange(13)
    clip = moving_clip("half-cheetah-velocity", [0.5], x, frame_skip=1)  # of 0.01 s
    assert status(clip, 0, 12)[1] == "velocity 2.00 m/s over 0.1 s, goal 0.50"


@pytest.mark.parametrize(
    ("name", "task", "towards"),
    [
        ("ant-direction", 0.0, "0.60"),
        ("ant-direction", np.pi / 2, "-0.80"),
        ("ant-direction", np.pi, "-0.60"),
        ("ant-direction", np.arctan2(-0.8, 0.6), "1.00"),
        ("ant-forward-backward", -1.0, "-0.60"),
        ("half-cheetah-direction", 1.0, "0.60"),
        ("half-cheetah-direction", -1.0, "-0.60"),
    ],
)
def test_status_of_a_direction_is_the_speed_along_it(name, task, towards):
    # 0.6 m/s along x and, if there is one, -0.8 m/s along y; at first ten times as fast.
    steps = 0.05 * np.array([[6.0, -8.0]] * 3 + [[0.6, -0.8]] * 10)
    x = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    clip = moving_clip(name, [task], x[:, :1] if name.startswith("half-cheetah") else x)
    assert status(clip, 0, 0) == ["return so far 0.0"]
    assert status(clip, 0, 13) == [
        "return so far -13.0",
        f"towards the arrow {towards} m/s over 0.5 s",
    ]


def test_status_says_when_an_episode_ended_early():
    clip = point_clip(panels=2)  # of 8 env steps and of 3
    assert [len(status(clip, 0, t)) for t in range(9)] == [2] * 9
    assert [len(status(clip, 1, t)) for t in range(3)] == [2] * 3
    assert status(clip, 1, 3)[2:] == ["episode over after 3 env steps"]


def test_status_without_a_target_is_the_return():
    class Aimless(PointNavigation):
        target = TaskFamily.target

    assert status(point_clip()._replace(family=Aimless()), 0, 4) == ["return so far -4.0"]


# --- video files


@pytest.mark.parametrize(
    ("panels", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2)]
)
def test_a_video_shows_every_state_once_in_a_grid(tmp_path, panels, columns, rows):
    clip = point_clip(panels=panels, lengths=(6, 7, 5, 3))
    write_video(clip, tmp_path / "video.mp4", 160, 120)
    facts, frames = decode(tmp_path / "video.mp4")
    assert (facts.codec, facts.pixels, facts.streams) == ("h264", "yuv420p", 1)
    assert "mp4" in facts.container
    longest = 6 if panels == 1 else 7
    assert frames.shape == (longest + 1, rows * (120 + TEXT_HEIGHT), columns * 160, 3)
    assert facts.fps == 20
    assert facts.seconds == pytest.approx(longest / 20)
    # Frame t is the picture of the state after t env steps, up to losses of the compression.
    painter = make_painter(clip, 160, 120)
    drawn = np.stack([pixels(frame(clip, painter, t, 160, 120)) for t in range(longest + 1)])
    error = np.abs(frames[:, None] - drawn).mean(axis=(2, 3, 4))
    assert error.diagonal().max() < 6
    np.testing.assert_array_equal(error[[0, 3, -1]].argmin(axis=1), [0, 3, longest])


def test_a_video_can_be_played_before_it_has_arrived_whole(tmp_path):
    write_video(point_clip(), tmp_path / "video.mp4", 160, 120)
    data = (tmp_path / "video.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_program_needs_no_opengl_for_points(tmp_path, start):
    save("clip.npz", point_clip(panels=3), "point-navigation", horizon=8)
    arguments = ("-m", "metarl_envs.video", "clip.npz", "video.mp4")
    process: subprocess.Popen[str] = start(*arguments, MUJOCO_GL="disabled")
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    facts, frames = decode(tmp_path / "video.mp4")
    assert len(frames) == 9
    assert facts.fps == 20


# --- bodies, in a process of its own, as MUJOCO_GL must be set before mujoco is imported


DRAW_BODIES = """
import numpy as np
from metarl_envs.registry import SIMULATED
from metarl_envs.video import Clip, make_painter

pictures = {}

def draw(key, name, task, *moves):
    # Two panels of as many states as moves: of the first coordinates, and of the last joints.
    family = SIMULATED[name]()
    qpos = np.repeat(family.model.qpos0[None], len(moves), axis=0)
    for state, (*start, joint) in zip(qpos, moves):
        state[:len(start)] = start
        state[-4:] += joint
    qpos = np.stack([qpos, qpos])
    lengths = np.full(2, len(moves) - 1)
    clip = Clip(family, np.array(task), qpos, np.zeros((2, len(moves) - 1)), lengths, ["", ""])
    floor, samples = family.model.tex_data.copy(), family.model.vis.quality.offsamples
    painter = make_painter(clip, 180, 120)
    for t in range(len(moves)):
        pictures[f"{key} {t}"] = np.asarray(painter.draw(0, t))
    pictures[f"{key} again"] = np.asarray(painter.draw(1, 0))
    # Only the painter's own copy of the model is changed, not the one of simulators.
    assert (family.model.tex_data == floor).all()
    assert family.model.vis.quality.offsamples == samples

draw("velocity", "half-cheetah-velocity", [1.5], (0, 0), (0.3, 0), (0, 0.5))
for angle in (0, 90, 180, 270):
    draw(f"ant {angle}", "ant-direction", [np.radians(angle)], (0, 0, 0), (0.3, 0, 0), (0, 0, 0.6))
for sign in (1, -1):
    draw(f"cheetah {sign}", "half-cheetah-direction", [sign], (0, 0))
moves = (0, 0, 0), (0, 0, 0.6), (1, 0, 0), (4, 0, 0), (2, -2, 0), (2, 1, 0)
draw("goal", "ant-goal", [2, 0], *moves)
np.savez("pictures.npz", **pictures)
"""


def green(picture):
    """Mean column and row of the green pixels from the picture's middle, right and up positive."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    rows, columns = np.nonzero((green > red + 40) & (green > blue + 40))
    assert len(rows) > 15
    return columns.mean() - picture.shape[1] / 2, picture.shape[0] / 2 - rows.mean()


def test_pictures_of_bodies_show_the_state_and_the_task(run_with_opengl):
    result: subprocess.CompletedProcess[str] = run_with_opengl(DRAW_BODIES)
    assert (result.returncode, result.stderr) == (0, "")
    pictures = dict(np.load("pictures.npz"))
    for picture in pictures.values():
        assert picture.shape == (120, 180, 3)
        assert len(np.unique(picture)) > 20  # there is something in it

    # A picture is a function of the state, and shows the place as well as the joints.
    for key in ("velocity", "ant 0", "goal"):
        np.testing.assert_array_equal(pictures[f"{key} 0"], pictures[f"{key} again"])
        for t in (1, 2):
            changed = (pictures[f"{key} 0"] != pictures[f"{key} {t}"]).any(axis=-1)
            assert changed.mean() > 0.01

    # A goal velocity is not drawn; the arrow is, seen from behind the y axis.
    with pytest.raises(AssertionError):
        green(pictures["velocity 0"])
    right, away, left, near = (green(pictures[f"ant {a} 0"]) for a in (0, 90, 180, 270))
    assert right[0] > 5
    assert left[0] == pytest.approx(-right[0], abs=2)
    assert left[1] == pytest.approx(right[1], abs=2)
    assert away[0] == pytest.approx(0, abs=2)
    assert near[0] == pytest.approx(0, abs=2)
    assert away[1] > right[1] > near[1]
    assert green(pictures["ant 0 1"]) == pytest.approx(right, abs=1)  # it goes with the body
    forwards, backwards = green(pictures["cheetah 1 0"]), green(pictures["cheetah -1 0"])
    assert forwards[0] > 5
    assert backwards[0] == pytest.approx(-forwards[0], abs=2)

    # The goal stays where it is while the body moves, with the camera on it.
    start, closer, past, behind, before = (green(pictures[f"goal {t}"]) for t in (0, 2, 3, 4, 5))
    assert start[0] > closer[0] > 5
    assert past[0] == pytest.approx(-start[0], abs=2)
    assert behind[0] == pytest.approx(0, abs=2)
    assert before[0] == pytest.approx(0, abs=2)
    assert behind[1] > start[1] > before[1]


MAKE_VIDEO = """
import os
import sys

os.execv(sys.executable, [sys.executable, "-m", "metarl_envs.video", "clip.npz", "video.mp4"])
"""


def test_the_program_writes_videos_of_bodies_in_real_time(tmp_path, run_with_opengl):
    clip = moving_clip(
        "half-cheetah-velocity", [1.5], 0.03 * np.arange(6), lengths=[4], frame_skip=1
    )
    save("clip.npz", clip, "half-cheetah-velocity", frame_skip=1)
    result: subprocess.CompletedProcess[str] = run_with_opengl(MAKE_VIDEO)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npz", "video.mp4"]
    facts, frames = decode(tmp_path / "video.mp4")
    assert facts.codec == "h264"
    assert facts.fps == 100  # as an env step is 0.01 s
    assert frames.shape == (5, 240 + TEXT_HEIGHT, 360, 3)
    assert len(np.unique(frames[0])) > 20
    assert np.abs(frames[0] - frames[-1]).mean() > 1  # it moves


# --- what every family says of its bodies and tasks


@pytest.mark.parametrize("leading", [(), (5,), (2, 3, 4), (0,)])
def test_positions_have_one_or_two_coordinates(name, leading):
    family = SIMULATED[name]()
    count = int(np.prod(leading))
    qpos = family.initial_state(
        np.random.default_rng(0), np.zeros((max(count, 1), family.task_dim))
    ).qpos
    position = family.position(qpos[:count].reshape(*leading, -1) if leading != (0,) else qpos[:0])
    assert position.shape[:-1] == leading
    assert position.shape[-1] in (1, 2)
    assert np.isfinite(position).all()
    for index in np.ndindex(leading):
        row = qpos[np.ravel_multi_index(index, leading) if leading else 0]
        np.testing.assert_array_equal(position[index], family.position(row))


def test_positions_are_metres_along_the_axes(name):
    family = SIMULATED[name]()
    qpos = family.initial_state(np.random.default_rng(0), np.zeros((1, family.task_dim))).qpos[0]
    start = family.position(qpos).copy()
    for axis in range(len(start)):
        moved = qpos.copy()
        moved[axis] += 1.5
        np.testing.assert_allclose(family.position(moved) - start, 1.5 * np.eye(len(start))[axis])
    qpos[len(start) :] += 1.5  # the rest is no place
    np.testing.assert_array_equal(family.position(qpos), start)


def test_targets_are_places_directions_or_velocities(name):
    family = SIMULATED[name]()
    rng = np.random.default_rng(0)
    axes = family.position(family.initial_state(rng, np.zeros((1, family.task_dim))).qpos).shape[-1]
    for task in family.sample_tasks(rng, 20):
        target = family.target(task)
        if target is None:  # nothing is drawn
            continue
        assert target.value.ndim == 1
        assert np.isfinite(target.value).all()
        if target.kind == "velocity":
            assert 1 <= len(target.value) <= axes
            np.testing.assert_array_equal(target.value, task)
        else:
            assert target.kind in ("position", "direction")
            assert len(target.value) == axes
        if target.kind == "direction":
            assert np.linalg.norm(target.value) == pytest.approx(1)


def test_targets_are_what_is_rewarded(name):
    """Reaching the target of the picture pays more than missing it, all else being equal."""
    family = SIMULATED[name]()
    rng = np.random.default_rng(0)
    before = family.initial_state(rng, np.zeros((1, family.task_dim)))
    start = family.position(before.qpos)[0]
    control = np.zeros((1, family.action_dim))

    def reward(task, velocity):
        qpos = before.qpos.copy()
        qpos[0, : len(velocity)] += np.multiply(velocity, family.dt)
        after = State(qpos, before.qvel)
        step = Transition(before, after, control, task[None], np.zeros((1, 0)))
        return family.reward(step)[0]

    for task in family.sample_tasks(rng, 20):
        target = family.target(task)
        if target is None:
            continue
        best = target.value
        if target.kind == "position":
            best = (target.value - start) / family.dt
        for _ in range(5):
            miss = rng.normal(size=len(best))
            if target.kind == "direction":  # as fast, elsewhere
                miss = miss / np.linalg.norm(miss) - best
                if np.allclose(miss, 0):  # there are but two directions on a line
                    miss = -2 * best
            assert reward(task, best) > reward(task, best + miss)


@pytest.mark.parametrize(
    ("name", "task", "kind", "value"),
    [
        ("point-navigation", [0.25, -0.5], "position", [0.25, -0.5]),
        ("ant-goal", [-1.0, 2.0], "position", [-1.0, 2.0]),
        ("ant-direction", [2 * np.pi / 3], "direction", [-0.5, np.sqrt(0.75)]),
        ("ant-forward-backward", [-1.0], "direction", [-1.0, 0.0]),
        ("half-cheetah-direction", [-1.0], "direction", [-1.0]),
        ("half-cheetah-velocity", [1.25], "velocity", [1.25]),
        ("ant-velocity", [2.5], "velocity", [2.5]),
    ],
)
def test_targets_of_known_tasks(name, task, kind, value):
    target = SIMULATED[name]().target(np.array(task))
    assert target.kind == kind
    np.testing.assert_allclose(target.value, value, atol=1e-15)
