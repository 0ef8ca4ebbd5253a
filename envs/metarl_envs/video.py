"""Videos of recorded episodes: one task before and after adaptation, in panels beside each other.

The frames show the recorded states; nothing is simulated again. It is a program of its own,
``python -m envs.video CLIP.npz VIDEO.mp4``, because MuJoCo takes its OpenGL library (MUJOCO_GL)
when it is imported, and because a broken one may end the process; training should see neither.
"""

import copy
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl_envs.family import Array, Target, TaskFamily
from metarl_envs.locomotion import Locomotion
from metarl_envs.point import PointNavigation
from metarl_envs.rendering import GOAL, PAPER, paint_point, point_reach
from metarl_envs.single import make_family

COLUMNS = 2
TEXT_HEIGHT = 76  # pixels above every picture: four lines
TEXT, SHADE = (255, 255, 255), (45, 50, 58)
SPEED_WINDOW = (
    10  # env steps that a written speed is the mean of: single ones jump too much to read
)


class Clip(NamedTuple):
    """Episodes of one task, a panel each."""

    family: TaskFamily
    task: Array  # [task_dim]
    qpos: Array  # [P, T + 1, nq], from the initial state on; unused after an episode's end
    rewards: Array  # [P, T]
    lengths: Array  # [P], env steps
    captions: list[str]  # P

    @classmethod
    def load(cls, path: Path) -> "Clip":
        """Read an npz file of the arrays, and ``text``: JSON [family's name, constants, captions].

        Raises:
            ValueError: an entry is not a plain array; nothing is unpickled.
        """
        with np.load(path, allow_pickle=False) as file:
            name, constants, captions = json.loads(str(file["text"]))
            arrays = {key: file[key] for key in ("task", "qpos", "rewards", "lengths")}
        return cls(family=make_family(name, constants), captions=captions, **arrays)


class Painter(Protocol):
    """Draws a clip's states."""

    def draw(self, panel: int, t: int) -> Image.Image:
        """The state of a panel's episode after ``t`` env steps."""


class BodyPainter:
    """A MuJoCo body without shadows, reflections and multisampling, ten times as fast as with."""

    def __init__(self, clip: Clip, width: int, height: int):
        assert isinstance(clip.family, Locomotion)
        self._clip = clip
        self._target = clip.family.target(clip.task)
        model = copy.copy(clip.family.model)
        model.vis.quality.offsamples = 0
        # Less contrast in the chequered floor: calmer to look at, and a third of the bytes.
        model.tex_data[:] = 150 + model.tex_data // 5
        self._model, self._data = model, mujoco.MjData(model)
        self._renderer = mujoco.Renderer(model, height, width)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = False
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.azimuth, self._camera.elevation, self._camera.distance = clip.family.camera

    def draw(self, panel: int, t: int) -> Image.Image:
        self._data.qpos[:] = self._clip.qpos[panel, t]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        torso = self._data.xpos[1]
        self._camera.lookat[:] = torso
        self._renderer.update_scene(self._data, self._camera)
        if self._target is not None:
            self._add_target(self._target, torso)
        return Image.fromarray(self._renderer.render())

    def _add_target(self, target: Target, torso: Array) -> None:
        value = np.zeros(3)
        value[: len(target.value)] = target.value
        if target.kind == "direction":
            start = torso + np.array([0, 0, 0.8])
            self._add(mujoco.mjtGeom.mjGEOM_ARROW, 0.06, start, start + 1.2 * value)
        elif target.kind == "position":
            self._add(mujoco.mjtGeom.mjGEOM_CYLINDER, 0.25, value, value + np.array([0, 0, 0.02]))

    def _add(self, kind: int, width: float, start: Array, end: Array) -> None:
        scene = self._renderer.scene
        geom = scene.geoms[scene.ngeom]
        colour = np.array([*GOAL, 255], dtype=np.float32) / 255
        mujoco.mjv_initGeom(geom, kind, np.zeros(3), np.zeros(3), np.eye(3).ravel(), colour)
        mujoco.mjv_connector(geom, kind, width, start, end)
        scene.ngeom += 1


class PointPainter:
    """The plane from above; all panels in the same scale."""

    def __init__(self, clip: Clip, width: int, height: int):
        self._clip = clip
        self._size = width, height
        path = np.concatenate([q[: n + 1] for q, n in zip(clip.qpos, clip.lengths, strict=True)])
        self._reach = point_reach(path, clip.task)

    def draw(self, panel: int, t: int) -> Image.Image:
        path = self._clip.qpos[panel, : t + 1]
        return Image.fromarray(paint_point(path, self._clip.task, self._reach, self._size))


def make_painter(clip: Clip, width: int, height: int) -> Painter:
    """The painter of the clip's world."""
    if isinstance(clip.family, Locomotion):
        return BodyPainter(clip, width, height)
    if isinstance(clip.family, PointNavigation):
        return PointPainter(clip, width, height)
    raise NotImplementedError(f"nothing draws {type(clip.family).__name__}")


def frame(clip: Clip, painter: Painter, t: int, width: int, height: int) -> Image.Image:
    """Return all panels after ``t`` env steps; a panel stands still when its episode is over."""
    image = Image.new("RGB", video_size(clip, width, height), PAPER)
    draw = ImageDraw.Draw(image)
    for panel in range(len(clip.captions)):
        at = min(t, int(clip.lengths[panel]))
        x, y = panel % COLUMNS * width, panel // COLUMNS * (height + TEXT_HEIGHT)
        draw.rectangle((x, y, x + width - 1, y + TEXT_HEIGHT - 1), SHADE)
        text = "\n".join([clip.captions[panel], *status(clip, panel, at)])
        draw.multiline_text((x + 8, y + 3), text, TEXT, font(), spacing=3)
        image.paste(painter.draw(panel, at), (x, y + TEXT_HEIGHT))
    return image


@cache
def font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(14)


def video_size(clip: Clip, width: int, height: int) -> tuple[int, int]:
    """Width and height of the video in pixels; a panel's picture is ``width`` x ``height``."""
    panels = len(clip.captions)
    return min(COLUMNS, panels) * width, -(-panels // COLUMNS) * (height + TEXT_HEIGHT)


def status(clip: Clip, panel: int, t: int) -> list[str]:
    """Return the text under a panel after ``t`` env steps."""
    if clip.lengths[panel] == 0:
        return ["the simulation diverged"]
    lines = [f"return so far {clip.rewards[panel, :t].sum():.1f}"]
    target = clip.family.target(clip.task)
    position = clip.family.position(clip.qpos[panel, : t + 1])
    if target is not None and target.kind == "position":
        lines.append(f"distance to goal {np.linalg.norm(position[-1] - target.value):.2f} m")
    elif target is not None and t > 0:
        window = position[-SPEED_WINDOW - 1 :]
        seconds = clip.family.dt * (len(window) - 1)
        velocity, over = (window[-1] - window[0]) / seconds, f"over {seconds:.2g} s"
        if target.kind == "velocity":
            lines.append(f"velocity {velocity[0]:.2f} m/s {over}, goal {target.value[0]:.2f}")
        else:
            lines.append(f"towards the arrow {velocity @ target.value:.2f} m/s {over}")
    if t == clip.lengths[panel] < clip.rewards.shape[1]:
        lines.append(f"episode over after {t} env steps")
    return lines


def write_video(clip: Clip, path: Path, width: int = 360, height: int = 240) -> None:
    """H.264 in real time, one frame per env step; ``width`` x ``height`` pixels per picture."""
    painter = make_painter(clip, width, height)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=clip.family.render_fps)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "30", "preset": "veryfast"}
        stream.width, stream.height = video_size(clip, width, height)
        for t in range(int(max(clip.lengths)) + 1):
            image = frame(clip, painter, t, width, height)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def main() -> int:
    clip, path = sys.argv[1:]
    write_video(Clip.load(Path(clip)), Path(path))
    sys.stdout.flush()
    os._exit(0)  # without the destructors of some OpenGL libraries, which print or crash


if __name__ == "__main__":
    sys.exit(main())
