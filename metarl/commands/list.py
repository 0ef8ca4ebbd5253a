"""``metarl list``."""

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metarl.commands.command import Arguments, NoOptions, command
from metarl.core.algorithms import ALGORITHMS
from metarl.experiment import registries
from metarl.experiment.configs import config_files
from metarl.rl.losses import INNER_LOSSES
from metarl.runtime.console import printable
from metarl.runtime.folder import RunFolder
from metarl.runtime.record import EvaluationRecord

Rows = list[list[str]]
FIELDS = 5  # of a task, that are listed


def families() -> Rows:
    """Task families, ``--env.family``."""
    rows = [["family", "task", "horizon", ""]]
    for name, family in registries.FAMILIES.items():
        example = family()
        fields = ", ".join(example.task_fields[:FIELDS]) + ", ..." * (example.task_dim > FIELDS)
        rows.append([name, fields, str(example.horizon), _first_line(family)])
    return rows


def algorithms() -> Rows:
    """Algorithms to put on top of an experiment, and their parts, each a setting."""
    rows = [["setting", "name", ""]]
    rows += [
        ["--config", name, _comment(path).removeprefix("On top of an experiment: ")]
        for name, path in config_files().items()
        if name.startswith("algorithms/")
    ]
    rows += [["inner.algorithm", name, item.source] for name, item in ALGORITHMS.items()]
    for setting, registry in (
        ("inner.loss", INNER_LOSSES),
        ("outer.name", registries.OUTER_STEPS),
        ("baseline.name", registries.BASELINES),
        ("policy.name", registries.POLICIES),
        ("data.source", registries.SOURCES),
    ):
        rows += [[setting, name, _first_line(item)] for name, item in registry.items()]
    return rows


def configs() -> Rows:
    """Experiments, ``metarl train --config NAME``."""
    rows = [["config", ""]]
    for name, path in config_files().items():
        rows.append([name, _comment(path)])
    return rows


def runs() -> Rows:
    """Runs in the folders runs/ and results/."""
    rows = [["run", "iterations done", "last evaluation"]]
    for folder in ("runs", "results"):
        for path in sorted(Path(folder).glob("*/config.yaml")):
            run = RunFolder(path.parent)
            iterations = max((row["iteration"] + 1 for row in run.metrics()), default=0)
            evaluation = run.load_evaluation()
            rows.append(
                [
                    printable(str(run.path)),
                    str(iterations),
                    _scores(evaluation[0]) if evaluation else "",
                ]
            )
    return rows


WHAT: dict[str, Callable[[], Rows]] = {
    "families": families,
    "algorithms": algorithms,
    "configs": configs,
    "runs": runs,
}


@command(Arguments("list", f"some of {', '.join(WHAT)}", 0, math.inf, [*WHAT]))
def list_(names: Sequence[str], options: NoOptions) -> int:
    """List families, algorithms, configs and runs."""
    for name in names or WHAT:
        print(f"{str(WHAT[name].__doc__).rstrip('.').replace('``', '')}\n")
        _print_columns(WHAT[name]())
    return 0


def _print_columns(rows: Rows) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {'  '.join(cells)}".rstrip())
    print()


def _first_line(item: Any) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0].rstrip(".")


def _comment(path: Path) -> str:
    """Return the comment in the first line of a config."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _scores(record: EvaluationRecord) -> str:
    means = [row.mean for row in record.rows]
    return f"{record.measure} " + " / ".join("–" if x is None else f"{x:.4g}" for x in means)
