"""Pictures of a batch's simulations. Training never imports this module.

``RENDERERS`` says which renderer draws which simulator. Neither sets ``MUJOCO_GL``: which OpenGL
library draws the MuJoCo bodies is the user's choice.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from numpy.typing import NDArray

from metarl_envs.batch import BatchedEnv
from metarl_envs.family import Array
from metarl_envs.point import PointSimulator
from metarl_envs.simulator import MujocoSimulator

Image = NDArray[np.uint8]

Colour = tuple[int, int, int]
PAPER, GRID, ORIGIN = (255, 255, 255), (232, 232, 232), (120, 120, 120)
PATH, POINT, GOAL = (140, 175, 220), (25, 75, 160), (40, 160, 70)


class Renderer(Protocol):
    """Draws the simulations of one batch in one render mode."""

    modes: ClassVar[tuple[str, ...]]

    def __init__(self, batch: BatchedEnv, mode: str, width: int, height: int): ...

    def start(self, sims: Iterable[int]) -> None:
        """Note that these simulations have just begun an episode."""

    def advance(self) -> None:
        """Note that the batch has made an env step."""

    def render(self, sim: int) -> Any:
        """A frame of simulation ``sim``, as the render mode defines it.

        Raises:
            RuntimeError: there is nothing to draw with.
        """

    def close(self) -> None:
        """Release windows and OpenGL contexts; twice is allowed."""


class BodyRenderer:
    """gymnasium's renderer of MuJoCo bodies, its camera following the body.

    Frames: rgb_array [height, width, 3] uint8, depth_array [height, width] float32.
    """

    modes: ClassVar[tuple[str, ...]] = ("human", "rgb_array", "depth_array", "rgbd_tuple")

    def __init__(self, batch: BatchedEnv, mode: str, width: int, height: int):
        assert isinstance(batch.simulator, MujocoSimulator)
        self._arguments = (batch, mode, width, height)
        self._mode = mode
        self._batch = batch.simulator.batch
        self._model = self._batch.get_model(0)
        size = self._model.vis.global_
        size.offwidth, size.offheight = max(size.offwidth, width), max(size.offheight, height)
        self._data = mujoco.MjData(self._model)
        self._renderer: MujocoRenderer | None = MujocoRenderer(
            self._model, self._data, width=width, height=height, camera_name="track"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by arguments: a copy has an OpenGL context of its own."""
        return BodyRenderer, self._arguments

    def start(self, sims: Iterable[int]) -> None:
        pass

    def advance(self) -> None:
        pass

    def render(self, sim: int) -> Any:
        if self._renderer is None:
            raise RuntimeError("the renderer is closed")
        self._batch.get_data(sim, self._data)
        mujoco.mj_forward(self._model, self._data)
        try:
            return self._renderer.render(self._mode)
        except mujoco.FatalError as error:
            raise RuntimeError(
                "no OpenGL context to draw with: on a machine without a display, set MUJOCO_GL=egl "
                "or MUJOCO_GL=osmesa before Python starts"
            ) from error

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class PointRenderer:
    """The plane from above: grid lines every 0.5, the origin, the goal, the path and the point.

    The view is 1.25 wide, or as wide as the goal and the path need. Frames: rgb_array
    [height, width, 3] uint8.
    """

    modes: ClassVar[tuple[str, ...]] = ("rgb_array",)

    def __init__(self, batch: BatchedEnv, mode: str, width: int, height: int):
        self._batch = batch
        self._size = np.array([width, height])
        self._paths = [[position.copy()] for position in batch.simulator.state.qpos]

    def start(self, sims: Iterable[int]) -> None:
        for sim in sims:
            self._paths[sim] = [self._batch.simulator.state.qpos[sim].copy()]

    def advance(self) -> None:
        for path, position in zip(self._paths, self._batch.simulator.state.qpos, strict=True):
            path.append(position.copy())

    def render(self, sim: int) -> Image:
        path, goal = np.array(self._paths[sim]), self._batch.tasks[sim // self._batch.shape[1]]
        return paint_point(path, goal, point_reach(path, goal), self._size)

    def close(self) -> None:
        pass


def point_reach(path: Array, goal: Array) -> float:
    """Half the width in metres of a view that shows the path [..., 2] and the goal [2]."""
    return 1.25 * max(0.5, float(np.abs(goal).max()), float(np.abs(path).max()))


def paint_point(
    path: Array, goal: Array, reach: float, size: tuple[int, int] | NDArray[np.integer]
) -> Image:
    """A picture of the plane, ``size`` (width, height) pixels: the path so far [t, 2] and the goal.

    Args:
        reach: half the width of the view in metres; the origin is in its middle.
    """
    width, height = size
    scale = min(size) / (2 * reach)  # pixels per metre

    def pixels(positions: Array) -> Array:
        """Columns and rows [..., 2] of positions [..., 2]; y points up, rows count down."""
        return np.array([width, height]) / 2 + scale * positions * (1, -1)

    image = np.full((height, width, 3), PAPER, dtype=np.uint8)
    for k in range(-int(reach / 0.5), int(reach / 0.5) + 1):
        _line(image, pixels(np.array([[0.5 * k, -reach], [0.5 * k, reach]])), GRID)
        _line(image, pixels(np.array([[-reach, 0.5 * k], [reach, 0.5 * k]])), GRID)
    x, y = pixels(np.zeros(2))
    _line(image, np.array([[x - 8, y], [x + 8, y]]), ORIGIN, width=3)
    _line(image, np.array([[x, y - 8], [x, y + 8]]), ORIGIN, width=3)
    _disc(image, pixels(goal), 10, GOAL)
    _line(image, pixels(path), PATH, width=3)
    _disc(image, pixels(path[-1]), 7, POINT)
    return image


RENDERERS: dict[type, type[Renderer]] = {
    MujocoSimulator: BodyRenderer,
    PointSimulator: PointRenderer,
}


def render_metadata(batch: BatchedEnv) -> dict[str, Any]:
    """Return the render modes and frame rate for gymnasium's ``metadata``."""
    renderer = RENDERERS.get(type(batch.simulator))
    modes = renderer.modes if renderer else ()
    return {"render_modes": list(modes), "render_fps": batch.family.render_fps}


def make_renderer(batch: BatchedEnv, mode: str | None, width: int, height: int) -> Renderer | None:
    """The renderer of this batch in a render mode; None without one.

    Raises:
        ValueError: the batch is not drawn in this mode.
    """
    if mode is None:
        return None
    renderer = RENDERERS.get(type(batch.simulator))
    if renderer is None:
        raise ValueError(f"{type(batch.family).__name__} is not drawn: render_mode must be None")
    if mode not in renderer.modes:
        raise ValueError(
            f"render_mode of {type(batch.family).__name__} must be None or one of "
            f"{', '.join(renderer.modes)}, got {mode!r}"
        )
    return renderer(batch, mode, width, height)


def _disc(image: Image, centre: Array, radius: float, colour: Colour) -> None:
    """Paint a disc; ``centre`` is (column, row), ``radius`` in pixels."""
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    image[(columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius**2] = colour


def _line(image: Image, corners: Array, colour: Colour, width: int = 1) -> None:
    """Paint a line through ``corners`` [K, 2] (column, row), ``width`` pixels wide."""
    for start, end in pairwise(corners):
        count = int(np.abs(end - start).max()) + 2
        columns, rows = np.linspace(start, end, count).T.round().astype(int)
        for dx in range(-(width // 2), width // 2 + 1):
            for dy in range(-(width // 2), width // 2 + 1):
                x, y = columns + dx, rows + dy
                inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
                image[y[inside], x[inside]] = colour
