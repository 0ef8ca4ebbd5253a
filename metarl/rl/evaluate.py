"""Evaluate policies as the papers do: adapt to held-out tasks, score fresh trajectories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, NamedTuple, Protocol

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.outer.step import State
from metarl.core.params import Params
from metarl.core.processes import Processes
from metarl.rl.adaptation import Adaptation
from metarl.rl.diagnostics import Sampled
from metarl.rl.rollout import Trajectories
from metarl.rl.sampler import Stream, Watch
from metarl.runtime.paths import PathText
from metarl.runtime.record import Row, TaskScoresRecord
from metarl.runtime.scores import Evaluation, EvaluationConfig, paired_differences
from metarl.runtime.seeding import Purpose, generator

RECORDED_TASKS = 3
RECORDED_TRAJECTORIES = 8


Array = NDArray[np.floating]


@dataclass(frozen=True)
class PolicyEvaluationConfig(EvaluationConfig):
    """How a policy is evaluated.

    Args:
        task_file: JSON or CSV file of held-out tasks, a path or a name from configs/tasks; null:
            draw evaluation.tasks tasks.
        trajectories: trajectories per task and inner step; null: as many as in training.
        mean_actions: score episodes of the policy's mean actions; adaptation still samples.
    """

    task_file: PathText | None = None
    trajectories: Annotated[int, Gt(0)] | None = None
    mean_actions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task_file == "":
            raise ValueError("evaluation.task_file should name a file, or be null")

    def rates_from(self, alpha: float) -> list[float]:
        """alpha, then alpha / 2 (Finn et al. 2017, appendix A.2)."""
        return [alpha if k == 0 else alpha / 2 for k in range(self.inner_steps)]


class RecordedRollouts(NamedTuple):
    """Recorded episodes: the first N' of the first M' held-out tasks after 0, 1, ... inner steps.

    The scores include these episodes.
    """

    qpos: Array  # [steps + 1, M', N', T + 1, nq], generalised coordinates, initial state first
    rewards: Array  # [steps + 1, M', N', T]
    lengths: NDArray[np.integer]  # [steps + 1, M', N'], env steps; what follows them is padding

    def fits(self, moments: int, tasks: int) -> bool:
        """Return whether the arrays have their shapes, for ``moments`` = steps + 1 and M tasks."""
        shape, kinds = self.qpos.shape, [array.dtype.kind for array in self]
        return (
            self.qpos.ndim == 5
            and shape[0] == moments
            and 0 < shape[1] <= tasks
            and shape[2] > 0
            and self.rewards.shape == (*shape[:3], shape[3] - 1)
            and self.lengths.shape == shape[:3]
            and kinds == ["f", "f", "i"]
            and bool(((self.lengths >= 0) & (self.lengths < shape[3])).all())
        )


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation(Evaluation):
    """Mean undiscounted returns of one policy; NaN where all of a task's episodes diverged.

    Args:
        lengths: mean episode length, [steps + 1, M].
        trajectories: per task and inner step.
        mean_actions: whether the scored actions are the policy's mean ones.
        success: share of episodes that solve the task, [steps + 1, M]; None: that is not defined.
    """

    lengths: Array
    trajectories: int
    mean_actions: bool = False
    success: Array | None = None

    def rows(self) -> list[Row]:
        rates = None if self.success is None else self.success.mean(1).tolist()
        return [
            replace(row, length=float(length), success=rates[row.inner_steps] if rates else None)
            for row, length in zip(super().rows(), self.lengths.mean(1), strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Return the rows as flat metrics, and the gain of every inner step with its interval."""
        metrics = super().metrics()
        if len(self.scores) == 1:
            return metrics
        for gain in paired_differences(self.scores[:1], self.scores[1:]):
            step = gain.inner_steps + 1
            metrics |= {
                f"evaluation/gain_{step}": gain.mean,
                f"evaluation/gain_ci95_{step}": gain.ci95,
            }
        return metrics

    def record(self) -> TaskScoresRecord:
        return replace(
            super().record(),
            trajectories=self.trajectories,
            actions="mean" if self.mean_actions else "sampled",
            lengths=self.lengths.tolist(),
            success=None if self.success is None else self.success.tolist(),
        )


class Tasks(Protocol):
    """The part of a task family that a learner needs."""

    @property
    def task_fields(self) -> Sequence[str]: ...
    def sample_tasks(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]: ...


@dataclass
class Recorder:
    """Keeps the positions of the first few simulations of every round; a ``Watch``."""

    tasks: int = RECORDED_TASKS
    frames: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)

    def __call__(self, inner_step: int, qpos: NDArray[np.float64]) -> None:
        frame = qpos[: self.tasks, :RECORDED_TRAJECTORIES].copy()
        self.frames.setdefault(inner_step, []).append(frame)

    def episodes(self, rounds: Sequence[Trajectories]) -> RecordedRollouts:
        """Return the recorded episodes, with their rewards and lengths from ``rounds``."""
        horizon = rounds[0].rewards.shape[-1]
        first = slice(self.tasks), slice(RECORDED_TRAJECTORIES)
        arrays = [
            np.stack(frames + [frames[-1]] * (horizon + 1 - len(frames)), axis=2)
            for _, frames in sorted(self.frames.items())
        ]
        return RecordedRollouts(
            qpos=np.stack(arrays).astype(np.float32),
            rewards=torch.stack([r.rewards[first] for r in rounds]).float().cpu().numpy(),
            lengths=torch.stack([r.lengths[first] for r in rounds]).long().cpu().numpy(),
        )


@dataclass(frozen=True)
class PolicyEvaluator:
    """Scores after 0, 1, ... inner steps on seeded held-out tasks (Finn et al. 2017, appendix A.2).

    Every inner step adapts on fresh trajectories, and those after the last one are fresh too.

    Args:
        config: its settings.
        family: the distribution that held-out tasks are drawn from.
        adaptation: the inner loop.
        alpha: the trained inner rate.
        trajectories: per task and inner step, where the config does not say.
        held_out: the held-out tasks, [M, task_dim]; None: ``config.tasks`` drawn ones.
    """

    config: PolicyEvaluationConfig
    family: Tasks
    adaptation: Adaptation
    alpha: float
    trajectories: int
    held_out: NDArray[np.float64] | None = None

    @property
    def processes(self) -> Processes:
        return self.adaptation.task_map.processes

    def run(self, meta: Params, baseline_state: State = ()) -> PolicyEvaluation:
        """Return the scores of the meta-parameters; nothing changes."""
        config = self.config
        sample = partial(self._sample_and_adapt, meta, baseline_state)
        alpha, validation = config.choose_rate(self.alpha, partial(self._validate, sample))
        tasks = self.held_out
        if tasks is None:
            tasks = self._draw_tasks(Purpose.EVALUATION_TASKS)
        share, stream = self._share_of(tasks, Purpose.EVALUATION_ROLLOUT)
        recorder = Recorder(max(0, RECORDED_TASKS - stream.first_task))
        watch = None if config.mean_actions else recorder
        samples = sample(share, alpha, stream, watch)
        rounds = [s.trajectories for s in samples]
        if config.mean_actions:
            stream = stream._replace(purpose=Purpose.MEAN_ACTION_ROLLOUT)
            rounds = self.adaptation.mean_action_trajectories(samples, share, stream, recorder)
        success = self._of_all([r.success.nanmean(1) for r in rounds])
        return PolicyEvaluation(
            measure="return",
            tasks=tasks,
            task_fields=self.family.task_fields,
            scores=self._of_all([r.returns.nanmean(1) for r in rounds]),
            lengths=self._of_all([r.lengths.mean(1) for r in rounds]),
            diverged=self._of_all([r.diverged.sum(1) for r in rounds]).sum(1),
            inner_rates=config.rates(alpha),
            trajectories=self._trajectories,
            mean_actions=config.mean_actions,
            success=None if np.isnan(success).any() else success,
            validation=validation,
            episodes=self._recordings(recorder, rounds),
        )

    @property
    def _trajectories(self) -> int:
        return self.config.trajectories or self.trajectories

    def _sample_and_adapt(
        self,
        meta: Params,
        baseline_state: State,
        tasks: NDArray[np.float64],
        alpha: float,
        stream: Stream,
        watch: Watch | None = None,
    ) -> list[Sampled]:
        rates = self.config.rates(alpha)
        rounds, _ = self.adaptation.sample_and_adapt(
            meta, tasks, rates, self._trajectories, stream, baseline_state, watch
        )
        return rounds

    def _validate(self, sample: Callable[..., list[Sampled]], alpha: float) -> float:
        """Mean return over validation tasks and inner steps from the first on."""
        tasks = self._draw_tasks(Purpose.VALIDATION_TASKS)
        share, stream = self._share_of(tasks, Purpose.VALIDATION_ROLLOUT)
        rounds = sample(share, alpha, stream)
        return float(self._of_all([r.trajectories.returns.mean(1) for r in rounds[1:]]).mean())

    def _draw_tasks(self, purpose: Purpose) -> NDArray[np.float64]:
        """Draw as many tasks of the family as the config says, [M, task_dim]."""
        return self.family.sample_tasks(generator(self.config.seed, purpose), self.config.tasks)

    def _share_of(
        self, tasks: NDArray[np.float64], rollout: Purpose
    ) -> tuple[NDArray[np.float64], Stream]:
        """The tasks of this process, and the random numbers to sample them with."""
        share = self.processes.share(len(tasks))
        stream = Stream(self.config.seed, rollout, first_task=share.start)
        return tasks[share.start : share.stop], stream

    def _of_all(self, per_task: Sequence[Tensor]) -> Array:
        """Values [m] of this process's tasks after every inner step, as [steps + 1, M] of all."""
        columns: Array = self.processes.gather(torch.stack([*per_task], 1).double()).cpu().numpy()
        return columns.T

    def _recordings(self, recorder: Recorder, rounds: Sequence[Trajectories]) -> RecordedRollouts:
        """Return the recordings of the first tasks of all processes."""
        by_task = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in recorder.episodes(rounds)]
        of_all = self.processes.gather([torch.from_numpy(x) for x in by_task])
        return RecordedRollouts(*(x.numpy().swapaxes(0, 1) for x in of_all))
