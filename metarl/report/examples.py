"""Recorded examples of held-out tasks, and the predictions of supervised models."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metarl.report.groups import groups
from metarl.report.style import COLOURS, INK, label, legend_below, wrapped
from metarl.report.tables import number
from metarl.report.view import Array, RunView, after
from metarl.supervised.evaluate import RecordedExamples

CLASSES, SUPPORT, QUERIES = 20, 5, 4  # at most so many classes, and images of each
ACROSS, DOWN = 1.12, 1.45  # from image to image, whose sides are 1
GAP = 0.4  # between support and query images
LABELS, FOOT = 1.2, 0.9  # room for text
SIDE = 0.55  # inches
RIGHT, WRONG = COLOURS[2], COLOURS[1]
STEPS = ((0, "#808080", "--"), (1, COLOURS[0], "-."), (-1, COLOURS[1], "-"))
FIXED = ((0, COLOURS[2], "-"),)  # of a model that does not adapt


def examples(views: Sequence[RunView]) -> dict[str, Callable[[], Figure]]:
    """The figures that suit the data, by name. Of several seeds one is looked at."""
    firsts = [next((v for v in runs if _examples_of(v)), None) for runs in groups(views).values()]
    by_run = {
        v.name: (v, e) for v in firsts if v is not None and (e := _examples_of(v)) is not None
    }
    if not by_run:
        return {}
    view, first = next(iter(by_run.values()))
    shapes = first.query_inputs.shape[2:], first.query_targets.shape[2:]
    if view.measure == "MSE" and shapes == ((1,), (1,)):
        return {"fits": lambda: fits(list(by_run.values()))}
    if view.measure == "accuracy" and first.query_inputs.ndim == 5 and len(views) == 1:
        return {"images": lambda: images(view, first)}
    return {}


def _examples_of(view: RunView) -> RecordedExamples | None:
    return view.episodes if isinstance(view.episodes, RecordedExamples) else None


# --- regression


def fits(runs: Sequence[tuple[RunView, RecordedExamples]]) -> Figure:
    """Functions before, after one and after all inner steps (Finn et al. 2017, figure 2).

    A panel per task of one run; of several a row per task, a column per run.
    """
    tasks = len(runs[0][1].query_inputs)
    is_comparison = len(runs) > 1
    shape = (tasks, len(runs)) if is_comparison else (1, tasks)
    figure = Figure(figsize=(3.1 * shape[1] + 0.6, 2.6 * shape[0] + 0.9))
    grid = figure.subplots(
        *shape, squeeze=False, sharex=True, sharey="row" if is_comparison else True
    )
    limits = [_limits([e for _, e in runs], m) for m in range(tasks)]
    for column, (view, episodes) in enumerate(runs):
        for m in range(tasks):
            axes = grid[m, column] if is_comparison else grid[0, m]
            _fit(axes, episodes, m)
            title = f"MSE {_progress(view, m, (0, 1, -1))}"
            if not is_comparison:
                title = f"{label(view.task_name(m))}\n{title}"
            elif m == 0:
                title = f"{wrapped(view.name, 2.6)}\n{title}"
            axes.set_title(title, fontsize=9)
            if is_comparison:
                axes.set_ylim(limits[m])
            if column == 0 and (is_comparison or m == 0):
                axes.set_ylabel(
                    f"{label(view.task_name(m))}\ny" if is_comparison else "y", fontsize=8.5
                )
            if m == tasks - 1 or not is_comparison:
                axes.set_xlabel("x")
    if not is_comparison:
        grid[0, 0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    legend_below(figure, *grid.flat)
    return figure


def _fit(axes: Axes, episodes: RecordedExamples, m: int) -> None:
    order = np.argsort(episodes.query_inputs[m, :, 0], kind="stable")
    x = episodes.query_inputs[m, order, 0]
    dots = "." if len(x) < 40 else ""  # the lines between so few are not the functions
    axes.plot(x, episodes.query_targets[m, order, 0], color=INK, marker=dots, label="truth")
    last = len(episodes.outputs) - 1
    for k, colour, style in STEPS[: last + 1] if last else FIXED:
        y = episodes.outputs[k, m, order, 0]
        name = after(k % (last + 1)) if last else "prediction"
        axes.plot(x, y, color=colour, linestyle=style, marker=dots, label=name)
    support = episodes.support_inputs[m, :, 0], episodes.support_targets[m, :, 0]
    axes.plot(*support, "^", color=COLOURS[3], markeredgecolor=INK, zorder=4, label="support")


def _limits(episodes: Sequence[RecordedExamples], m: int) -> tuple[float, float]:
    """Return the axis limits of a task: all values, unless a prediction is far from all targets."""
    truth = np.concatenate([episodes[0].query_targets[m], episodes[0].support_targets[m]])
    low, high = float(truth.min()), float(truth.max())
    room = 4 * (high - low) or 1.0
    values = np.concatenate([e.outputs[[0, min(1, len(e.outputs) - 1), -1], m] for e in episodes])
    values = np.append(values[np.isfinite(values)], (low, high))
    low, high = max(float(values.min()), low - room), min(float(values.max()), high + room)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _progress(view: RunView, m: int, inner_steps: Sequence[int]) -> str:
    """A task's scores after some of the inner steps that there are: ``3.214 → 0.411 → 0.052``."""
    of_task = view.scores[:, m]
    there = dict.fromkeys(range(len(of_task))[k] for k in inner_steps if k < len(of_task))
    return " → ".join(number(view, float(of_task[k])) for k in there)


# --- few-shot classification


def images(view: RunView, episodes: RecordedExamples) -> Figure:
    """Support and query images of every class, and which class each query is taken for."""
    shape = (
        min(CLASSES, 1 + int(episodes.support_targets.max())),
        min(SUPPORT, _largest_class(episodes.support_targets)),
        min(QUERIES, _largest_class(episodes.query_targets)),
    )
    tasks, (ways, shots, queries) = len(episodes.query_inputs), shape
    width, height = LABELS + max(ACROSS * (shots + queries) + GAP, 5.2), 1.3 + DOWN * ways
    rows, columns = (1, tasks) if shots + queries <= 6 else (tasks, 1)
    # In units of an image's side, all of it: text in a panel has no part in automatic layouts.
    whole = columns * width, rows * height + FOOT
    figure = Figure(figsize=(SIDE * whole[0], SIDE * whole[1]))
    figure.set_layout_engine("none")  # and not as an argument: savefig would forget it
    for m in range(tasks):
        row, column = divmod(m, columns)
        bottom = FOOT + (rows - 1 - row) * height
        axes = figure.add_axes(
            (column * width / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
        )
        _draw_task(axes, episodes, m, shape)
        axes.text(0, -0.85, f"task {m + 1}, accuracy {_progress(view, m, (0, -1))}", fontsize=9.5)
        axes.set(xlim=(-LABELS, width - LABELS), ylim=(height - 1.3, -1.3), aspect="equal")
        axes.set_axis_off()
    steps = len(episodes.outputs) - 1
    moment = f",\nbefore → {after(steps)}" if steps else ""
    text = f"below a query image: the class it is taken for{moment}; ✓ right, ✗ wrong"
    figure.text(0.5, 0.45 * FOOT / whole[1], text, ha="center", va="center", fontsize=8.5)
    return figure


def _largest_class(targets: Array) -> int:
    return int(np.bincount(targets[0].astype(np.int64)).max())


def _draw_task(axes: Axes, episodes: RecordedExamples, m: int, shape: tuple[int, int, int]) -> None:
    ways, shots, queries = shape
    start = ACROSS * shots + GAP
    guesses = episodes.outputs[[0, -1] if len(episodes.outputs) > 1 else [0], m].argmax(-1)
    for n in range(ways):
        y = DOWN * n
        axes.text(-0.15, y + 0.5, f"class {n}", ha="right", va="center", fontsize=8)
        for i, s in enumerate(np.flatnonzero(episodes.support_targets[m] == n)[:shots]):
            _draw_image(axes, ACROSS * i, y, episodes.support_inputs[m, s], INK)
        for i, q in enumerate(np.flatnonzero(episodes.query_targets[m] == n)[:queries]):
            x = start + ACROSS * i
            right = guesses[:, q] == n
            colour = RIGHT if right[-1] else WRONG
            _draw_image(axes, x, y, episodes.query_inputs[m, q], colour)
            _draw_guesses(axes, x, y + 1.06, guesses[:, q], right)
    for x, name in ((0, "support"), (start, "query")):
        axes.text(x, -0.12, name, fontsize=8)


def _draw_image(axes: Axes, x: float, y: float, image: Array, colour: str) -> None:
    """An image [C, H, W] at a place, in a frame."""
    pixels = np.clip(np.moveaxis(image, 0, -1), 0, 1)
    if pixels.shape[-1] != 3:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    axes.imshow(pixels, extent=(x, x + 1, y + 1, y), interpolation="none")
    axes.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=colour, linewidth=1.3))


def _draw_guesses(axes: Axes, x: float, y: float, guesses: Array, right: Array) -> None:
    """``3✗ → 0✓`` below an image; without an arrow where there was no adaptation."""
    places = ((0.0, "left"), (1.0, "right")) if len(guesses) > 1 else ((0.5, "center"),)
    for guess, is_right, (offset, alignment) in zip(guesses, right, places, strict=True):
        axes.text(
            x + offset,
            y,
            f"{guess}{'✓' if is_right else '✗'}",
            color=RIGHT if is_right else WRONG,
            ha=alignment,
            va="top",
            fontsize=8,
        )
    if len(guesses) > 1:
        axes.text(x + 0.5, y, "→", ha="center", va="top", fontsize=7)
