"""Held-out tasks from a file, with the returns that were published for each of them.

JSON: ``{"tasks": {FIELD: [M numbers], ...}, "published": {METHOD: {"source": TEXT, "returns":
[[M numbers], ...]}}}``; the lists of ``returns`` are after 0, 1, ... inner steps, and ``published``
may be missing. CSV: a row per task, a column per task field, and a column ``METHOD/STEP`` for the
returns of METHOD after STEP inner steps.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.runtime.console import is_printable
from metarl.runtime.errors import UserError
from metarl.runtime.files import read_file

Array = NDArray[np.float64]

LARGEST_FILE = 10_000_000  # bytes


class PublishedReturns(NamedTuple):
    """Mean returns of a published model on every task."""

    source: str  # method, paper and table
    returns: Array  # [steps + 1, M], after 0, 1, ... inner steps


class TaskFile(NamedTuple):
    """Held-out tasks and their published returns."""

    tasks: Array  # [M, task_dim]
    published: Mapping[str, PublishedReturns]  # by method

    @property
    def digest(self) -> str:
        """Short SHA-256 of the tasks: equal for equal tasks."""
        return hashlib.sha256(self.tasks.tobytes()).hexdigest()[:16]


def read_task_file(path: Path, task_fields: Sequence[str]) -> TaskFile:
    """Read the tasks of a family, one column for each of its ``task_fields``.

    Raises:
        UserError: the file cannot be read, is neither JSON nor CSV, has other columns, numbers that
            are not finite, or lists of different lengths.
    """
    try:
        text = read_file(path, LARGEST_FILE).decode("utf-8-sig")
        columns, published = (_from_csv if path.suffix.lower() == ".csv" else _from_json)(text)
        if not is_printable(published):
            raise ValueError("its names have control characters")
        return _task_file(columns, published, task_fields)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path}: it nests too deep") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from error


def _task_file(
    columns: Mapping[str, Any], published: Mapping[str, Any], task_fields: Sequence[str]
) -> TaskFile:
    if set(columns) != set(task_fields):
        raise ValueError(
            f"the tasks should have the columns {', '.join(task_fields)}, "
            f"got {', '.join(map(str, columns)) or 'none'}"
        )
    first = columns[task_fields[0]]
    length = len(first) if isinstance(first, list) else 1
    if length == 0:
        raise ValueError("there should be at least one task")
    tasks = np.stack([_numbers(columns[f], f"column {f}", length) for f in task_fields], axis=1)
    return TaskFile(tasks, {m: _published_returns(row, m, length) for m, row in published.items()})


def _published_returns(row: Any, method: str, tasks: int) -> PublishedReturns:
    where = f"published {method}"
    if not isinstance(row, dict) or not isinstance(row.get("returns"), list) or not row["returns"]:
        raise ValueError(f"{where} should have a list for every inner step in `returns`")
    returns = [
        _numbers(values, f"{where} after {k} inner steps", tasks)
        for k, values in enumerate(row["returns"])
    ]
    return PublishedReturns(str(row.get("source", method)), np.stack(returns))


def _numbers(values: Any, where: str, length: int) -> Array:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} should hold numbers") from None
    if numbers.shape != (length,):
        raise ValueError(f"{where} should hold {length} numbers, one per task")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where} should hold finite numbers")
    return numbers


def _from_json(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
    tasks = content.get("tasks") if isinstance(content, dict) else None
    published = content.get("published", {}) if isinstance(content, dict) else None
    if not isinstance(tasks, dict) or not isinstance(published, dict):
        raise ValueError("it should hold an object with `tasks` and, perhaps, `published`")
    return tasks, published


def _from_csv(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    header, *rows = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    names = [name.strip() for name in header]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise ValueError(
                f"task {number} has {len(row)} values, but there are {len(names)} columns"
            )
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    tasks = {name: values for name, values in columns.items() if "/" not in name}
    published: dict[str, dict[str, Any]] = {}
    for name in names:
        method, _, step = name.rpartition("/")
        if not method:
            continue
        returns = published.setdefault(method, {"returns": []})["returns"]
        if step != str(len(returns)):
            raise ValueError(f"column {name} should be {method}/{len(returns)}")
        returns.append(columns[name])
    return tasks, published
