"""The papers' protocol of evaluation: adapt to held-out tasks, score fresh trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.errors import warn
from metarl.evaluation import Episodes, Evaluation, EvaluationConfig
from metarl.rl.diagnostics import Sampled
from metarl.rl.rollout import Trajectories
from metarl.rl.sampler import Stream, Watch
from metarl.seeding import Purpose, generator

RECORDED_TASKS = 3
RECORDED_TRAJECTORIES = 8


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

    config: EvaluationConfig
    family: Tasks
    alpha: float
    trajectories: int

    def run(self, adapter: Adapter) -> Evaluation:
        """The scores; the adapter stays as it is."""
        config = self.config
        validation = self._validation(adapter)
        alpha = max(validation, key=lambda a: (validation[a], -a)) if validation else self.alpha
        if validation and not np.isfinite(validation[alpha]):
            warn(f"every candidate rate breaks the simulation; the smallest, {alpha:g}, is used")
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
        return Evaluation(
            tasks=tasks,
            task_fields=self.family.task_fields,
            returns=_numpy([r.returns.nanmean(1) for r in rounds]),
            lengths=_numpy([r.lengths.mean(1) for r in rounds]),
            diverged=_numpy([r.diverged.sum() for r in rounds]),
            inner_rates=config.rates(alpha),
            trajectories=trajectories,
            mean_actions=config.mean_actions,
            validation=validation,
            episodes=recorder.episodes(rounds),
        )

    def _validation(self, adapter: Adapter) -> dict[float, float]:
        """Mean return over validation tasks and inner steps from the first on, by candidate."""
        config = self.config
        if not config.candidate_rates or not config.inner_steps:
            return {}
        tasks = self._tasks(Purpose.VALIDATION_TASKS)
        trajectories = config.trajectories or self.trajectories
        stream = Stream(config.seed, Purpose.VALIDATION_ROLLOUT)
        scores = {}
        for alpha in config.candidate_rates:
            rounds = adapter.adapt_and_sample(tasks, config.rates(alpha), trajectories, stream)
            returns = torch.stack([r.trajectories.returns for r in rounds[1:]])
            # A rate that breaks the simulation is none to choose.
            score = float(returns.double().mean())
            scores[alpha] = score if np.isfinite(score) else float("-inf")
        return scores

    def _tasks(self, purpose: Purpose) -> NDArray[np.float64]:
        return self.family.sample_tasks(generator(self.config.seed, purpose), self.config.tasks)


def _numpy(rows: Sequence[Tensor]) -> Any:
    return torch.stack(list(rows)).double().cpu().numpy()
