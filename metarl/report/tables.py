"""Scores as text: on the terminal, in a tracker and in the report page alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from metarl import metrics
from metarl.evaluation import paired_differences
from metarl.report.view import RunView


def score(mean: float | None, half_width: float) -> str:
    """``-11.68 ± 0.52``; a dash for no finite value."""
    return "–" if mean is None else f"{mean:.2f} ± {half_width:.2f}"


def protocol(evaluation: Mapping[str, Any]) -> str:
    """How the scores were taken, in a sentence."""
    chosen = ""
    if evaluation["validation"]:
        candidates = ", ".join(f"{v['rate']:g}" for v in evaluation["validation"])
        chosen = f"; alpha chosen from {candidates} on validation tasks"
    return (
        f"{len(evaluation['tasks'])} held-out tasks, {evaluation['trajectories']} trajectories "
        f"per task and inner step, {evaluation['actions']} actions; "
        f"mean return with 95 % interval (Student's t over tasks){chosen}"
    )


def scores_table(view: RunView) -> Table:
    """One run, for a terminal."""
    evaluation, published = view.evaluation, view.config["evaluation"]["published"]
    table = _table(protocol(evaluation))
    for name in ("inner steps", "rate", "return", "median", "length", "diverged"):
        table.add_column(name, justify="right", no_wrap=True)
    if published["returns"]:
        table.add_column(published["source"], justify="right")
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
    """Header and rows: every run's return after every inner step, the published one beside it."""
    published = views[0].config["evaluation"]["published"]
    header = ["inner steps", *(view.name for view in views)]
    rows = []
    for k in range(max(len(view.evaluation["rows"]) for view in views)):
        row = [str(k)]
        for view in views:
            scores = view.evaluation["rows"][k : k + 1]
            row += [score(s["return"], s["ci95"]) for s in scores] or [""]
        rows.append(row)
    if published["returns"]:
        header.append(published["source"] or "published")
        rows = [[*row, _published(published, k)] for k, row in enumerate(rows)]
    return header, rows


def differences(views: Sequence[RunView]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every other run's return minus the first one's, paired by task."""
    first, *others = views
    found = [paired_differences(first.returns, view.returns) for view in others]
    header = ["inner steps", *(f"{view.name} - {first.name}" for view in others)]
    rows = []
    for k in range(max(map(len, found), default=0)):
        cells = [[score(d["return"], d["ci95"]) for d in of_run[k : k + 1]] for of_run in found]
        rows.append([str(k), *((cell or [""])[0] for cell in cells)])
    return header, rows


def terminal_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title)
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def tracker_table(evaluation: Mapping[str, Any]) -> metrics.Table:
    """Returns per inner step as numbers."""
    columns = ["inner_steps", "return", "ci95", "median", "length", "diverged"]
    return metrics.Table(columns, [[row[c] for c in columns] for row in evaluation["rows"]])


def _table(title: str) -> Table:
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        collapse_padding=True,  # this and no edges: to fit 80 columns
        pad_edge=False,
        show_edge=False,
    )


def _published(published: Mapping[str, Any], k: int) -> str:
    returns = published["returns"]
    return f"{returns[k]:.2f}" if k < len(returns) else ""
