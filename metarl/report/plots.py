"""Figures of runs, without any global state."""

from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from metarl.report.by_task import has_task_axis, returns_by_task
from metarl.report.curves import (
    DIAGNOSTICS,
    adaptation_curves,
    diagnostics,
    learning_curves,
    progress,
    training_curves,
)
from metarl.report.examples import examples
from metarl.report.motion import motion
from metarl.report.style import INK, STYLE
from metarl.report.view import RunView
from metarl.rl.evaluate import RecordedRollouts

__all__ = ["DIAGNOSTICS", "INK", "figures", "to_png", "to_svg"]


def figures(views: Sequence[RunView]) -> dict[str, Figure]:
    """Return all figures of one run, or those that compare several."""
    view = views[0]
    functions: dict[str, Callable[[], Figure]] = {}
    if any(view.metrics for view in views):
        in_training = training_curves if view.family else learning_curves
        functions["training"] = lambda: in_training(views)
    if len(views) == 1 and np.isfinite(view.series("evaluation/return_0")).sum() > 1:
        functions["progress"] = lambda: progress(view)
    functions["adaptation"] = lambda: adaptation_curves(views)
    if len(views) == 1 and has_task_axis(view):
        functions["by_task"] = lambda: returns_by_task(view)
    functions |= examples(views)
    if len(views) == 1 and isinstance(view.episodes, RecordedRollouts):
        functions |= motion(view, view.episodes)
    if len(views) == 1 and view.metrics and view.family is not None:
        functions["diagnostics"] = lambda: diagnostics(view)
    with matplotlib.rc_context(STYLE):
        return {name: draw() for name, draw in functions.items()}


def to_svg(figure: Figure, salt: str) -> bytes:
    """Equal figures give equal bytes; ``salt`` keeps apart the ids of figures on one page."""
    buffer = BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()
