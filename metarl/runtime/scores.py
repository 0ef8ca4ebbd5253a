"""How well a model adapts: scores after every inner step on held-out tasks, with intervals."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy.special import stdtrit

from metarl.runtime.errors import warn
from metarl.runtime.files import require_unpacked
from metarl.runtime.record import Candidate, Row, TaskScoresRecord, as_plain

Array = NDArray[np.floating]

EPISODES_LIMIT = 2**28  # bytes of recorded episodes, many times those of any evaluation


@dataclass(frozen=True)
class PublishedConfig:
    """A published row to print beside one's own.

    Args:
        source: paper and table of a published row.
        test: the test that the published row is of; empty: the first one.
        scores: published mean scores after 0, 1, 2, ... inner steps; null: not published.
        method: method in the task file whose returns are shown; empty: show scores.
    """

    source: str = ""
    test: str = ""
    scores: list[float | None] = field(default_factory=list)
    method: str = ""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated.

    Args:
        tasks: number of held-out tasks.
        inner_steps: number of inner steps on held-out tasks.
        inner_rates: inner rate of every inner step; null: training's first rate alpha (policies:
            alpha, then alpha / 2).
        candidate_rates: choose alpha as the best of these on validation tasks, which are not the
            held-out ones; null: the trained alpha.
        seed: seed of the held-out tasks and their data; runs with equal seeds get identical tasks.
        every: evaluate every time this number of iterations is done; 0: only at the end.
        published: published numbers of the same setting.
    """

    tasks: Annotated[int, Gt(0)] = 40
    inner_steps: Annotated[int, Ge(0)] = 3
    inner_rates: list[Annotated[float, Gt(0)]] | None = None
    candidate_rates: list[Annotated[float, Gt(0)]] | None = None
    seed: Annotated[int, Ge(0)] = 0
    every: Annotated[int, Ge(0)] = 0
    published: PublishedConfig = field(default_factory=PublishedConfig)

    def __post_init__(self) -> None:
        if self.inner_rates is not None and len(self.inner_rates) < self.inner_steps:
            raise ValueError(
                f"evaluation.inner_rates has {len(self.inner_rates)} entries "
                f"for {self.inner_steps} inner steps"
            )
        if self.inner_rates is not None and self.candidate_rates is not None:
            raise ValueError(
                "evaluation.inner_rates are given, so evaluation.candidate_rates must be null"
            )
        if self.candidate_rates == []:
            raise ValueError(
                "evaluation.candidate_rates should have at least one entry, or be null"
            )

    def rates(self, alpha: float) -> list[float]:
        """Inner rate of every inner step, from that of the first."""
        if self.inner_rates is not None:
            return self.inner_rates[: self.inner_steps]
        return self.rates_from(alpha)

    def rates_from(self, alpha: float) -> list[float]:
        """Return the rates that ``inner_rates: null`` stands for."""
        return [alpha] * self.inner_steps

    def choose_rate(
        self, alpha: float, score: Callable[[float], float]
    ) -> tuple[float, dict[float, float]]:
        """The inner rate to evaluate with, and the scores of the candidates, if there are any.

        Args:
            alpha: the trained rate, taken when there are no candidates.
            score: of a candidate on validation tasks, higher is better.
        """
        if not self.candidate_rates or not self.inner_steps:
            return alpha, {}
        # A rate that breaks a simulation or a model is none to choose.
        raw_scores = {rate: score(rate) for rate in self.candidate_rates}
        scores = {rate: x if np.isfinite(x) else float("-inf") for rate, x in raw_scores.items()}
        best = max(scores, key=lambda rate: (scores[rate], -rate))
        if not np.isfinite(scores[best]):
            warn(f"no candidate rate has a finite score; the smallest, {best:g}, is used")
        return best, scores


class Recorded(Protocol):
    """Named arrays of some of the scored episodes, to look at: a NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


Recording = TypeVar("Recording", bound=Recorded)


def to_npz(recordings: Recorded | None) -> bytes:
    """Return recorded episodes as an npz file; no bytes for None."""
    if recordings is None:
        return b""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **recordings._asdict())
    return buffer.getvalue()


def from_npz(data: bytes, kinds: Sequence[type[Recording]]) -> Recording:
    """The inverse of ``to_npz``, as the one of ``kinds`` that has these arrays.

    Raises:
        ValueError: the data are damaged.
    """
    try:
        require_unpacked(data, EPISODES_LIMIT)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        (kind,) = (kind for kind in kinds if set(kind._fields) == set(arrays))  # type: ignore[attr-defined]
        return kind(**arrays)
    except Exception as error:  # whatever damaged data lead to
        raise ValueError(f"damaged episodes: {error}") from error


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on held-out tasks.

    Args:
        measure: the kind of score: return, MSE, accuracy.
        tasks: [M, task_dim], named by ``task_fields``.
        scores: of every task after 0, 1, ... inner steps, [steps + 1, M]; NaN where it diverged.
        diverged: how many did (reinforcement learning: episodes), [steps + 1].
        inner_rates: [steps].
        validation: score on validation tasks by candidate rate, if alpha was chosen so.
        episodes: some of the scored episodes, to look at.
        test: its name, where a model is put to several.
        others: the same model in other tests.
    """

    measure: str
    tasks: Array
    task_fields: Sequence[str]
    scores: Array
    diverged: Array
    inner_rates: Sequence[float]
    validation: Mapping[float, float] = field(default_factory=dict)
    episodes: Recorded | None = None
    test: str = ""
    others: Sequence["Evaluation"] = ()

    def rows(self) -> list[Row]:
        """Return the scores over all tasks, one row per inner step."""
        return [
            Row(
                k,
                *_mean_with_interval(per_task),
                median=_median(per_task[np.isfinite(per_task)]),
                diverged=float(self.diverged[k]),
            )
            for k, per_task in enumerate(self.scores)
        ]

    def metrics(self) -> dict[str, float]:
        """The rows as flat metrics, ``evaluation/return_k`` and so on; those of a test by name."""
        start = f"evaluation/{self.test}/" if self.test else "evaluation/"
        metrics = {
            f"{start}{self.measure if name == 'mean' else name}_{row.inner_steps}": value
            for row in self.rows()
            for name, value in as_plain(row).items()
            if name != "inner_steps"
        }
        for other in self.others:
            metrics |= other.metrics()
        return metrics

    def record(self) -> TaskScoresRecord:
        """Return everything but the episodes and the other tests, as plain lists and numbers."""
        return TaskScoresRecord(
            test=self.test,
            measure=self.measure,
            rows=self.rows(),
            inner_rates=list(self.inner_rates),
            validation=[Candidate(rate, score) for rate, score in self.validation.items()],
            task_fields=list(self.task_fields),
            tasks=self.tasks.tolist(),
            scores=self.scores.tolist(),
        )


@dataclass(frozen=True)
class Difference:
    """Mean over ``tasks`` tasks of a difference of scores, and its 95 % interval's half-width.

    NaN stands for the mean of no tasks, and for the interval of one.
    """

    inner_steps: int
    mean: float
    ci95: float
    tasks: int


def paired_differences(one: Array, other: Array) -> list[Difference]:
    """Mean of other - one over tasks with its 95 % interval, after every inner step both have.

    A task that diverged entirely in one of them is left out; ``tasks`` counts the others.

    Args:
        one, other: scores [steps + 1, M] of two models on the same tasks and random numbers; the
            interval is narrower than those of the scores as the tasks' difficulty cancels. A model
            that does not adapt, [1, M], is the same after every inner step.
    """
    steps = max(len(one), len(other)) if 1 in (len(one), len(other)) else min(len(one), len(other))
    one, other = (np.repeat(x, steps, axis=0) if len(x) == 1 else x for x in (one, other))
    return [
        Difference(
            k,
            *_mean_with_interval(other[k] - one[k]),
            tasks=int(np.isfinite(other[k] - one[k]).sum()),
        )
        for k in range(steps)
    ]


def _mean_with_interval(per_task: Array) -> tuple[float, float]:
    """Mean over the tasks [M] that have a finite value, and the half-width of its interval."""
    finite = per_task[np.isfinite(per_task)]
    mean = float(finite.mean()) if len(finite) else float("nan")
    return mean, half_width(finite)


def _median(samples: Array) -> float:
    return float(np.median(samples)) if len(samples) else float("nan")


def t_quantile(samples: int) -> float:
    """Return Student's 97.5 % quantile: a 95 % interval's half-width in standard errors."""
    return float(stdtrit(samples - 1, 0.975))


def half_width(samples: Array) -> float:
    """Half-width of the 95 % confidence interval of the mean, Student's t; NaN for one sample."""
    n = len(samples)
    if n < 2:
        return float("nan")
    return float(t_quantile(n) * np.std(samples, ddof=1) / np.sqrt(n))
