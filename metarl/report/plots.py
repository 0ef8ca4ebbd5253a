"""Figures of runs: no global state, colours for every reader, line styles and markers for print."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.evaluation import Episodes, half_width, t_quantile
from metarl.report.tables import published_of
from metarl.report.view import Array, Curve, RunView, Target, after, groups

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#1a1a1a"  # of everything that is no data; the report page replaces it by its text colour
STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{"axes.labelcolor": INK, "axes.edgecolor": INK, "axes.facecolor": "none"},
    **{"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none"},
    **{"axes.grid": True, "grid.color": "#8888884d", "font.size": 9.5, "legend.frameon": False},
    **{"svg.fonttype": "none", "axes.titlesize": 10, "figure.constrained_layout.use": True},
}
ARROW = {"arrowstyle": "-|>", "color": COLOURS[2], "linewidth": 1.8}
SPEED_WINDOW = 10  # env steps
HEADING_WINDOW = 20  # env steps


def figures(views: Sequence[RunView]) -> dict[str, Figure]:
    """All figures of one run, or those that compare several."""
    drawn: dict[str, Callable[[], Figure]] = {}
    if any(view.metrics for view in views):
        drawn["training"] = lambda: training_curves(views)
    drawn["adaptation"] = lambda: adaptation_curves(views)
    view, episodes = views[0], views[0].episodes
    if len(views) == 1 and episodes is not None:
        if _is_planar(view, episodes):
            drawn["paths"] = lambda: paths(view, episodes)
            if any(_kind(target) == "direction" for target in _targets(view, episodes)):
                drawn["heading"] = lambda: heading(view, episodes)
        else:
            drawn["velocity"] = lambda: velocity(view, episodes)
    if len(views) == 1 and view.metrics:
        drawn["diagnostics"] = lambda: diagnostics(view)
    with matplotlib.rc_context(STYLE):
        return {name: draw() for name, draw in drawn.items()}


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


# --- several runs


def training_curves(views: Sequence[RunView]) -> Figure:
    """Return before and after adaptation against env steps; intervals over tasks, or over seeds."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    for colour, (name, group) in zip(cycle(COLOURS), _named(views), strict=False):
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
    _legend_below(figure, axes)
    return figure


def _named(views: Sequence[RunView]) -> list[tuple[str, list[RunView]]]:
    """Groups of runs by their names as labels."""
    return [(_label(name), runs) for name, runs in groups(views).items()]


def _label(name: str) -> str:
    """Matplotlib hides labels that begin with ``_`` and reads ``$`` as mathematics."""
    return f"{' ' * name.startswith('_')}{name}".replace("$", r"\$")


def _over_runs(runs: Sequence[RunView], name: str) -> Curve:
    """One run: its own interval over tasks. Several: Student's interval over them."""
    if len(runs) == 1:
        run = runs[0]
        return Curve(run.series("env_steps"), run.series(name), run.series(f"{name}_ci95"))
    length = min(len(run.metrics) for run in runs)
    x = np.mean([run.series("env_steps")[:length] for run in runs], axis=0)
    y = np.stack([run.series(name)[:length] for run in runs])
    width = t_quantile(len(y)) * y.std(0, ddof=1) / np.sqrt(len(y))
    return Curve(x, y.mean(0), width)


def adaptation_curves(views: Sequence[RunView]) -> Figure:
    """Return on held-out tasks after every inner step (Finn et al. 2017, figures 4 and 5)."""
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    longest = max(len(view.returns) for view in views) - 1
    marks = zip(cycle(COLOURS), cycle(MARKERS))
    for (colour, marker), (name, runs) in zip(marks, _named(views), strict=False):
        curve = _adaptation(runs)
        if len(curve.x) == 1 and longest > 0:  # a policy that does not adapt
            wide = Curve(np.array([0.0, longest]), *(np.repeat(y, 2) for y in curve[1:]))
            _band(axes, wide, colour, "-.", name)
            continue
        axes.errorbar(*curve, color=colour, marker=marker, capsize=4, label=name)
    published = published_of(views[0])
    if published["returns"]:
        y = published["returns"]
        label = _label(published["source"] or "published")
        axes.plot(range(len(y)), y, color=INK, marker="x", linestyle=":", label=label)
    axes.set(xlabel="inner steps", ylabel="return on held-out tasks", xticks=range(longest + 1))
    _legend_below(figure, axes)
    return figure


def _adaptation(runs: Sequence[RunView]) -> Curve:
    """Interval over tasks for one run, over the runs' means for several."""
    steps = min(len(run.returns) for run in runs)
    if len(runs) == 1:
        samples = [row[np.isfinite(row)] for row in runs[0].returns]
    else:
        means = np.array(
            [[row["return"] for row in run.evaluation["rows"][:steps]] for run in runs]
        )
        samples = [x[np.isfinite(x)] for x in means.astype(np.float64).T]
    mean = np.array([x.mean() if len(x) else np.nan for x in samples])
    return Curve(
        np.arange(steps, dtype=np.float64), mean, np.array([half_width(x) for x in samples])
    )


def _band(axes: Axes, curve: Curve, colour: str, style: str, label: str) -> None:
    axes.plot(curve.x, curve.mean, color=colour, linestyle=style, label=label)
    low, high = curve.mean - curve.half_width, curve.mean + curve.half_width
    axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)


# --- the episodes of one run


def paths(view: RunView, episodes: Episodes) -> Figure:
    """The plane from above: a row per task, a column per inner step (as figure 4, right)."""
    position = view.family.position(episodes.qpos)  # [K, M, N, T + 1, 2]
    steps, tasks = position.shape[:2]
    figure = Figure(figsize=(2.3 * steps + 0.5, 2.3 * tasks + 0.5))
    grid = figure.subplots(tasks, steps, squeeze=False, sharex="row", sharey="row")
    for m, target in enumerate(_targets(view, episodes)):
        reach = 0.1
        for k in range(steps):
            axes = grid[m, k]
            for n, length in enumerate(episodes.lengths[k, m]):
                x, y = position[k, m, n, : length + 1].T
                axes.plot(x, y, color=_step_colour(k, steps), linewidth=0.9, alpha=0.75)
                reach = max(reach, 1.1 * float(np.abs((x, y)).max()))
            axes.plot(0, 0, "+", color=INK)
            axes.set_aspect("equal")
            if m == 0:
                axes.set_title(after(k))
            if k == 0:
                axes.set_ylabel(f"{view.task_name(m)}\ny (m)", fontsize=8)
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


def velocity(view: RunView, episodes: Episodes) -> Figure:
    """Velocity along x over time, mean over trajectories, and the goal; a panel per task."""
    position = view.family.position(episodes.qpos)[..., 0]  # [K, M, N, T + 1]
    speed = (position[..., SPEED_WINDOW:] - position[..., :-SPEED_WINDOW]) / (
        view.family.dt * SPEED_WINDOW
    )
    end = np.arange(SPEED_WINDOW, position.shape[-1])
    speed = np.where(end <= episodes.lengths[..., None], speed, np.nan)
    figure, panels = _panel_per_task(view, episodes)
    for m, (axes, target) in enumerate(zip(panels, _targets(view, episodes), strict=True)):
        _lines_per_step(axes, end * view.family.dt, speed[:, m])
        if target is not None and target.kind == "velocity":
            axes.axhline(target.value[0], color=INK, linestyle="--", label="goal")
        elif target is not None and target.kind == "direction":
            axes.axhline(0, color=INK, linewidth=0.8)
            tip = 0.5 + 0.35 * target.value[0]
            axes.annotate("", (0.04, tip), (0.04, 0.5), "axes fraction", arrowprops=ARROW)
        axes.set(xlabel="time (s)")
    panels[0].set_ylabel(f"velocity (m/s), over {SPEED_WINDOW} env steps")
    _legend_below(figure, panels[0])
    return figure


def heading(view: RunView, episodes: Episodes) -> Figure:
    """Angle between the motion and the wanted direction, mean over trajectories."""
    position = view.family.position(episodes.qpos)  # [K, M, N, T + 1, 2]
    moved = position[..., HEADING_WINDOW:, :] - position[..., :-HEADING_WINDOW, :]
    angle = np.arctan2(moved[..., 1], moved[..., 0])
    end = np.arange(HEADING_WINDOW, position.shape[-2])
    valid = end <= episodes.lengths[..., None]
    figure, panels = _panel_per_task(view, episodes)
    for m, (axes, target) in enumerate(zip(panels, _targets(view, episodes), strict=True)):
        assert target is not None
        off = np.angle(np.exp(1j * (angle[:, m] - np.arctan2(target.value[1], target.value[0]))))
        degrees = np.where(valid[:, m], np.abs(np.degrees(off)), np.nan)
        _lines_per_step(axes, end * view.family.dt, degrees)
        axes.axhline(90, color=INK, linestyle=":", label="chance")
        axes.set(xlabel="time (s)", ylim=(0, 180), yticks=range(0, 181, 45))
    panels[0].set_ylabel("heading off the goal direction (°)")
    _legend_below(figure, panels[0])
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = min(5, len(labels), max(1, round(12 * figure.get_figwidth() / max(map(len, labels)))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _panel_per_task(view: RunView, episodes: Episodes) -> tuple[Figure, list[Axes]]:
    tasks = episodes.qpos.shape[1]
    figure = Figure(figsize=(3.1 * tasks + 0.6, 3.2))
    panels = list(figure.subplots(1, tasks, squeeze=False, sharey=True)[0])
    for m, axes in enumerate(panels):
        axes.set_title(view.task_name(m))
    return figure, panels


def _lines_per_step(axes: Axes, x: Array, y: Array) -> None:
    """``y`` [K, N, T]: the mean over N where at least one is finite, a line per inner step."""
    for k, of_step in enumerate(y):
        finite = np.isfinite(of_step)
        count = finite.sum(0)
        mean = np.where(finite, of_step, 0).sum(0) / np.maximum(count, 1)
        style = ("--", "-", "-.", (0, (1, 1)))[k % 4]
        label, colour = after(k), _step_colour(k, len(y))
        axes.plot(x[count > 0], mean[count > 0], color=colour, linestyle=style, label=label)


def _targets(view: RunView, episodes: Episodes) -> list[Target | None]:
    tasks = np.array(view.evaluation["tasks"][: episodes.qpos.shape[1]])
    return [view.family.target(task) for task in tasks]


def _kind(target: Target | None) -> Any:
    return None if target is None else target.kind


def _is_planar(view: RunView, episodes: Episodes) -> bool:
    """Whether paths from above say more than the velocity along x."""
    planar = view.family.position(episodes.qpos).shape[-1] == 2
    return planar and all(_kind(target) != "velocity" for target in _targets(view, episodes))


def _step_colour(k: int, steps: int) -> Any:
    """From grey, before adaptation, through blue to orange."""
    return ("#808080", COLOURS[0], COLOURS[4], COLOURS[1], COLOURS[3], COLOURS[2])[k % 6]


# --- how training went

DIAGNOSTICS: Mapping[str, tuple[str, str]] = {
    "outer/kl": ("KL of the update", "linear"),
    "outer/improvement": ("surrogate improvement", "linear"),
    "outer/backtrack": ("backtracks of the line search", "linear"),
    "outer/cg_residual": ("conjugate-gradient residual", "log"),
    "outer/hvp_error": ("relative error of the HVP", "log"),
    "baseline/explained_variance_before": ("explained variance of the baseline", "linear"),
    "policy/std": ("policy std", "linear"),
    "inner/gradient_norm": ("norm of the inner gradient", "linear"),
}


def diagnostics(view: RunView) -> Figure:
    """The trust region and what it rests on, over iterations."""
    series = {name: view.series(name) for name in DIAGNOSTICS}
    series["outer/improvement"] = view.series("outer/loss_before") - view.series("outer/loss_after")
    figure = Figure(figsize=(9.6, 4.4))
    iterations = view.series("iteration") + 1
    for axes, (name, (title, scale)) in zip(
        figure.subplots(2, 4).flat, DIAGNOSTICS.items(), strict=True
    ):
        known = np.isfinite(series[name])
        if scale == "log":
            known &= series[name] > 0
        marker = "." if known.sum() < 40 else ""
        axes.plot(iterations[known], series[name][known], color=COLOURS[0], marker=marker)
        axes.set_title(title, fontsize=9)
        axes.set_yscale(scale if known.any() else "linear")
        if name == "outer/kl":
            limit = view.config["outer"]["max_kl"]
            axes.axhline(limit, color=INK, linestyle="--")
            axes.set_ylim(0, 1.2 * limit)
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("iteration")
    return figure
