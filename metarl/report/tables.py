"""Scores as text: on the terminal, in a tracker and in the report page alike."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from metarl import metrics
from metarl.evaluation import paired_differences
from metarl.report.view import RunView


def score(mean: float | None, half_width: float) -> str:
    """``-11.68 ± 0.52``; a dash for no finite value."""
    return "–" if mean is None or math.isnan(mean) else f"{mean:.2f} ± {half_width:.2f}"


def protocol(view: RunView) -> str:
    """How the scores were taken, in a sentence."""
    evaluation, chosen = view.evaluation, ""
    if evaluation["validation"]:
        candidates = ", ".join(f"{v['rate']:g}" for v in evaluation["validation"])
        chosen = f"; alpha chosen from {candidates} on validation tasks"
    return (
        f"{len(evaluation['tasks'])} held-out tasks, {evaluation['trajectories']} trajectories "
        f"per task and inner step, {evaluation['actions']} actions; "
        f"mean return with 95 % interval (Student's t over tasks){chosen}{elsewhere(view)}"
    )


def elsewhere(view: RunView) -> str:
    """In which constants of the family the held-out tasks differ from the trained ones, if any."""
    changed = [
        f"{key} {value} instead of {view.config['env'].get(key)}"
        for key, value in view.evaluation["env"].items()
        if view.config["env"].get(key) != value
    ]
    return f"; NOT as trained: {', '.join(changed)}" if changed else ""


def published_of(view: RunView) -> Mapping[str, Any]:
    """The published row, empty where the evaluation is of another setting."""
    empty: dict[str, Any] = {"source": "", "returns": []}
    return empty if elsewhere(view) else view.config["evaluation"]["published"]


def scores_table(view: RunView) -> Table:
    """One run, for a terminal."""
    evaluation, published = view.evaluation, published_of(view)
    table = _table(protocol(view))
    for name in ("inner steps", "rate", "return", "median", "length", "diverged"):
        table.add_column(name, justify="right", no_wrap=True)
    if published["returns"]:
        table.add_column(escape(published["source"]), justify="right")
    for row in evaluation["rows"]:
        k = int(row["inner_steps"])
        cells = [
            str(k),
            f"{evaluation['inner_rates'][k - 1]:g}" if k else "",
            score(row["return"], row["ci95"]),
            "–" if row["median"] is None else f"{row['median']:.2f}",
            f"{row['length']:.1f}",
            f"{row['diverged']:.0f}",
        ]
        if published["returns"]:
            cells.append(_published(published, k))
        table.add_row(*cells)
    return table


def comparison(views: Sequence[RunView]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per run of its returns after every inner step; the published one last."""
    rows = [
        [view.name, *(score(row["return"], row["ci95"]) for row in view.evaluation["rows"])]
        for view in views
    ]
    published = published_of(views[0])
    if published["returns"]:
        name = published["source"] or "published"
        rows.append([name, *(f"{value:.2f}" for value in published["returns"])])
    return _with_header("run", rows)


def differences(views: Sequence[RunView]) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per other run of its returns minus the first one's, paired by task."""
    first, *others = views
    rows = []
    for view in others:
        paired = paired_differences(first.returns, view.returns)
        rows.append([view.name, *(score(row["return"], row["ci95"]) for row in paired)])
    return _with_header(f"minus {first.name}", rows)


def _with_header(name: str, rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Rows as long as the longest one, and a header of the inner steps."""
    steps = max(map(len, rows)) - 1
    header = [name, *(f"{k} inner steps" if k == 0 else str(k) for k in range(steps))]
    return header, [row + [""] * (steps + 1 - len(row)) for row in rows]


def terminal_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title)
    first, *others = header
    table.add_column(escape(first))  # long names are broken to fit, scores are not
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def tracker_table(evaluation: Mapping[str, Any]) -> metrics.Table:
    """Returns per inner step as numbers."""
    columns = ["inner_steps", "return", "ci95", "median", "length", "diverged"]
    return metrics.Table(columns, [[row[c] for c in columns] for row in evaluation["rows"]])


def _table(title: str) -> Table:
    return Table(
        title=escape(title),
        box=box.SIMPLE_HEAD,
        collapse_padding=True,  # this and no edges: to fit 80 columns
        pad_edge=False,
        show_edge=False,
    )


def _published(published: Mapping[str, Any], k: int) -> str:
    returns = published["returns"]
    return f"{returns[k]:.2f}" if k < len(returns) else ""
