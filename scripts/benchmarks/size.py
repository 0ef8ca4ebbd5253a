"""The cost of an iteration against its sizes, each varied alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.cases import Settings, experiment
from benchmarks.results import Result, digits, spread
from benchmarks.tables import table_with
from metarl.core.task_map import cores
from metarl.experiment.registries import make_family
from metarl.experiment.schema import RLExperiment

SIZES: dict[str, Sequence[int]] = {
    "tasks": (10, 20, 40, 80),
    "trajectories": (5, 10, 20, 40),
    "horizon": (50, 100, 200),
    "width": (32, 64, 128, 256),
    "threads": [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores()],
}


def points(case: str, settings: Settings, what: str, values: Sequence[int]) -> dict[int, Settings]:
    """Settings by the values of ``what``, all else as in the case; equal ones compare equal."""
    config = experiment(case, settings)
    assert isinstance(config, RLExperiment)
    base = replace(
        settings,
        tasks=config.tasks,
        trajectories=config.trajectories,
        horizon=make_family(config.env).horizon,
        width=config.policy["hidden_sizes"][0],
        threads=config.threads,
    )
    changes: dict[int, dict[str, Any]] = {value: {what: value} for value in values}
    return {value: replace(base, **change) for value, change in changes.items()}


def table_of(case: str, what: str, results: Mapping[int, Result]) -> Table:
    """Return the cost of a unit at every value; it should not rise."""
    columns = ("s an iteration", "range", "ms a unit", "of the first's", "peak memory, MB")
    table = table_with(f"size: {case}, {what}", *columns)
    first = 0.0
    for value, result in results.items():
        number = result.numbers["iteration, s"]
        seconds = median(number.values)
        # What more threads cost is their time.
        cost = 1e3 * (seconds * value if what == "threads" else seconds / value)
        first = first or cost
        memory = digits(median(result.numbers["peak memory, MB"].values))
        row = digits(seconds), spread(number.values), digits(cost), f"{cost / first:.0%}", memory
        table.add_row(f"{value}", *row)
    return table
