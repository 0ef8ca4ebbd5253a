"""The record of an evaluation, ``evaluation.json``: only this module writes and reads it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metarl.runtime.console import is_printable
from metarl.runtime.files import to_json

Number = float | None  # None: not a finite number
EXACT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Row:
    """Scores over all tasks after some inner steps.

    Args:
        inner_steps: adaptation steps.
        mean: mean over tasks.
        ci95: half-width of its 95 % interval, Student's t over tasks; None for fewer than two.
        median: median over tasks.
        diverged: number of tasks (of policies: episodes) whose scores are not finite.
        length: mean length of an episode, env steps; policies only.
        success: share of episodes that solve the task; policies only, where it is defined.
    """

    __pydantic_config__: ClassVar = EXACT

    inner_steps: int
    mean: Number
    ci95: Number
    median: Number
    diverged: float
    length: Number = None
    success: Number = None


@dataclass(frozen=True)
class Candidate:
    """An inner rate that was tried on validation tasks, and its score there."""

    __pydantic_config__: ClassVar = EXACT

    rate: float
    score: Number


@dataclass(frozen=True)
class Published:
    """A published row: its source, the test it is of, its scores and, where known, every task's.

    ``scores`` [steps + 1]; ``per_task`` [steps + 1, M], in the order of the record's tasks.
    """

    __pydantic_config__: ClassVar = EXACT

    source: str
    test: str
    scores: list[Number]
    per_task: list[list[float]] | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation is taken; two with equal settings can be compared.

    Args:
        problem: settings of the task family, or of the source of data.
        tasks: M, held-out tasks.
        seed: seed of the tasks and their data.
        inner_rates: inner rate of every inner step; None: chosen from ``candidates``.
        candidates: inner rates that are tried on validation tasks.
        trajectories, actions: of policies, trajectories per task and inner step; sampled or mean.
        tasks_sha256: of policies, hash of the task file.
        tests, queries: of supervised models, how support data are drawn; query examples.
    """

    __pydantic_config__: ClassVar = EXACT

    problem: dict[str, Any]
    tasks: int
    seed: int
    inner_rates: list[float] | None
    candidates: list[float]
    trajectories: int | None = None
    actions: str | None = None
    tasks_sha256: str | None = None
    tests: list[str] | None = None
    queries: int | None = None


@dataclass(frozen=True)
class TaskScoresRecord:
    """The scores of one test.

    Args:
        test: its name, where a model is put to several.
        measure: return, MSE or accuracy.
        rows: one per inner step, 0 first.
        inner_rates: [steps].
        validation: scores of the candidate rates, if alpha was chosen so.
        task_fields: names of a task's numbers.
        tasks: [M, task_dim].
        scores: [steps + 1, M]; None where a task diverged.
        lengths: mean episode lengths, [steps + 1, M], env steps; policies only.
        success: shares of episodes that solve the task, [steps + 1, M]; where it is defined.
        trajectories, actions: see ``EvaluationSettings``.
    """

    __pydantic_config__: ClassVar = EXACT

    test: str
    measure: str
    rows: list[Row]
    inner_rates: list[float]
    validation: list[Candidate]
    task_fields: list[str]
    tasks: list[list[float]]
    scores: list[list[Number]]
    interval: str = "95 %, Student's t over tasks, half-width"
    lengths: list[list[Number]] | None = None
    success: list[list[Number]] | None = None
    trajectories: int | None = None
    actions: str | None = None

    def __post_init__(self) -> None:
        steps = range(len(self.inner_rates) + 1)
        if len(self.rows) != len(steps):
            raise ValueError("rows and inner_rates are of different numbers of steps")
        if [row.inner_steps for row in self.rows] != [*steps]:
            raise ValueError("rows should be of 0, 1, 2, ... inner steps")
        for table in (self.scores, self.lengths, self.success):
            if table is not None and [len(row) for row in table] != [
                len(self.tasks) for _ in steps
            ]:
                raise ValueError("scores, lengths and success should have an entry for every task")
        if any(len(task) != len(self.task_fields) for task in self.tasks):
            raise ValueError("tasks should have a number for every field")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(TaskScoresRecord):
    """An evaluation of a run: the scores of its first test, the other tests, and the settings.

    Args:
        others: the same model's scores in other tests.
        main_test: name of the first test.
        problem: the run's setting that says where its tasks come from.
        protocol: how the evaluation was taken.
        iteration: iterations that the model was trained for.
        seed: the run's seed.
        published: a published row of the same setting.
        task_file: the file of held-out tasks, if there is one.
        episodes_sha256: hash of the file of recorded episodes.
        data_sha256: hash of the held-out examples, where they are labelled.
        other_data: name of the data, where they are not those of the run.
    """

    others: list[TaskScoresRecord]
    main_test: str
    problem: Literal["env", "data"]
    protocol: EvaluationSettings
    iteration: int
    seed: int = 0
    published: Published = field(default_factory=lambda: Published("", "", []))
    task_file: str | None = None
    episodes_sha256: str
    data_sha256: str | None = None
    other_data: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(len(scores) != len(self.tasks) for scores in self.published.per_task or []):
            raise ValueError("published.per_task should have an entry for every task")

    def of_test(self, other: TaskScoresRecord) -> "EvaluationRecord":
        """Return the record with the scores of another test."""
        return dataclasses.replace(self, **vars(other))

    def tests(self) -> dict[str, "EvaluationRecord"]:
        """Return the record as every test sees it, by the test's name."""
        return {self.test: self} | {other.test: self.of_test(other) for other in self.others}

    def to_json(self, indent: int | None = 2) -> str:
        """Return the record as JSON; null for what is not finite."""
        return to_json(as_plain(self), indent)

    @classmethod
    def from_json(cls, data: str | bytes) -> "EvaluationRecord":
        """The inverse of ``to_json``.

        Raises:
            ValueError: the data are not such a record.
        """
        try:
            record = _ADAPTER.validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"not the record of an evaluation: {where} {first['msg']}") from error
        if not is_printable(as_plain(record)):
            raise ValueError("not the record of an evaluation: it has control characters")
        return record


_ADAPTER = TypeAdapter(EvaluationRecord)


@dataclass(frozen=True)
class SplitRecord:
    """The labelled examples of a split.

    Args:
        classes: number of examples by class.
        sha256: hash of the examples and their classes, in order.
    """

    classes: dict[str, int]
    sha256: str


DataRecord = Mapping[str, SplitRecord]
"""The labelled examples of a run by split; empty where there are none, or nothing is known."""

_DATA_ADAPTER = TypeAdapter(dict[str, SplitRecord])


def data_to_json(data: DataRecord) -> str:
    """Return the record of a run's examples as JSON."""
    return to_json(as_plain(data))


def data_from_json(data: str | bytes) -> DataRecord:
    """The inverse of ``data_to_json``.

    Raises:
        ValueError: the data are not such a record.
    """
    record = _DATA_ADAPTER.validate_json(data, strict=True)
    if not {"train", "test"} <= record.keys():
        raise ValueError("there should be a train and a test split")
    return record


def as_plain(value: Any) -> Any:
    """Return nested dataclasses as dictionaries, without optional fields that are None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: (f.default, getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {
            name: as_plain(entry)
            for name, (default, entry) in fields.items()
            if not (default is None and entry is None)
        }
    if isinstance(value, Mapping):
        return {key: as_plain(entry) for key, entry in value.items()}
    return [as_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
