"""A run as reports see it: the content of its folder, and its family's geometry."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from metarl.rl.evaluate import RecordedRollouts
from metarl.runtime.errors import UserError
from metarl.runtime.record import DataRecord, EvaluationRecord, as_plain
from metarl.runtime.trainer import first_difference
from metarl.supervised.evaluate import RecordedExamples

Array = NDArray[np.floating]
Recorded = RecordedRollouts | RecordedExamples

SHOWN_FIELDS = 4  # of a task, in its name


class Target(Protocol):
    """The goal of a task: a place (m), a direction or a velocity (m/s)."""

    @property
    def kind(self) -> str: ...  # "position", "direction" or "velocity"
    @property
    def value(self) -> Array: ...  # [D]


class Family(Protocol):
    """The part of a task family that pictures need."""

    @property
    def dt(self) -> float: ...
    @property
    def is_drawn(self) -> bool: ...
    def position(self, qpos: Any) -> Array: ...  # [..., nq] -> [..., D] metres, D 1 or 2
    def target(self, task: Any) -> Target | None: ...
    def optimum(self, task: Any) -> float | None: ...


@dataclass(frozen=True)
class RunView:
    """A run to report on.

    Args:
        name: the run's name.
        config: its settings, plain values.
        info: what ``run.json`` says.
        metrics: rows of ``metrics.jsonl``.
        evaluation: what ``evaluation.json`` says.
        episodes: recorded episodes of that evaluation; None if they are lost.
        family: its task family; None for a supervised run.
        data: the labelled examples that it was trained on.
    """

    name: str
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: EvaluationRecord
    episodes: Recorded | None
    family: Family | None
    data: DataRecord = field(default_factory=dict)

    @property
    def name_without_seed(self) -> str:
        """``point`` for ``point-seed3`` and ``point-seed3-20261231-235959``."""
        return without_seed(self.name)

    @property
    def scores(self) -> Array:
        """Score of every held-out task after every inner step, [steps + 1, M]."""
        return np.array(self.evaluation.scores, dtype=np.float64)  # null becomes NaN

    @property
    def measure(self) -> str:
        """The kind of score: return, MSE or accuracy."""
        return self.evaluation.measure

    @property
    def measures(self) -> str:
        """The title of a table of scores: returns, MSE or accuracy."""
        return "returns" if self.measure == "return" else self.measure

    @property
    def source(self) -> str:
        """The name of the task family or of the source of data."""
        problem = self.config[self.evaluation.problem]
        return str(problem["family" if self.family else "source"])

    def tests(self) -> dict[str, "RunView"]:
        """The run as every test that it was put to sees it, by name."""
        return {
            name: self
            if record is self.evaluation
            else replace(self, evaluation=record, episodes=None)
            for name, record in self.evaluation.tests().items()
        }

    def series(self, name: str) -> Array:
        """A metric over iterations, NaN where it is missing."""
        return np.array([row.get(name) for row in self.metrics], dtype=np.float64)

    def task_name(self, m: int) -> str:
        """A held-out task's first fields and their values: ``velocity 1.25``."""
        values = zip(self.evaluation.task_fields, self.evaluation.tasks[m], strict=True)
        words = [f"{name} {value:.2f}" for name, value in values]
        return ", ".join([*words[:SHOWN_FIELDS], *["..."] * (len(words) > SHOWN_FIELDS)])


def after(inner_steps: int) -> str:
    """``before adaptation``, ``after 1 inner step``, ..."""
    plural = "s" * (inner_steps > 1)
    return f"after {inner_steps} inner step{plural}" if inner_steps else "before adaptation"


def without_seed(name: str) -> str:
    """Return a run's name without its seed and what follows."""
    return re.sub(r"-seed\d+(-.*)?$", "", name)


class Curve(NamedTuple):
    """A mean with its interval over something."""

    x: Array
    mean: Array
    half_width: Array


def by_test(views: Sequence[RunView]) -> dict[str, list[RunView]]:
    """Group the runs' views by test; a run may lack some tests."""
    views_by_test: dict[str, list[RunView]] = {}
    for view in views:
        for name, test_view in view.tests().items():
            views_by_test.setdefault(name, []).append(test_view)
    return views_by_test


def have_same_data(one: RunView, other: RunView) -> bool:
    """Return whether two runs were evaluated on the same examples, as far as is known."""
    hashes = {view.evaluation.data_sha256 for view in (one, other)}
    return len(hashes - {None}) < 2


def require_comparable(views: Sequence[RunView]) -> None:
    """Raise UserError unless all runs were evaluated in the same way on the same tasks."""
    first = views[0]
    for view in views[1:]:
        one, other = (_comparable(each.evaluation) for each in (first, view))
        if difference := first_difference(other, one):
            raise UserError(
                f"{view.name} and {first.name} cannot be compared: they were evaluated with "
                f"different settings: {difference}"
            )


def _comparable(evaluation: EvaluationRecord) -> dict[str, Any]:
    """The settings that must be equal: every run may adapt with inner rates of its own."""
    settings = as_plain(evaluation.protocol)
    protocol = {k: v for k, v in settings.items() if k not in ("inner_rates", "candidates")}
    return {"problem": evaluation.problem, "protocol": protocol}
