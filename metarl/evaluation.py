"""How well a policy adapts: scores after every inner step on held-out tasks, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy import stats


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
        inner_rates: inner rate of every inner step; null: the trained rate alpha first, alpha / 2
            after it.
        seed: of the held-out tasks and their noise; equal seeds give identical tasks to all runs.
        every: also evaluate after every so many iterations; 0: only at the end.
        published: published numbers of the same setting.
    """

    tasks: Annotated[int, Gt(0)] = 40
    trajectories: Annotated[int, Gt(0)] | None = None
    inner_steps: Annotated[int, Ge(0)] = 3
    inner_rates: list[Annotated[float, Gt(0)]] | None = None
    seed: Annotated[int, Ge(0)] = 0
    every: Annotated[int, Ge(0)] = 0
    published: PublishedConfig = field(default_factory=PublishedConfig)

    def __post_init__(self) -> None:
        if self.inner_rates is not None and len(self.inner_rates) < self.inner_steps:
            raise ValueError(
                f"evaluation.inner_rates has {len(self.inner_rates)} entries "
                f"for {self.inner_steps} inner steps"
            )

    def rates(self, alpha: float) -> list[float]:
        """Inner rate of every inner step (Finn et al. 2017, appendix A.2)."""
        if self.inner_rates is not None:
            return self.inner_rates[: self.inner_steps]
        return [alpha if k == 0 else alpha / 2 for k in range(self.inner_steps)]


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
    """

    tasks: NDArray[np.float64]
    task_fields: Sequence[str]
    returns: NDArray[np.float64]
    lengths: NDArray[np.float64]
    diverged: NDArray[np.float64]
    inner_rates: Sequence[float]
    trajectories: int

    def rows(self) -> list[dict[str, float]]:
        """One row per inner step: mean, 95 % interval (half-width over tasks), median, lengths."""
        return [
            {
                "inner_steps": k,
                "return": float(np.nanmean(per_task)),
                "ci95": half_width(per_task[np.isfinite(per_task)]),
                "median": float(np.nanmedian(per_task)),
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
        """Everything, as plain lists and numbers; what is not finite is null."""
        result = {
            "rows": self.rows(),
            "interval": "95 %, Student's t over tasks, half-width",
            "inner_rates": list(self.inner_rates),
            "trajectories": self.trajectories,
            "task_fields": list(self.task_fields),
            "tasks": self.tasks.tolist(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }
        return {key: _finite(value) for key, value in result.items()}


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def half_width(samples: NDArray[np.floating]) -> float:
    """Half-width of the 95 % confidence interval of the mean, Student's t; 0 for one sample."""
    n = len(samples)
    if n < 2:
        return 0.0
    return float(stats.t.ppf(0.975, n - 1) * np.std(samples, ddof=1) / np.sqrt(n))
