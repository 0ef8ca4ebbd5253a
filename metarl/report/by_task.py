"""Return of every held-out task, against what the task asks for."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.report.style import COLOURS, INK, label, legend_below
from metarl.report.tables import published_of
from metarl.report.view import Array, RunView, after

FEW = 4  # different values of a task: they get columns of points, not an axis


def has_task_axis(view: RunView) -> bool:
    """Return whether tasks have an order: by their one number, or by the distance of a goal."""
    return _axis(view) is not None


def returns_by_task(view: RunView) -> Figure:
    """Draw the run's returns by task, and published ones if known: a panel for every inner step."""
    axis = _axis(view)
    assert axis is not None
    name, x = axis
    reference = published_of(view)
    reference_returns = np.array(reference.per_task or [], dtype=np.float64)
    steps = len(view.scores)
    figure = Figure(figsize=(max(4.0, 2.4 * steps + 0.6), 3.4))
    for k, axes in enumerate(figure.subplots(1, steps, sharey=True, squeeze=False).flat):
        if k < len(reference_returns):
            _points(axes, x, reference_returns[k], +1, "x", INK, reference.source)
        _points(axes, x, view.scores[k], -1, "o", COLOURS[0], view.name)
        axes.set_title(after(k))
        axes.set_xlabel(label(name))
        if _repeats(x):
            axes.set_xticks(np.unique(x))
            axes.margins(x=0.3)
        if k == 0:
            axes.set_ylabel("return")
    legend_below(figure, *figure.axes)
    return figure


def _axis(view: RunView) -> tuple[str, Array] | None:
    """Return name and values [M] of the number that a task asks for; None if there is none."""
    fields = view.evaluation.task_fields
    tasks = np.array(view.evaluation.tasks, dtype=np.float64)
    if view.family is None:
        return None
    if len(fields) == 1:
        return fields[0].replace("_", " "), tasks[:, 0]
    target = view.family.target(tasks[0])
    if target is not None and target.kind == "position":
        return "distance of the goal (m)", np.linalg.norm(tasks, axis=1)
    return None


def _repeats(x: Array) -> bool:
    """Return whether the tasks are of a few kinds, as forwards and backwards."""
    return len(np.unique(x)) <= min(FEW, len(x) - 1)


def _points(axes: Axes, x: Array, y: Array, side: int, marker: str, colour: str, name: str) -> None:
    """Points at ``x``, or beside it where many tasks have the same."""
    if _repeats(x):
        x = x + side * 0.12
    axes.plot(x, y, marker, color=colour, markersize=4, alpha=0.8, label=label(name))
