"""Tables that compare runs: settings that differ, scores of every group, and differences."""

from collections.abc import Sequence

from metarl.report.groups import (
    differences_by_seed,
    different_settings,
    groups,
    have_same_seeds,
    intervals,
)
from metarl.report.tables import (
    paired_with_published,
    published_cell,
    published_name,
    published_of,
    score,
)
from metarl.report.view import RunView, have_same_data
from metarl.runtime.scores import paired_differences


def scores(
    views: Sequence[RunView], among: Sequence[RunView] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per group of its scores after every inner step; the published one last.

    Args:
        views: the runs as one test sees them.
        among: all runs, if some lack this test.
    """
    rows = []
    for name, runs in groups(views, among).items():
        if len(runs) == 1:
            rows.append([name, *(score(runs[0], row) for row in runs[0].evaluation.rows)])
        else:
            cells = [score(runs[0], interval) for interval in intervals(runs)]
            rows.append([f"{name} ({len(runs)} seeds)", *cells])
    reference = published_of(views[0])
    if reference.scores:
        name = published_name(reference)
        steps = range(len(reference.scores))
        rows.append([name, *(published_cell(views[0], reference, k) for k in steps)])
    for view in views:
        if intervals_of_differences := paired_with_published(view):
            name = f"{view.name} minus {published_of(view).source}"
            rows.append([name, *(score(view, row) for row in intervals_of_differences)])
    return _with_header("run", rows)


def over_what(views: Sequence[RunView]) -> str:
    """Say what the intervals of a comparison are over, and which runs are of other data.

    Nothing if each is over tasks, and all are of the same data.
    """
    has_seeds = any(len(runs) > 1 for runs in groups(views).values())
    others = [view.name for view in views if not have_same_data(views[0], view)]
    notes = ["rows of several seeds: means and 95 % intervals over seeds"] * has_seeds
    if others:
        notes += [
            f"on other data than {views[0].name}, so without differences: {', '.join(others)}"
        ]
    return "; ".join(notes)


def what_differs(views: Sequence[RunView]) -> tuple[list[str], list[list[str]]] | None:
    """Header, and a row per group of the settings that differ; None if none does."""
    runs_by_name = groups(views)
    different = different_settings([*runs_by_name.values()])
    if not different:
        return None
    rows = [
        [name, ", ".join(str(run.config["seed"]) for run in runs), *values]
        for (name, runs), *values in zip(runs_by_name.items(), *different.values(), strict=True)
    ]
    return ["run", "seed", *different], rows


def differences(
    views: Sequence[RunView], among: Sequence[RunView] = ()
) -> tuple[str, list[str], list[list[str]]] | None:
    """How scores are paired, header, and rows of scores minus the first ones.

    Groups of the same seeds are paired by seed; otherwise runs are paired by task. Runs that were
    evaluated on other data than the first one have no tasks in common; None if all are.
    """
    views = [view for view in views if have_same_data(views[0], view)]
    if len(views) < 2:
        return None
    runs_by_name = groups(views, among)
    if have_same_seeds([*runs_by_name.values()]):
        (name, seeds), *rest = runs_by_name.items()
        rows = [
            [other, *(score(runs[0], row) for row in differences_by_seed(seeds, runs))]
            for other, runs in rest
        ]
        return "paired by seed and task, with 95 % intervals over seeds", *_minus(name, rows)
    first, *others = views
    rows = [
        [view.name, *(score(view, row) for row in paired_differences(first.scores, view.scores))]
        for view in others
    ]
    return "paired by task, with their own 95 % intervals", *_minus(first.name, rows)


def _minus(name: str, rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return _with_header(f"minus {name}", rows)


def _with_header(name: str, rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Rows as long as the longest one, and a header of the inner steps."""
    steps = max(map(len, rows)) - 1
    header = [name, *(f"{k} inner steps" if k == 0 else str(k) for k in range(steps))]
    return header, [row + [""] * (steps + 1 - len(row)) for row in rows]
