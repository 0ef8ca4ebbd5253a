"""Measured numbers, in memory and in files."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metarl.runtime.errors import UserError
from metarl.runtime.files import read_json


class Limit(NamedTuple):
    """The limit that a number is compared with, measured in the same repeat."""

    name: str
    value: float


@dataclass
class Number:
    """A number that is measured in every repeat.

    Args:
        values: the measurements.
        limit: name of the limit that they are compared with.
        limits: its values in the same repeats.
    """

    values: list[float] = field(default_factory=list)
    limit: str | None = None
    limits: list[float] = field(default_factory=list)

    def shares(self, name: str) -> list[float]:
        """Return the share of the limit in every repeat; 1 is all of it; empty without one."""
        if self.limit is None:
            return []
        pairs = zip(self.values, self.limits, strict=True)
        if less_is_better(name):
            return [limit / value for value, limit in pairs]
        return [value / limit for value, limit in pairs]


class Numbers(dict[str, Number]):
    """Numbers by name; the text after a name's last comma is the unit."""

    def add(self, name: str, value: float, limit: Limit | None = None) -> None:
        """Add one repeat of the number ``name``."""
        number = self.setdefault(name, Number())
        number.values.append(value)
        if limit is not None:
            number.limit = limit.name
            number.limits.append(limit.value)


@dataclass
class Result:
    """One process's measurements: a suite of a case, at the sizes in ``settings``."""

    suite: str
    case: str
    settings: str
    numbers: Numbers

    @property
    def title(self) -> str:
        return f"{self.suite}: {self.case} ({self.settings})"


def unit(name: str) -> str:
    return name.rpartition(", ")[2]


def less_is_better(name: str) -> bool:
    """Return whether less is better: for times and memory, not for speeds."""
    return not unit(name).endswith("/s")


def is_judged(name: str) -> bool:
    """Return whether a number says how good the code is; counts do not."""
    return unit(name) in ("s", "MB") or unit(name).endswith("/s")


def digits(value: float) -> str:
    """Return a number with about four digits."""
    return format(value, ",.0f" if value >= 100 else ".3g" if value < 0.1 else ".2f")


def spread(values: list[float]) -> str:
    return f"{digits(min(values))} - {digits(max(values))}" if len(values) > 1 else ""


def peak_memory() -> float:
    """Return the peak memory of this process, MB.

    The kernel's own count where there is one: what ``getrusage`` says is never less than what the
    process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


# --- files


def read_results(path: Path) -> list[Result]:
    """The results in a file that ``--json`` wrote.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        report = read_json(path)
        return [as_result(entry) for entry in _of(report, "results", list)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no output of --json: {error}") from error


def as_result(entry: Any) -> Result:
    """The inverse of ``dataclasses.asdict``; raises ValueError for anything else."""
    words = {key: _of(entry, key, str) for key in ("suite", "case", "settings")}
    numbers = _of(entry, "numbers", dict)
    return Result(**words, numbers=Numbers({n: _number(n, v) for n, v in numbers.items()}))


def _number(name: str, entry: Any) -> Number:
    values, limits = (_positive(entry, key) for key in ("values", "limits"))
    if not isinstance(entry.get("limit"), str | None):
        raise ValueError(f"the limit of {name[:40]!r} is no name")
    if not values or len(limits) != (len(values) if entry.get("limit") else 0):
        raise ValueError(f"{name[:40]!r} should have values, and as many limits or none")
    return Number(values, entry.get("limit"), limits)


def _positive(entry: Any, key: str) -> list[float]:
    values = _of(entry, key, list)
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= sys.float_info.max:
            raise ValueError(f"{key} should be positive numbers, got {str(value)[:40]}")
    return [float(value) for value in values]


def _of(entry: Any, key: str, kind: type) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
        raise ValueError(f"it lacks {key!r}")
    return entry[key]
