"""Sample, adapt, sample again: the inner loop of policies, in training and in evaluations alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.core.adapt import Rates
from metarl.core.inner_loop import InnerLoop
from metarl.core.outer.step import State
from metarl.core.params import Params
from metarl.core.task_map import TaskMap
from metarl.rl.baselines import Baseline
from metarl.rl.diagnostics import Clock, Sampled
from metarl.rl.losses import Transitions
from metarl.rl.rollout import AdvantageConfig, Trajectories, make_batch
from metarl.rl.sampler import Sampler, Stream, Watch

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Adaptation:
    """Adapts the policy to tasks, on fresh trajectories for every inner step.

    Args:
        inner: the inner loop of one task.
        advantage: how rewards become advantages.
        baseline: the values that advantages are measured against.
        sampler: collects trajectories.
        task_map: evaluates per-task functions over the tasks of this process.
        baseline_state: of the baseline, before the first iteration.
        clock: times sampling and adaptation.
    """

    inner: InnerLoop
    advantage: AdvantageConfig
    baseline: Baseline
    sampler: Sampler
    task_map: TaskMap
    baseline_state: State = ()
    clock: Clock = field(default_factory=Clock)

    def sample_and_adapt(
        self,
        meta: Params,
        tasks: Array,
        alphas: Sequence[float],
        trajectories: int,
        stream: Stream,
        baseline_state: State = (),
        watch: Watch | None = None,
    ) -> tuple[list[Sampled], State]:
        """Sample with theta, adapt every task, sample with phi, and so on.

        Args:
            meta: the meta-parameters.
            tasks: [M, task_dim].
            alphas: inner rate of every inner step.
            trajectories: N.
            stream: random numbers.
            watch: sees the simulations' states.

        Returns:
            One round more than inner steps: support data first, query data last; and the new state
            of the baseline.
        """
        theta, rates = self.inner.split(meta, alphas)
        phi, state = of_every_task(theta, len(tasks)), baseline_state
        samples, state = self._sample(phi, tasks, trajectories, stream, state, watch)
        rounds = [samples]
        for k, rate in enumerate(rates, start=1):
            phi = self.step(phi, rate, rounds[-1].batch)
            stream = stream._replace(inner_step=k)
            samples, state = self._sample(phi, tasks, trajectories, stream, state, watch)
            rounds.append(samples)
        return rounds, state

    def mean_action_trajectories(
        self, rounds: Sequence[Sampled], tasks: Array, stream: Stream, watch: Watch | None = None
    ) -> list[Trajectories]:
        """Sample as many trajectories again with the mean actions of every round's policies."""
        return [
            self.sampler.collect(
                r.phi,
                tasks,
                r.trajectories.mask.shape[1],
                stream._replace(inner_step=k),
                mean_actions=True,
                watch=watch,
            )
            for k, r in enumerate(rounds)
        ]

    def _sample(
        self,
        phi: Params,
        tasks: Array,
        trajectories: int,
        stream: Stream,
        state: State,
        watch: Watch | None,
    ) -> tuple[Sampled, State]:
        """Trajectories of every task's own policy, with advantages."""
        with self.clock("sampling"):
            samples = self.sampler.collect(phi, tasks, trajectories, stream, watch=watch)
        with self.clock("adaptation"):
            batch, explained_variance, state = make_batch(
                samples, self.advantage, self.baseline, state, self.task_map
            )
        return Sampled(phi, samples, batch, explained_variance), state

    def step(self, phi: Params, rate: Rates, support: Transitions) -> Params:
        """One inner step of every task, [M, ...] -> [M, ...]; no graph."""
        with self.clock("adaptation"):
            # Tensors, so that they are no constants of a program.
            rates = {
                name: torch.as_tensor(alpha, dtype=phi[name].dtype, device=phi[name].device)
                for name, alpha in rate.items()
            }
            data = phi, of_every_task(rates, len(support.mask)), support
            return cast(Params, self.task_map.map(self._step_of_task, data, recurring=True))

    def _step_of_task(self, task: tuple[Params, Params, Transitions]) -> Params:
        """One inner step from (phi, inner rates, support data)."""
        phi, rate, support = task
        return self.inner.step(phi, rate, support)


def of_every_task(params: Params, tasks: int) -> Params:
    """Repeat parameters for every task, [M, ...], in the memory layout of adapted ones."""
    return {name: p.expand(tasks, *p.shape).contiguous() for name, p in params.items()}
