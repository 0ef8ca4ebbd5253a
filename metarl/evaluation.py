"""How well a policy adapts: scores after every inner step on held-out tasks, with intervals."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.floating]


@dataclass(frozen=True)
class PublishedConfig:
    """A published row to print beside one's own.

    Args:
        source: paper and table.
        returns: mean return after 0, 1, 2, ... inner steps.
    """

    source: str = ""
    returns: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationConfig:
    """How a policy is evaluated.

    Args:
        tasks: number of held-out tasks.
        trajectories: trajectories per task and inner step; null: as many as in training.
        inner_steps: adaptation steps.
        inner_rates: inner rate of every inner step; null: alpha first, alpha / 2 after it.
        candidate_rates: choose alpha from these, as the one with the best return on validation
            tasks, which are others than the held-out ones; null: the trained alpha.
        mean_actions: adapt on sampled actions, but score episodes of the policy's mean actions.
        seed: of the held-out tasks and their noise; equal seeds give identical tasks to all runs.
        every: also evaluate after every so many iterations; 0: only at the end.
        published: published numbers of the same setting.
    """

    tasks: Annotated[int, Gt(0)] = 40
    trajectories: Annotated[int, Gt(0)] | None = None
    inner_steps: Annotated[int, Ge(0)] = 3
    inner_rates: list[Annotated[float, Gt(0)]] | None = None
    candidate_rates: list[Annotated[float, Gt(0)]] | None = None
    mean_actions: bool = False
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
        """Inner rate of every inner step (Finn et al. 2017, appendix A.2)."""
        if self.inner_rates is not None:
            return self.inner_rates[: self.inner_steps]
        return [alpha if k == 0 else alpha / 2 for k in range(self.inner_steps)]


class Episodes(NamedTuple):
    """Recorded episodes: the first N' of the first M' held-out tasks after 0, 1, ... inner steps.

    They are those that the scores count, not episodes of their own.
    """

    qpos: Array  # [steps + 1, M', N', T + 1, nq], generalised coordinates, initial state first
    rewards: Array  # [steps + 1, M', N', T]
    lengths: NDArray[np.integer]  # [steps + 1, M', N'], env steps; what follows them is padding

    def to_bytes(self) -> bytes:
        """As an npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self._asdict())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Episodes":
        """Raises ValueError when the data are damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return cls(**{name: file[name] for name in cls._fields})
        except Exception as error:  # whatever damaged data lead to
            raise ValueError(f"damaged episodes: {error}") from error


@dataclass(frozen=True)
class Evaluation:
    """Scores of one policy on held-out tasks.

    Args:
        tasks: [M, task_dim], named by ``task_fields``.
        returns: mean undiscounted return of every task after 0, 1, ... inner steps, [steps + 1, M];
            NaN where all of a task's episodes diverged.
        lengths: mean episode length, [steps + 1, M].
        diverged: episodes that a broken simulation cut short, [steps + 1].
        inner_rates: [steps].
        trajectories: per task and inner step.
        mean_actions: whether the scored actions are the policy's mean ones.
        validation: mean return on validation tasks by candidate rate, if alpha was chosen so.
        episodes: some of the scored episodes, to look at.
    """

    tasks: Array
    task_fields: Sequence[str]
    returns: Array
    lengths: Array
    diverged: Array
    inner_rates: Sequence[float]
    trajectories: int
    mean_actions: bool = False
    validation: Mapping[float, float] = field(default_factory=dict)
    episodes: Episodes | None = None

    def rows(self) -> list[dict[str, float]]:
        """One row per inner step: mean, 95 % interval (half-width over tasks), median, lengths."""
        return [
            {
                "inner_steps": k,
                **_mean_with_interval(per_task),
                "median": _median(per_task[np.isfinite(per_task)]),
                "length": float(self.lengths[k].mean()),
                "diverged": float(self.diverged[k]),
            }
            for k, per_task in enumerate(self.returns)
        ]

    def metrics(self) -> dict[str, float]:
        """The rows as flat metrics, ``evaluation/return_k`` and so on."""
        return {
            f"evaluation/{name}_{row['inner_steps']}": row[name]
            for row in self.rows()
            for name in ("return", "ci95", "median", "length", "diverged")
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes, as plain lists and numbers."""
        return {
            "rows": self.rows(),
            "interval": "95 %, Student's t over tasks, half-width",
            "inner_rates": list(self.inner_rates),
            "trajectories": self.trajectories,
            "actions": "mean" if self.mean_actions else "sampled",
            "validation": [{"rate": r, "return": x} for r, x in self.validation.items()],
            "task_fields": list(self.task_fields),
            "tasks": self.tasks.tolist(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }


def paired_differences(one: Array, other: Array) -> list[dict[str, float]]:
    """Mean of other - one over tasks with its 95 % interval, after every inner step both have.

    A task that diverged entirely in one of them is left out; ``tasks`` counts the others.

    Args:
        one, other: returns [steps + 1, M] of two policies on the same tasks and random numbers; the
            interval is narrower than those of the returns as the tasks' difficulty cancels. A
            policy that does not adapt, [1, M], is the same after every inner step.
    """
    steps = max(len(one), len(other)) if 1 in (len(one), len(other)) else min(len(one), len(other))
    one, other = (np.repeat(x, steps, axis=0) if len(x) == 1 else x for x in (one, other))
    return [
        {
            "inner_steps": k,
            **_mean_with_interval(other[k] - one[k]),
            "tasks": int(np.isfinite(other[k] - one[k]).sum()),
        }
        for k in range(steps)
    ]


def _mean_with_interval(per_task: Array) -> dict[str, float]:
    """Mean over the tasks [M] that have a finite value, and the half-width of its interval."""
    finite = per_task[np.isfinite(per_task)]
    mean = float(finite.mean()) if len(finite) else float("nan")
    return {"return": mean, "ci95": half_width(finite)}


def _median(samples: Array) -> float:
    return float(np.median(samples)) if len(samples) else float("nan")


def t_quantile(samples: int) -> float:
    """Half-widths of 95 % intervals of a mean are so many of its standard errors (Student's t)."""
    return float(stdtrit(samples - 1, 0.975))


def half_width(samples: Array) -> float:
    """Half-width of the 95 % confidence interval of the mean, Student's t; 0 for one sample."""
    n = len(samples)
    if n < 2:
        return 0.0
    return float(t_quantile(n) * np.std(samples, ddof=1) / np.sqrt(n))
