"""Curves of runs: how training went, and how fast a model adapts."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.report.groups import groups, over_seeds
from metarl.report.style import (
    COLOURS,
    INK,
    MARKERS,
    inner_step_ticks,
    label,
    legend_below,
    log_scale,
)
from metarl.report.tables import published_of
from metarl.report.view import Array, Curve, RunView, after, by_test
from metarl.runtime.scores import half_width, t_quantile

SMOOTHED_FROM = 60  # points of a training curve; it is a running mean then
WINDOWS = 30  # as wide as a part of so many


def training_curves(views: Sequence[RunView]) -> Figure:
    """Return before and after adaptation against env steps; intervals over tasks, or over seeds."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for colour, (name, group) in zip(cycle(COLOURS), _groups_by_label(views), strict=False):
        runs = [run for run in group if run.metrics]
        if not runs:
            continue
        adapts = runs[0].config["inner"]["steps"] > 0
        last = _over_runs(runs, "return/after")
        _band(axes, last, colour, "-", f"{name}, after adaptation" if adapts else name)
        if adapts:
            first = _over_runs(runs, "return/before")
            axes.plot(first.x, first.mean, color=colour, linestyle="--", label=f"{name}, before")
    axes.set(xlabel="env steps", ylabel="return in training")
    legend_below(figure, axes)
    return figure


def _groups_by_label(
    views: Sequence[RunView], among: Sequence[RunView] = ()
) -> list[tuple[str, list[RunView]]]:
    """Groups of runs by their names as labels."""
    return [(label(name), runs) for name, runs in groups(views, among).items()]


def _over_runs(runs: Sequence[RunView], name: str) -> Curve:
    """One run: its own interval over tasks. Several: Student's interval over them."""
    if len(runs) == 1:
        run = runs[0]
        return Curve(run.series("env_steps"), run.series(name), run.series(f"{name}_ci95"))
    length = min(len(run.metrics) for run in runs)
    x = np.mean([run.series("env_steps")[:length] for run in runs], axis=0)
    return _over_seeds(x, np.stack([run.series(name)[:length] for run in runs]))


def _over_seeds(x: Array, y: Array) -> Curve:
    """Mean of ``y`` [runs, len(x)] with Student's interval."""
    return Curve(x, y.mean(0), t_quantile(len(y)) * y.std(0, ddof=1) / np.sqrt(len(y)))


def learning_curves(views: Sequence[RunView]) -> Figure:
    """Score of supervised runs in training after adaptation, a running mean of many iterations.

    Of one run all iterations are drawn behind it; of seeds, the interval over them.
    """
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    measure, lines = views[0].measure, []
    for colour, (name, group) in zip(cycle(COLOURS), _groups_by_label(views), strict=False):
        runs = [run for run in group if run.metrics]
        if not runs:
            continue
        x, raw = _on_common_iterations(runs, f"{measure}/after")
        window = len(x) // WINDOWS | 1 if len(x) >= SMOOTHED_FROM else 1
        smooth = np.stack([running_mean(y, window) for y in raw])
        if len(runs) == 1:
            _line(axes, x, smooth[0], colour, "-", name)
            if window > 1:
                axes.plot(x, raw[0], color=colour, linewidth=0.7, alpha=0.3, zorder=1.5)
            lines.append(raw[0])
        else:
            mean = _over_seeds(x, smooth)
            _band(axes, mean, colour, "-", name)
            lines.append(mean.mean)
    if measure == "MSE":
        log_scale([axes], np.concatenate(lines))
    axes.set(xlabel="iterations", ylabel=f"{measure} in training, after adaptation")
    legend_below(figure, axes)
    return figure


def _on_common_iterations(runs: Sequence[RunView], name: str) -> tuple[Array, Array]:
    """Iterations that all runs logged, and their metric, [runs, iterations]."""
    rows = [{int(row["iteration"]): row.get(name) for row in run.metrics} for run in runs]
    common = sorted(set.intersection(*map(set, rows))) or sorted(rows[0])
    values = np.array([[of_run.get(i) for i in common] for of_run in rows], dtype=np.float64)
    return np.array(common, dtype=np.float64) + 1, values


def running_mean(y: Array, window: int) -> Array:
    """Mean of the finite values in a window (odd) around every point, which the ends cut off."""
    ones, finite = np.ones(window), np.isfinite(y)
    count = np.convolve(finite, ones, "same")
    total = np.convolve(np.where(finite, y, 0.0), ones, "same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class _Panel(NamedTuple):
    title: str
    lines: Mapping[str, Sequence[RunView]]  # runs by label


def adaptation_curves(views: Sequence[RunView]) -> Figure:
    """Score on held-out tasks after every inner step (Finn et al. 2017, figures 3, 4 and 5).

    Of one run a line per test; of several a panel per test, with a line per run.
    """
    layout = _layout(views)
    names = list(dict.fromkeys(name for panel in layout for name in panel.lines))
    marks = dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS)), strict=False))
    longest = max(len(view.scores) for view in views) - 1
    columns = 2 if len(layout) == 4 else min(3, len(layout))
    figure, panels = _grid(len(layout), columns)
    means: list[float] = []
    for axes, (title, lines) in zip(panels, layout, strict=True):
        axes.set_title(label(title))
        for i, (name, runs) in enumerate(lines.items()):
            curve = _adaptation(runs)
            means.extend(curve.mean)
            if longest == 0:  # points that would hide each other
                curve = curve._replace(x=curve.x + 0.1 * (i - (len(lines) - 1) / 2))
            _draw_adaptation(axes, curve, longest, *marks[name], name)
    reference = {k: y for k, y in enumerate(published_of(views[0]).scores) if y is not None}
    if reference:
        name = label(published_of(views[0]).source or "published")
        panels[0].plot(*zip(*reference.items(), strict=True), "x:", color=INK, label=name)
        longest = max(longest, *reference)
    if views[0].measure == "MSE":
        log_scale(panels, [*means, *reference.values()])
    for i, axes in enumerate(panels):
        inner_step_ticks(axes, longest)
        if i % columns == 0:
            axes.set_ylabel(f"{views[0].measure} on held-out tasks")
        if i + columns >= len(panels):  # nothing below it
            axes.set_xlabel("inner steps")
            axes.tick_params(labelbottom=True)
    legend_below(figure, *panels, order=names)
    return figure


def _layout(views: Sequence[RunView]) -> list[_Panel]:
    tests = by_test(views)
    if len(views) > 1:
        return [
            _Panel(test, dict(_groups_by_label(test_views, views)))
            for test, test_views in tests.items()
        ]
    if len(tests) == 1:
        return [_Panel("", dict(_groups_by_label(views)))]
    return [_Panel("", tests)]


def _grid(panels: int, columns: int) -> tuple[Figure, list[Axes]]:
    if panels == 1:
        figure = Figure(figsize=(6.4, 4.0))
        return figure, [figure.subplots()]
    rows = -(-panels // columns)
    figure = Figure(figsize=(3.9 * columns, 2.9 * rows + 0.4))
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True).flat)
    for axes in grid[panels:]:
        axes.remove()
    return figure, grid[:panels]


def _draw_adaptation(
    axes: Axes, curve: Curve, longest: int, colour: str, marker: str, name: str
) -> None:
    if len(curve.x) == 1 and longest > 0:  # a model that does not adapt
        wide = Curve(np.array([0.0, longest]), *(np.repeat(y, 2) for y in curve[1:]))
        _band(axes, wide, colour, "-.", name)
        return
    axes.errorbar(*curve, color=colour, marker=marker, capsize=4, label=name)


def _adaptation(runs: Sequence[RunView]) -> Curve:
    """Interval over tasks for one run, over the runs' means for several."""
    if len(runs) == 1:
        samples = [row[np.isfinite(row)] for row in runs[0].scores]
    else:
        samples = over_seeds(runs)
    mean = np.array([x.mean() if len(x) else np.nan for x in samples])
    return Curve(
        np.arange(len(samples), dtype=np.float64), mean, np.array([half_width(x) for x in samples])
    )


def _band(axes: Axes, curve: Curve, colour: str, style: str, name: str) -> None:
    _line(axes, curve.x, curve.mean, colour, style, name)
    low, high = curve.mean - curve.half_width, curve.mean + curve.half_width
    axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)


def _line(axes: Axes, x: Array, y: Array, colour: str, style: str, name: str) -> None:
    marker = "o" if len(x) == 1 else ""  # a line of one point is none
    axes.plot(x, y, color=colour, linestyle=style, marker=marker, label=name)


def progress(view: RunView) -> Figure:
    """Return on held-out tasks after every inner step, against minutes of training."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    # Of every iteration since the row before, logged or not; evaluations do not count.
    since = np.diff(view.series("iteration"), prepend=-1.0)
    minutes = np.nancumsum(since * view.series("seconds/iteration")) / 60
    for k, colour in zip(range(len(view.scores)), cycle(COLOURS)):
        mean = view.series(f"evaluation/return_{k}")
        mask = np.isfinite(mean)
        half_width = view.series(f"evaluation/ci95_{k}")[mask]
        curve = Curve(minutes[mask], mean[mask], half_width)
        _band(axes, curve, colour, "-", after(k))
    axes.set(xlabel="minutes of training", ylabel="return on held-out tasks")
    axes.set_xlim(left=0)
    legend_below(figure, axes)
    return figure


PANELS_IN_A_ROW = 4

DIAGNOSTICS: Mapping[str, tuple[str, str]] = {
    "outer/kl": ("KL of the update", "linear"),
    "outer/improvement": ("surrogate improvement", "linear"),
    "diagnosis/fresh_improvement": ("improvement on fresh tasks", "linear"),
    "diagnosis/fresh_kl": ("KL on fresh tasks", "linear"),
    "diagnosis/cosine_of_halves": ("cosine of half the tasks' steps", "linear"),
    "outer/backtrack": ("backtracks of the line search", "linear"),
    "outer/cg_residual": ("conjugate-gradient residual", "log"),
    "outer/hvp_error": ("relative error of the HVP", "log"),
    "baseline/explained_variance_before": ("explained variance of the baseline", "linear"),
    "policy/std": ("policy std", "linear"),
    "policy/entropy": ("policy entropy, nats", "linear"),
    "inner/gradient_norm": ("norm of the inner gradient", "linear"),
    "inner/kl": ("KL of the inner step", "linear"),
    "return/gain": ("gain from adaptation", "linear"),
    "success/before": ("success before adaptation", "linear"),
    "success/after": ("success after adaptation", "linear"),
}


NOT_DRAWN = {
    f"outer/{name}"
    for name in ("loss_after", "kl_before", "kl_share", "accepted", "restarted", "rejected_total")
}
"""Statistics of outer steps that no panel shows by themselves."""


def diagnostics(view: RunView) -> Figure:
    """The logged statistics of the outer step, and of its data, over iterations."""
    names = {name for row in view.metrics for name in row if name.startswith("outer/")}
    others = {name: (name.partition("/")[2].replace("_", " "), "linear") for name in sorted(names)}
    panels = dict(DIAGNOSTICS) | {n: t for n, t in others.items() if n not in DIAGNOSTICS}
    series = {name: view.series(name) for name in panels}
    series["outer/improvement"] = view.series("outer/loss_before") - view.series("outer/loss_after")
    if np.isfinite(series["outer/improvement"]).any():
        panels.pop("outer/loss_before", None)
    is_trpo = {"outer/kl", "outer/backtrack"} <= names  # its gradient says little beside the rest
    hidden = NOT_DRAWN | ({"outer/gradient_norm"} if is_trpo else set())
    if np.isfinite(series["policy/std"]).any():
        hidden |= {"policy/entropy"}  # it says the same
    panels = {
        name: panel
        for name, panel in panels.items()
        if np.isfinite(series[name]).any() and name not in hidden
    }
    rows = math.ceil(len(panels) / PANELS_IN_A_ROW)
    figure = Figure(figsize=(9.6, 2.2 * rows))
    grid = [*figure.subplots(rows, PANELS_IN_A_ROW, squeeze=False).flat]
    iterations = view.series("iteration") + 1
    for axes, (name, (title, scale)) in zip(grid, panels.items(), strict=False):
        mask = np.isfinite(series[name])
        if scale == "log":
            mask &= series[name] > 0
        marker = "." if mask.sum() < 40 else ""
        axes.plot(iterations[mask], series[name][mask], color=COLOURS[0], marker=marker)
        axes.set_title(title, fontsize=9)
        axes.set_yscale(scale if mask.any() else "linear")
        limit = view.config["outer"].get("max_kl")
        if name == "outer/kl" and limit is not None:
            axes.axhline(limit, color=INK, linestyle="--")
            axes.set_ylim(0, 1.2 * limit)
        axes.set_xlabel("iteration")
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure
