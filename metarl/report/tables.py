"""Scores as text: on the terminal, in a tracker and in the report page alike."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from metarl.report.groups import Interval
from metarl.report.view import RunView
from metarl.runtime import sinks
from metarl.runtime.record import EvaluationRecord, Published, Row, as_plain
from metarl.runtime.scores import Difference, paired_differences

TASKS = 100  # largest number of tasks in the table of tasks
FIELDS = 20  # largest number of a task's columns there


def score(view: RunView, row: Row | Difference | Interval) -> str:
    """A row's mean and interval, ``-11.68 ± 0.52``; a dash for no finite value.

    One sample has no interval: ``-11.68 ± –``.
    """
    mean = number(view, row.mean)
    return mean if mean == "–" else f"{mean} ± {number(view, row.ci95)}"


def number(view: RunView, value: float | None) -> str:
    """A score with the digits that papers give it."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{2 if view.measure == 'return' else 3}f}"


def protocol(view: RunView) -> str:
    """How the scores were taken, in a sentence."""
    evaluation, setup, choice = view.evaluation, view.evaluation.protocol, ""
    if evaluation.validation:
        candidates = ", ".join(f"{candidate.rate:g}" for candidate in evaluation.validation)
        choice = f"; alpha chosen from {candidates} on validation tasks"
    where = f" of {Path(file).stem}" if (file := evaluation.task_file) else ""
    if paired_with_published(view):
        choice += "; difference: minus the published return, paired by task"
    if setup.trajectories is not None:
        data = f"{setup.trajectories} trajectories per task and inner step, {setup.actions} actions"
    else:
        data = f"{evaluation.test}, {setup.queries} queries"
        if ways := setup.problem.get("ways"):
            data = f"{ways}-way {data} of every class"
    return (
        f"{setup.tasks} held-out tasks{where}, {data}; mean {view.measure} with 95 % interval "
        f"(Student's t over tasks){choice}{_optimum(view)}{elsewhere(view)}"
    )


def _optimum(view: RunView) -> str:
    """Return the mean return of policies that know their tasks, where the family knows it."""
    if view.family is None:
        return ""
    best = [view.family.optimum(np.array(task)) for task in view.evaluation.tasks]
    values = [value for value in best if value is not None]
    return f"; optimum {number(view, float(np.mean(values)))}" if values else ""


def elsewhere(view: RunView) -> str:
    """Return the constants and data that differ from training; nothing if all are as trained."""
    constants = view.config[view.evaluation.problem]
    differences = [
        f"{key} {value} instead of {constants.get(key)}"
        for key, value in view.evaluation.protocol.problem.items()
        if constants.get(key) != value
    ]
    if view.evaluation.other_data:
        differences.append(f"data of {view.evaluation.other_data}")
    return f"; NOT as trained: {', '.join(differences)}" if differences else ""


def published_of(view: RunView) -> Published:
    """Return the published row, empty where the evaluation is of another setting."""
    reference = view.evaluation.published
    is_of_it = view.evaluation.test == (reference.test or view.evaluation.main_test)
    return reference if is_of_it and not elsewhere(view) else Published("", "", [])


def published_name(reference: Published) -> str:
    """Return the name of a published column or row, with its source if that is known."""
    return f"published: {reference.source}" if reference.source else "published"


def paired_with_published(view: RunView) -> list[Difference]:
    """Returns minus published ones, paired by task, after every inner step that both have."""
    per_task = published_of(view).per_task or []
    steps = min(len(per_task), len(view.scores))
    return paired_differences(np.array(per_task[:steps]), view.scores[:steps]) if steps else []


def scores_table(view: RunView) -> Table:
    """One run in one test, for a terminal."""
    table, (header, rows) = _table(protocol(view)), scores(view)
    short = {"episode length": "length"}  # to fit 80 columns
    source = published_name(published_of(view))
    for name, *cells in zip(header, *rows, strict=True):
        # The source's name may be broken between words to fit; numbers may not.
        longest = max(map(len, [*cells, *short.get(name, name).split()]))
        table.add_column(
            escape(short.get(name, name)),
            justify="right",
            no_wrap=name != source,
            min_width=longest,
        )
    for row in rows:
        table.add_row(*row)
    return table


def scores(view: RunView) -> tuple[list[str], list[list[str]]]:
    """Header, and a row per inner step of one run in one test."""
    evaluation, reference = view.evaluation, published_of(view)
    has_length = evaluation.rows[0].length is not None
    has_success = evaluation.rows[0].success is not None
    special = ["episode length"] * has_length + ["success"] * has_success
    header = ["inner steps", "rate", view.measure, "median", *special, "diverged"]
    rows = [
        [
            str(row.inner_steps),
            f"{evaluation.inner_rates[k - 1]:g}" if k else "",
            score(view, row),
            number(view, row.median),
            *([f"{row.length:.1f}"] if has_length else []),
            *([f"{row.success:.2f}"] if has_success else []),
            f"{row.diverged:.0f}",
        ]
        for k, row in enumerate(evaluation.rows)
    ]
    if reference.scores:
        header.append(published_name(reference))
        for k, cells in enumerate(rows):
            cells.append(published_cell(view, reference, k))
    if differences := paired_with_published(view):
        header.append("difference")
        for k, cells in enumerate(rows):
            cells.append(score(view, differences[k]) if k < len(differences) else "")
    return header, rows


def tasks(view: RunView) -> tuple[list[str], list[list[str]]]:
    """Header, and a row for each of the first held-out tasks of one run in one test."""
    evaluation = view.evaluation
    hidden = max(0, len(evaluation.task_fields) - FIELDS)
    digits = "g" if "ways" in evaluation.protocol.problem else ".3f"  # numbers of classes
    after = [f"after {row.inner_steps}" for row in evaluation.rows]
    rows = [
        [
            str(m + 1),
            *(f"{value:{digits}}" for value in task[:FIELDS]),
            *["..."] * (hidden > 0),
            *(number(view, of_step[m]) for of_step in evaluation.scores),
        ]
        for m, task in enumerate(evaluation.tasks[:TASKS])
    ]
    fields = evaluation.task_fields[:FIELDS] + [f"and {hidden} more"] * (hidden > 0)
    return ["task", *fields, *after], rows


def terminal_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title)
    table.add_column(escape(header[0]))  # long names are broken to fit, scores are not
    for name, *cells in list(zip(header, *rows, strict=True))[1:]:
        longest = max(map(len, (name, *cells)))
        table.add_column(name, justify="right", no_wrap=True, min_width=longest)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def print_scores(view: RunView) -> None:
    """Print the scores of every test of the run."""
    for test in view.tests().values():
        print_whole(scores_table(test))


def print_whole(table: Table) -> None:
    """Print a table as wide as its numbers need it, also where the terminal is narrower."""
    console = Console()
    width = Measurement.get(console, console.options.update_width(10_000), table).minimum
    width += len(table.columns)  # rich counts no padding where neighbours share it
    Console(width=max(console.width, width)).print(table)


def tracker_tables(view: RunView) -> dict[str, sinks.Table]:
    """The scores of every test, by what they are: ``returns``; ``MSE/10-shot``."""
    return {
        "/".join(filter(None, (view.measures, test))): _tracker_table(test_view.evaluation)
        for test, test_view in view.tests().items()
    }


def _tracker_table(evaluation: EvaluationRecord) -> sinks.Table:
    """Scores per inner step as numbers."""
    rows = [as_plain(row) for row in evaluation.rows]
    columns = list(rows[0])
    return sinks.Table(columns, [[row.get(c) for c in columns] for row in rows])


def _table(title: str) -> Table:
    return Table(
        title=escape(title),
        box=box.SIMPLE_HEAD,
        collapse_padding=True,  # this and no edges: to fit 80 columns
        pad_edge=False,
        show_edge=False,
    )


def published_cell(view: RunView, reference: Published, k: int) -> str:
    """The published score after inner step k; empty where there is none."""
    scores = reference.scores
    return number(view, scores[k]) if k < len(scores) and scores[k] is not None else ""
