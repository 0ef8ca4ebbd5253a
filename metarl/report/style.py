"""How figures look: colours for every reader, line styles and markers for print."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

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


def label(name: str) -> str:
    """Escape a label: matplotlib hides a leading ``_`` and reads ``$`` as mathematics."""
    return f"{' ' * name.startswith('_')}{name}".replace("$", r"\$")


def wrapped(name: str, inches: float) -> str:
    """A label as the title of a panel that is ``inches`` wide."""
    return label(textwrap.fill(name, max(8, int(13 * inches))))


def legend_below(figure: Figure, *panels: Axes, order: Sequence[str] = ()) -> None:
    """Draw one legend below all panels, each name once, those of ``order`` first."""
    handles_by_name = {
        name: handle
        for axes in panels
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if not handles_by_name:
        return
    labels = sorted(handles_by_name, key=lambda name: (*order, name).index(name))
    room = round(12 * figure.get_figwidth() / max(map(len, handles_by_name)))
    columns = min(7 if figure.get_figwidth() > 9 else 5, len(handles_by_name), max(1, room))
    handles = [handles_by_name[name] for name in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def log_scale(panels: Sequence[Axes], means: ArrayLike) -> None:
    """A logarithmic y axis, with ticks as numbers, if there is anything positive to draw.

    Args:
        means: what must be in view; intervals around them may reach down to zero.
    """
    values = np.asarray(means, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return
    for axes in panels:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        low = max(low, 0.4 * values.min())
        axes.set_ylim(low, high)
        decades = np.log10(high / low)
        ticks = LogLocator(subs=(1, 2, 5) if decades < 3 else (1,))
        # Of 1, 2 and 5 perhaps only one is in view.
        axes.yaxis.set_major_locator(MaxNLocator(5) if decades < 0.8 else ticks)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def inner_step_ticks(axes: Axes, last: int) -> None:
    if last == 0:
        axes.set_xlim(-0.5, 0.5)
    if last <= 12:
        axes.set_xticks(range(last + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def step_colour(k: int, steps: int) -> Any:
    """Return the colour of an inner step: grey before adaptation, then blue to orange."""
    return ("#808080", COLOURS[0], COLOURS[4], COLOURS[1], COLOURS[3], COLOURS[2])[k % 6]
