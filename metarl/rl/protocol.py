"""The papers' protocol of evaluation: adapt to held-out tasks, score fresh trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor

from metarl.evaluation import Evaluation, EvaluationConfig
from metarl.rl.diagnostics import Sampled
from metarl.rl.rollout import Trajectories
from metarl.rl.sampler import Stream, Watch
from metarl.seeding import Purpose, generator

RECORDED_TASKS = 3
RECORDED_TRAJECTORIES = 8


Array = NDArray[np.floating]


@dataclass(frozen=True)
class PolicyEvaluationConfig(EvaluationConfig):
    """How a policy is evaluated.

    Args:
        trajectories: trajectories per task and inner step; null: as many as in training.
        mean_actions: adapt on sampled actions, but score episodes of the policy's mean actions.
    """

    trajectories: Annotated[int, Gt(0)] | None = None
    mean_actions: bool = False

    def rates_from(self, alpha: float) -> list[float]:
        """alpha, then alpha / 2 (Finn et al. 2017, appendix A.2)."""
        return [alpha if k == 0 else alpha / 2 for k in range(self.inner_steps)]


class Episodes(NamedTuple):
    """Recorded episodes: the first N' of the first M' held-out tasks after 0, 1, ... inner steps.

    They are those that the scores count, not episodes of their own.
    """

    qpos: Array  # [steps + 1, M', N', T + 1, nq], generalised coordinates, initial state first
    rewards: Array  # [steps + 1, M', N', T]
    lengths: NDArray[np.integer]  # [steps + 1, M', N'], env steps; what follows them is padding


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation(Evaluation):
    """Mean undiscounted returns of one policy; NaN where all of a task's episodes diverged.

    Args:
        lengths: mean episode length, [steps + 1, M].
        trajectories: per task and inner step.
        mean_actions: whether the scored actions are the policy's mean ones.
    """

    lengths: Array
    trajectories: int
    mean_actions: bool = False

    def rows(self) -> list[dict[str, float]]:
        lengths = self.lengths.mean(1)
        return [
            row | {"length": float(length)}
            for row, length in zip(super().rows(), lengths, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            **super().to_json(),
            "trajectories": self.trajectories,
            "actions": "mean" if self.mean_actions else "sampled",
            "lengths": self.lengths.tolist(),
        }


class Tasks(Protocol):
    """What a learner needs of a task family."""

    @property
    def task_fields(self) -> Sequence[str]: ...
    def sample_tasks(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]: ...


class Adapter(Protocol):
    """What is evaluated."""

    def adapt_and_sample(
        self,
        tasks: NDArray[np.float64],
        alphas: Sequence[float],
        trajectories: int,
        stream: Stream,
        watch: Watch | None = None,
    ) -> list[Sampled]: ...

    def mean_action_trajectories(
        self,
        rounds: Sequence[Sampled],
        tasks: NDArray[np.float64],
        stream: Stream,
        watch: Watch | None = None,
    ) -> list[Trajectories]: ...


@dataclass
class Recorder:
    """Keeps where the first few simulations of every round were; a ``Watch``."""

    frames: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)

    def __call__(self, inner_step: int, qpos: NDArray[np.float64]) -> None:
        kept = qpos[:RECORDED_TASKS, :RECORDED_TRAJECTORIES].copy()
        self.frames.setdefault(inner_step, []).append(kept)

    def episodes(self, rounds: Sequence[Trajectories]) -> Episodes:
        """What was seen, beside what ``rounds``, which it was seen in, say of it."""
        horizon = rounds[0].rewards.shape[-1]
        first = slice(RECORDED_TASKS), slice(RECORDED_TRAJECTORIES)
        padded = [
            np.stack(frames + [frames[-1]] * (horizon + 1 - len(frames)), axis=2)
            for _, frames in sorted(self.frames.items())
        ]
        return Episodes(
            qpos=np.stack(padded).astype(np.float32),
            rewards=_numpy([r.rewards[first] for r in rounds]).astype(np.float32),
            lengths=_numpy([r.lengths[first] for r in rounds]).astype(np.int64),
        )


@dataclass(frozen=True)
class EvaluationProtocol:
    """Scores after 0, 1, ... inner steps on seeded held-out tasks (Finn et al. 2017, appendix A.2).

    Every inner step adapts on fresh trajectories, and those after the last one are fresh too.

    Args:
        config: its settings.
        family: the distribution that held-out tasks are drawn from.
        alpha: the trained inner rate.
        trajectories: per task and inner step, where the config does not say.
    """

    config: PolicyEvaluationConfig
    family: Tasks
    alpha: float
    trajectories: int

    def run(self, adapter: Adapter) -> PolicyEvaluation:
        """The scores; the adapter stays as it is."""
        config = self.config
        alpha, validation = config.choose_rate(self.alpha, partial(self._validate, adapter))
        tasks = self._tasks(Purpose.EVALUATION_TASKS)
        trajectories = config.trajectories or self.trajectories
        stream = Stream(config.seed, Purpose.EVALUATION_ROLLOUT)
        recorder = Recorder()
        watch = None if config.mean_actions else recorder
        sampled = adapter.adapt_and_sample(tasks, config.rates(alpha), trajectories, stream, watch)
        rounds = [s.trajectories for s in sampled]
        if config.mean_actions:
            stream = stream._replace(purpose=Purpose.MEAN_ACTION_ROLLOUT)
            rounds = adapter.mean_action_trajectories(sampled, tasks, stream, recorder)
        return PolicyEvaluation(
            measure="return",
            tasks=tasks,
            task_fields=self.family.task_fields,
            scores=_numpy([r.returns.nanmean(1) for r in rounds]),
            lengths=_numpy([r.lengths.mean(1) for r in rounds]),
            diverged=_numpy([r.diverged.sum() for r in rounds]),
            inner_rates=config.rates(alpha),
            trajectories=trajectories,
            mean_actions=config.mean_actions,
            validation=validation,
            episodes=recorder.episodes(rounds),
        )

    def _validate(self, adapter: Adapter, alpha: float) -> float:
        """Mean return over validation tasks and inner steps from the first on."""
        tasks = self._tasks(Purpose.VALIDATION_TASKS)
        trajectories = self.config.trajectories or self.trajectories
        stream = Stream(self.config.seed, Purpose.VALIDATION_ROLLOUT)
        rounds = adapter.adapt_and_sample(tasks, self.config.rates(alpha), trajectories, stream)
        returns = torch.stack([r.trajectories.returns for r in rounds[1:]])
        return float(returns.double().mean())

    def _tasks(self, purpose: Purpose) -> NDArray[np.float64]:
        return self.family.sample_tasks(generator(self.config.seed, purpose), self.config.tasks)


def _numpy(rows: Sequence[Tensor]) -> Any:
    return torch.stack(list(rows)).double().cpu().numpy()
