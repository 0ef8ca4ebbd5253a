"""Evaluation of supervised models: adapt to held-out tasks, score the query data."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.task_map import TaskMap
from metarl.runtime.errors import UserError, warn
from metarl.runtime.scores import Evaluation, EvaluationConfig
from metarl.runtime.seeding import Purpose
from metarl.supervised.losses import Criterion
from metarl.supervised.task_data import Source, TaskData, TaskRequest

Array = NDArray[np.floating]

RECORDED_TASKS = 3
DIVERGED = 100.0  # times the worst loss before adaptation


@dataclass(frozen=True)
class SupervisedEvaluationConfig(EvaluationConfig):
    """How a supervised model is evaluated.

    Args:
        tests: list of tests such as 5-shot, the main one first; sinusoids also have 5-shot
            half-range, with support points in the upper half of the range. null: as many shots as
            in training.
        queries: query examples of a held-out task (per class); null: as many as in training.
    """

    tasks: Annotated[int, Gt(0)] = 600
    tests: list[str] | None = None
    queries: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tests is not None and (not self.tests or len({*self.tests}) < len(self.tests)):
            raise ValueError("evaluation.tests should have at least one test, and each once")


class HeldOutTest(NamedTuple):
    """How the support data of held-out tasks are drawn."""

    shots: int
    variant: str

    @property
    def name(self) -> str:
        return f"{self.shots}-shot {self.variant}".strip()


def parse_test(name: str, variants: Sequence[str]) -> HeldOutTest:
    """``5-shot``, or ``5-shot half-range`` where the source has such a variant.

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})-shot(?: (.+))?", name)
    if match is None or (match[2] or "") not in ("", *variants):
        names = " or ".join(["K-shot", *(f"K-shot {variant}" for variant in variants)])
        raise UserError(f"evaluation.tests should have {names}, as 5-shot, got {name!r}")
    return HeldOutTest(int(match[1]), match[2] or "")


class RecordedExamples(NamedTuple):
    """The first M' held-out tasks and the model's outputs for their query data."""

    support_inputs: Array  # [M', S, ...]
    support_targets: Array  # [M', S, ...]
    query_inputs: Array  # [M', Q, ...]
    query_targets: Array  # [M', Q, ...]
    outputs: Array  # [steps + 1, M', Q, ...], after 0, 1, ... inner steps

    def fits(self, moments: int, tasks: int) -> bool:
        """Return whether the arrays have their shapes, for ``moments`` = steps + 1 and M tasks."""
        if any(array.ndim < 2 or array.dtype.kind not in "fiu" for array in self):
            return False
        rows, queries = self.query_inputs.shape[:2]
        return (
            0 < rows <= tasks
            and self.outputs.shape[:3] == (moments, rows, queries)
            and self.query_targets.shape[:2] == (rows, queries)
            and self.support_inputs.shape[:2] == self.support_targets.shape[:2]
            and self.support_inputs.shape[:1] == (rows,)
            and self.support_inputs.shape[2:] == self.query_inputs.shape[2:]
        )


class TaskScores(NamedTuple):
    """One task after 0, 1, ... inner steps; of all tasks with M in front."""

    scores: dict[str, Tensor]  # [steps + 1] by kind; the first one counts
    outputs: Tensor  # [steps + 1, Q, ...]


class Prediction(Protocol):
    """The part of a model that an evaluation needs."""

    @property
    def criterion(self) -> Criterion: ...
    @property
    def ways(self) -> int | None: ...
    def prepare(self, tasks: Array, episodes: TaskData) -> TaskData: ...


EvaluateTask = Callable[[TaskData, Sequence[float]], TaskScores]
"""Adapts to one task with the given inner rates, and judges after every inner step."""


@dataclass(frozen=True)
class ModelEvaluator:
    """Scores after 0, 1, ... inner steps on seeded held-out tasks.

    Args:
        config: its settings.
        source: what held-out tasks are drawn from.
        predictor: the model, and its loss and score.
        alpha: the trained inner rate.
        shots, queries: as in training.
        task_map: maps over the tasks of this process.
    """

    config: SupervisedEvaluationConfig
    source: Source
    predictor: Prediction
    alpha: float
    shots: int
    queries: int
    task_map: TaskMap

    def __post_init__(self) -> None:
        """Raise UserError where a test cannot be drawn."""
        for test in self.tests:
            self.source.require(self._draw(test, Purpose.EVALUATION_TASKS))
        if self.config.candidate_rates and self.config.inner_steps:
            self.source.require(self._draw(self.tests[0], Purpose.VALIDATION_TASKS))

    @property
    def tests(self) -> list[HeldOutTest]:
        if self.config.tests is None:
            return [HeldOutTest(self.shots, "")]
        return [parse_test(name, self.source.variants) for name in self.config.tests]

    def run(self, judge: EvaluateTask) -> Evaluation:
        """Return the scores of the first test, which hold those of the others."""
        alpha, validation = self.config.choose_rate(self.alpha, lambda a: self._validate(judge, a))
        evaluations = [e for test in self.tests for e in self._run(judge, test, alpha)]
        main = replace(evaluations[0], validation=validation, others=evaluations[1:])
        if self.predictor.ways:
            _warn_of_leaks(main, 1 / self.predictor.ways)
        return main

    def _run(self, judge: EvaluateTask, test: HeldOutTest, alpha: float) -> list[Evaluation]:
        rates = self.config.rates(alpha)
        tasks, episodes, task_scores = self._judge(judge, test, Purpose.EVALUATION_TASKS, rates)
        kinds = [
            self._evaluation(f"{test.name}, {kind}" if kind else test.name, tasks, scores, rates)
            for kind, scores in task_scores.scores.items()
        ]
        recordings = self._recordings(episodes, task_scores.outputs)
        return [replace(kinds[0], episodes=recordings), *kinds[1:]]

    def _evaluation(
        self, name: str, tasks: Array, scores: Tensor, rates: Sequence[float]
    ) -> Evaluation:
        of_steps = scores.double().cpu().numpy().T  # [steps + 1, M]
        of_steps, diverged = mark_diverged(of_steps, self.predictor.criterion.higher_is_better)
        return Evaluation(
            measure=self.predictor.criterion.measure,
            tasks=tasks,
            task_fields=self.source.task_fields,
            scores=of_steps,
            diverged=diverged,
            inner_rates=rates,
            test=name,
        )

    def _validate(self, judge: EvaluateTask, alpha: float) -> float:
        """Mean score over validation tasks and inner steps from the first on; higher is better."""
        rates = self.config.rates(alpha)
        *_, task_scores = self._judge(judge, self.tests[0], Purpose.VALIDATION_TASKS, rates)
        score = float(next(iter(task_scores.scores.values()))[:, 1:].double().mean())
        return score if self.predictor.criterion.higher_is_better else -score

    def _judge(
        self, judge: EvaluateTask, test: HeldOutTest, purpose: Purpose, rates: Sequence[float]
    ) -> tuple[Array, TaskData, TaskScores]:
        share = self.task_map.processes.share(self.config.tasks)
        tasks, episodes = self.source.draw(self._draw(test, purpose)._replace(share=share))
        data = self.predictor.prepare(tasks, episodes)
        task_scores = self.task_map.map(lambda task: judge(task, rates), data)
        tasks = self.task_map.processes.gather(torch.from_numpy(tasks)).numpy()
        return (
            tasks,
            episodes,
            task_scores._replace(scores=self.task_map.processes.gather(task_scores.scores)),
        )

    def _recordings(self, episodes: TaskData, outputs: Tensor) -> RecordedExamples:
        """Return the recordings of the first tasks of all processes."""
        count = max(0, RECORDED_TASKS - self.task_map.processes.share(self.config.tasks).start)

        def first(x: Tensor) -> Any:
            return self.task_map.processes.gather(x[:count]).cpu().numpy()

        return RecordedExamples(
            support_inputs=first(episodes.support.inputs),
            support_targets=first(episodes.support.targets),
            query_inputs=first(episodes.query.inputs),
            query_targets=first(episodes.query.targets),
            outputs=np.swapaxes(first(outputs), 0, 1),
        )

    def _draw(self, test: HeldOutTest, purpose: Purpose) -> TaskRequest:
        config = self.config
        queries = config.queries or self.queries
        return TaskRequest(config.seed, purpose, 0, config.tasks, test.shots, queries, test.variant)


def mark_diverged(scores: Array, higher_is_better: bool) -> tuple[Array, Array]:
    """Scores [steps + 1, M] with NaN for tasks that diverged, and how many did, [steps + 1].

    A score has diverged when it is not finite or, if it is a loss, more than a hundred times the
    worst before adaptation.
    """
    worst = np.max(scores[0], initial=0, where=np.isfinite(scores[0]))
    limit = np.inf if higher_is_better else DIVERGED * worst
    diverged = ~np.isfinite(scores) | (scores > limit)
    return np.where(diverged, np.nan, scores), diverged.sum(1)


def _warn_of_leaks(evaluation: Evaluation, chance: float) -> None:
    """Warn where accuracy before adaptation beats chance: labels leak into the inputs."""
    noise = np.sqrt(chance * (1 - chance) / len(evaluation.tasks))
    for each in (evaluation, *evaluation.others):
        row = each.rows()[0]
        mean = float("nan") if row.mean is None else row.mean
        if mean - chance > max(0.05, 5 * noise):
            warn(
                f"{each.test}: accuracy before adaptation is {mean:.3f}, and {chance:.3f} "
                "is all that a guess gives: labels leak into the inputs"
            )
