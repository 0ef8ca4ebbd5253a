"""Compare with an earlier measurement: slowdowns beyond noise.

A number is worse when the ranges of its repeats do not overlap AND its median is worse by more than
10 %; better likewise. Few repeats show little of the noise. A number with a limit is judged by the
share of the limit that it reaches, since the machine's own speed changes from run to run; one that
is itself a limit, and has none, says by how much. Memory and what else has no limit are judged as
they are; counts are not. Results are compared where suite, case, sizes, threads and device are the
same.
"""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from rich.table import Table

from benchmarks.results import Number, Result, digits, is_judged, less_is_better, unit

MARGIN = 0.1


class Change(NamedTuple):
    """One number, in both measurements."""

    title: str  # of its result
    name: str
    before: float  # medians
    after: float
    shares: tuple[float, float] | None  # of the limit, medians
    verdict: str  # "slower", "faster", "more", "less", "the machine" or "" within noise

    @property
    def is_worse(self) -> bool:
        return self.verdict in ("slower", "more")


def judge(before: Sequence[float], after: Sequence[float], less_is_better: bool) -> int:
    """Return -1 for worse beyond noise, 1 for better, 0 for neither."""
    growth = median(after) / median(before) - 1
    if growth > MARGIN and min(after) > max(before):
        return -1 if less_is_better else 1
    if growth < -MARGIN and max(after) < min(before):
        return 1 if less_is_better else -1
    return 0


def changes_between(before: Sequence[Result], after: Sequence[Result]) -> list[Change]:
    """Return the change of every number that both have."""
    earlier = {result.title: result.numbers for result in before}
    return [
        change(result.title, name, earlier[result.title][name], number, name in limits_of(result))
        for result in after
        for name, number in result.numbers.items()
        if is_judged(name) and name in earlier.get(result.title, {})
    ]


def limits_of(result: Result) -> set[str]:
    return {number.limit for number in result.numbers.values() if number.limit}


def change(title: str, name: str, before: Number, after: Number, is_limit: bool) -> Change:
    medians = median(before.values), median(after.values)
    if after.limit and after.limit == before.limit:
        old, new = before.shares(name), after.shares(name)
        verdict = ("slower", "", "faster")[judge(old, new, less_is_better=False) + 1]
        return Change(title, name, *medians, (median(old), median(new)), verdict)
    if is_limit:
        return Change(title, name, *medians, None, "the machine")
    words = ("more", "", "less") if unit(name) == "MB" else ("slower", "", "faster")
    verdict = words[judge(before.values, after.values, less_is_better(name)) + 1]
    return Change(title, name, *medians, None, verdict)


def table_of(changes: Sequence[Change]) -> Table:
    """Return a table of the changes that are beyond noise, and of the machine's limits."""
    table = Table(title="changes beyond noise, and the machine's own")
    for name in ("", "number", "before", "after", "change", "of the limit", "verdict"):
        table.add_column(name, justify="left" if name in ("", "number", "verdict") else "right")
    for one in changes:
        if one.verdict:
            growth = f"{one.after / one.before - 1:+.0%}"
            shares = f"{one.shares[0]:.0%} -> {one.shares[1]:.0%}" if one.shares else ""
            values = digits(one.before), digits(one.after), growth, shares
            table.add_row(one.title.partition(" (")[0], one.name, *values, one.verdict)
    return table


def summary(changes: Sequence[Change]) -> str:
    """Return a summary of the changes in one line."""
    if not changes:
        return "nothing to compare: no suite, case, sizes, threads and device in common"
    worse = [f"{one.title.partition(' (')[0]}, {one.name}" for one in changes if one.is_worse]
    count = f"{len(changes)} numbers compared"
    return f"{count}, {len(worse)} worse beyond noise{': ' if worse else ''}{'; '.join(worse)}"
