"""How a body moved in the recorded episodes of a policy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.report.style import ARROW, COLOURS, INK, label, legend_below, step_colour
from metarl.report.view import Array, Family, RunView, Target, after
from metarl.rl.evaluate import RecordedRollouts

SPEED_WINDOW = 10  # env steps
HEADING_WINDOW = 20  # env steps


def motion(view: RunView, episodes: RecordedRollouts) -> dict[str, Callable[[], Figure]]:
    """The figures that suit the family, by name."""
    if not _shows_motion(view, episodes):
        return {}
    if not _is_planar(view, episodes):
        return {"velocity": lambda: velocity(view, episodes)}
    functions = {"paths": lambda: paths(view, episodes)}
    if any(_kind(target) == "direction" for target in _targets(view, episodes)):
        functions["heading"] = lambda: heading(view, episodes)
    return functions


def _shows_motion(view: RunView, episodes: RecordedRollouts) -> bool:
    """Return whether the family gives its body's position."""
    return _family(view).position(episodes.qpos).shape[-1] > 0


def _family(view: RunView) -> Family:
    assert view.family is not None, "only policies move"
    return view.family


def paths(view: RunView, episodes: RecordedRollouts) -> Figure:
    """The plane from above: a row per task, a column per inner step (as figure 4, right)."""
    position = _family(view).position(episodes.qpos)  # [K, M, N, T + 1, 2]
    steps, tasks = position.shape[:2]
    figure = Figure(figsize=(2.3 * steps + 0.5, 2.3 * tasks + 0.5))
    grid = figure.subplots(tasks, steps, squeeze=False, sharex="row", sharey="row")
    for m, target in enumerate(_targets(view, episodes)):
        reach = 0.1
        for k in range(steps):
            axes = grid[m, k]
            for n, length in enumerate(episodes.lengths[k, m]):
                x, y = position[k, m, n, : length + 1].T
                axes.plot(x, y, color=step_colour(k, steps), linewidth=0.9, alpha=0.75)
                reach = max(reach, 1.1 * float(np.abs((x, y)).max()))
            axes.plot(0, 0, "+", color=INK)
            axes.set_aspect("equal")
            if m == 0:
                axes.set_title(after(k))
            if k == 0:
                axes.set_ylabel(f"{label(view.task_name(m))}\ny (m)", fontsize=8)
            if m == tasks - 1:
                axes.set_xlabel("x (m)")
        if target is not None and target.kind == "position":
            reach = max(reach, 1.1 * float(np.abs(target.value).max()))
        for axes in grid[m]:
            _draw_target(axes, target, reach)
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True)
        grid[m, 0].set(xlim=(-reach, reach), ylim=(-reach, reach))
        grid[m, 0].xaxis.set_major_locator(ticks)
        grid[m, 0].yaxis.set_major_locator(ticks)
    return figure


def _draw_target(axes: Axes, target: Target | None, reach: float) -> None:
    if target is not None and target.kind == "position":
        axes.plot(*target.value, "*", color=COLOURS[2], markersize=13, markeredgecolor=INK)
    elif target is not None and target.kind == "direction":
        x, y = 0.9 * reach * target.value
        axes.annotate("", (x, y), (0, 0), arrowprops=ARROW)


def velocity(view: RunView, episodes: RecordedRollouts) -> Figure:
    """Velocity along x over time, mean over trajectories, and the goal; a panel per task."""
    position = _family(view).position(episodes.qpos)[..., 0]  # [K, M, N, T + 1]
    speed = (position[..., SPEED_WINDOW:] - position[..., :-SPEED_WINDOW]) / (
        _family(view).dt * SPEED_WINDOW
    )
    end = np.arange(SPEED_WINDOW, position.shape[-1])
    speed = np.where(end <= episodes.lengths[..., None], speed, np.nan)
    figure, panels = _panel_per_task(view, episodes)
    for m, (axes, target) in enumerate(zip(panels, _targets(view, episodes), strict=True)):
        _lines_per_step(axes, end * _family(view).dt, speed[:, m])
        if target is not None and target.kind == "velocity":
            axes.axhline(target.value[0], color=INK, linestyle="--", label="goal")
        elif target is not None and target.kind == "direction":
            axes.axhline(0, color=INK, linewidth=0.8)
            tip = 0.5 + 0.35 * target.value[0]
            axes.annotate("", (0.04, tip), (0.04, 0.5), "axes fraction", arrowprops=ARROW)
        axes.set(xlabel="time (s)")
    panels[0].set_ylabel(f"velocity (m/s), over {SPEED_WINDOW} env steps")
    legend_below(figure, panels[0])
    return figure


def heading(view: RunView, episodes: RecordedRollouts) -> Figure:
    """Angle between the motion and the wanted direction, mean over trajectories."""
    position = _family(view).position(episodes.qpos)  # [K, M, N, T + 1, 2]
    displacement = position[..., HEADING_WINDOW:, :] - position[..., :-HEADING_WINDOW, :]
    angle = np.arctan2(displacement[..., 1], displacement[..., 0])
    end = np.arange(HEADING_WINDOW, position.shape[-2])
    valid = end <= episodes.lengths[..., None]
    figure, panels = _panel_per_task(view, episodes)
    for m, (axes, target) in enumerate(zip(panels, _targets(view, episodes), strict=True)):
        assert target is not None
        off = np.angle(np.exp(1j * (angle[:, m] - np.arctan2(target.value[1], target.value[0]))))
        degrees = np.where(valid[:, m], np.abs(np.degrees(off)), np.nan)
        _lines_per_step(axes, end * _family(view).dt, degrees)
        axes.axhline(90, color=INK, linestyle=":", label="chance")
        axes.set(xlabel="time (s)", ylim=(0, 180), yticks=range(0, 181, 45))
    panels[0].set_ylabel("heading off the goal direction (°)")
    legend_below(figure, panels[0])
    return figure


def _panel_per_task(view: RunView, episodes: RecordedRollouts) -> tuple[Figure, list[Axes]]:
    tasks = episodes.qpos.shape[1]
    figure = Figure(figsize=(3.1 * tasks + 0.6, 3.2))
    panels = list(figure.subplots(1, tasks, squeeze=False, sharey=True)[0])
    for m, axes in enumerate(panels):
        axes.set_title(label(view.task_name(m)))
    return figure, panels


def _lines_per_step(axes: Axes, x: Array, y: Array) -> None:
    """``y`` [K, N, T]: the mean over N where at least one is finite, a line per inner step."""
    for k, of_step in enumerate(y):
        finite = np.isfinite(of_step)
        count = finite.sum(0)
        mean = np.where(finite, of_step, 0).sum(0) / np.maximum(count, 1)
        style = ("--", "-", "-.", (0, (1, 1)))[k % 4]
        label, colour = after(k), step_colour(k, len(y))
        axes.plot(x[count > 0], mean[count > 0], color=colour, linestyle=style, label=label)


def _targets(view: RunView, episodes: RecordedRollouts) -> list[Target | None]:
    tasks = np.array(view.evaluation.tasks[: episodes.qpos.shape[1]])
    return [_family(view).target(task) for task in tasks]


def _kind(target: Target | None) -> Any:
    return None if target is None else target.kind


def _is_planar(view: RunView, episodes: RecordedRollouts) -> bool:
    """Return whether paths from above say more than the velocity along x."""
    planar = _family(view).position(episodes.qpos).shape[-1] == 2
    return planar and all(_kind(target) != "velocity" for target in _targets(view, episodes))
