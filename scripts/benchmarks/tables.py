"""Tables of results."""

import io
from collections.abc import Sequence
from copy import copy
from statistics import median

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.results import Result, digits, spread, unit


def table_of(result: Result) -> Table:
    """A suite's numbers for a case."""
    return budget_table(result) if result.suite == "budget" else limits_table(result)


def limits_table(result: Result) -> Table:
    """Every number beside its limit; the ratio is the median of the repeats' own ratios."""
    table = table_with(result.title, "median", "range", "limit", "of the limit")
    for name, number in sorted(result.numbers.items(), key=lambda item: unit(item[0]) == "MB"):
        limit = share = ""
        if number.limit:
            limit = f"{number.limit.rpartition(', ')[0]} {digits(median(number.limits))}"
            share = f"{median(number.shares(name)):.0%}"
        table.add_row(name, digits(median(number.values)), spread(number.values), limit, share)
    return table


def budget_table(result: Result) -> Table:
    """Parts of an iteration by their seconds."""
    numbers = dict(result.numbers)
    seconds = {n.removesuffix(", s"): x for n, x in numbers.items() if n.endswith(", s")}
    whole = sum(median(number.values) for number in seconds.values())
    table = table_with(result.title, "calls", "s", "range", "ms a call", "of the iteration")
    for part, number in sorted(seconds.items(), key=lambda item: -median(item[1].values)):
        calls, value = median(numbers[f"{part}, calls"].values), median(number.values)
        each = f"{1e3 * value / calls:.2f}"
        row = f"{calls:.0f}", digits(value), spread(number.values), each, f"{value / whole:.1%}"
        table.add_row(part, *row)
    table.add_row("all", "", digits(whole), "", "", "")
    return table


def as_markdown(tables: Sequence[Table]) -> str:
    """The tables as a Markdown file has them, each below its title."""
    parts = []
    for table in tables:
        plain = copy(table)
        plain.title, plain.box = None, MARKDOWN
        text = io.StringIO()
        Console(width=1000, file=text, force_terminal=False, no_color=True).print(plain)
        rows = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
        parts.append("\n".join([f"**{table.title}**", "", *rows]))
    return "\n\n".join(parts) + "\n"


def table_with(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table
