"""Meta-reinforcement learning: algorithm 3 of Finn et al. 2017 with a TRPO outer step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, cast

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from metarl.core.adapt import Rates, adapt
from metarl.core.algorithms import InnerAlgorithm, InnerConfig, inner_rates, split_rates
from metarl.core.outer.trust_region import Problem, trust_region_step
from metarl.core.params import Params, flatten, require_like, unflatten
from metarl.core.processes import World
from metarl.core.task_map import TaskMap
from metarl.rl.diagnostics import Clock, Sampled, sampling_metrics
from metarl.rl.evaluate import (
    EvaluationProtocol,
    PolicyEvaluation,
    PolicyEvaluationConfig,
    Tasks,
)
from metarl.rl.losses import INNER_LOSSES, Batch, Policy
from metarl.rl.objective import OuterConfig, OuterObjective
from metarl.rl.rollout import AdvantageConfig, Trajectories, make_batch, pad_to_bucket
from metarl.rl.sampler import Sampler, Stream, Watch
from metarl.runtime.seeding import Purpose, generator

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class PolicyInnerConfig(InnerConfig):
    """The inner loop of policies.

    Args:
        algorithm: a row of ``metarl.core.algorithms``.
        loss: inner policy-gradient estimator.
    """

    algorithm: Literal["maml", "fomaml", "anil", "meta-sgd"] = "maml"
    loss: Literal["reinforce", "lvc"] = "reinforce"


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that one meta-update depends on.

    Args:
        tasks: M, tasks per iteration.
        trajectories: N, trajectories per task and inner step (the paper's K).
        inner: the inner loop.
        advantage: baseline and advantages.
        outer: the outer step.
    """

    tasks: Annotated[int, Ge(1)] = 20
    trajectories: Annotated[int, Ge(1)] = 20
    inner: PolicyInnerConfig = field(default_factory=PolicyInnerConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)


class MetaRLLearner:
    """Owns the meta-parameters and turns iterations into better ones.

    Args:
        config: settings of the meta-update.
        evaluation: settings of ``evaluate``.
        family: the task distribution.
        policy: the policy as a function of its parameters.
        meta: initial meta-parameters: theta, and learned rates if the algorithm has them.
        algorithm: choices of the inner loop.
        adapted: names of the parameters that the inner loop moves.
        sampler: collects trajectories.
        task_map: evaluates per-task functions over the tasks of this process.
        world: the processes that share the tasks.
        seed: of everything random.
        held_out: held-out tasks [M, task_dim]; None: the evaluation draws them.
    """

    def __init__(
        self,
        *,
        config: LearnerConfig,
        evaluation: PolicyEvaluationConfig,
        family: Tasks,
        policy: Policy,
        meta: Params,
        algorithm: InnerAlgorithm,
        adapted: Sequence[str],
        sampler: Sampler,
        task_map: TaskMap,
        world: World,
        seed: int,
        held_out: Array | None = None,
    ):
        self.config = config
        self.meta = meta
        self.policy = policy
        self.env_steps = 0
        self.rejected_updates = 0
        self._protocol = EvaluationProtocol(
            evaluation, family, config.inner.alpha, config.trajectories, world, held_out
        )
        self._family = family
        self._algorithm = algorithm
        self._adapted = adapted
        self._inner_loss = partial(INNER_LOSSES[config.inner.loss], policy)
        self.sampler = sampler
        self._task_map = task_map
        self._max_env_steps = config.trajectories * family.horizon
        self._objective = OuterObjective(
            config.outer, policy, self.adapted_policy, task_map, self._max_env_steps
        )
        self._world = world
        self._seed = seed
        self._clock = Clock()

    # --- the paper's algorithm box, top to bottom

    def iterate(self, iteration: int) -> dict[str, float]:
        """One meta-update (Finn et al. 2017, algorithm 3); returns its metrics."""
        self._clock.start()
        config = self.config
        rng = generator(self._seed, Purpose.TRAIN_TASKS, iteration)
        tasks, share = self._family.sample_tasks(rng, config.tasks), self._world.share(config.tasks)
        stream = Stream(self._seed, Purpose.TRAIN_ROLLOUT, iteration, first_task=share.start)
        mine = tasks[share.start : share.stop]
        rounds = self.adapt_and_sample(
            mine, config.inner.alphas, config.trajectories, stream, recurring=True
        )
        inner = self._inner_metrics(rounds)
        outer = self._update(rounds[:-1], rounds[-1], iteration)

        outcomes = self._world.gather([r.outcome() for r in rounds])
        env_steps = int(sum(o.lengths.sum() for o in outcomes))
        self.env_steps += env_steps
        return {
            **sampling_metrics(outcomes),
            **inner,
            **outer,
            "env_steps": float(self.env_steps),
            **self._clock.metrics(env_steps),
        }

    def adapt_and_sample(
        self,
        tasks: Array,
        alphas: Sequence[float],
        trajectories: int,
        stream: Stream,
        watch: Watch | None = None,
        recurring: bool = False,
    ) -> list[Sampled]:
        """Sample with theta, adapt every task, sample with phi, and so on.

        Args:
            recurring: these sizes come back, iteration for iteration: programs may be compiled.

        Returns:
            One round more than inner steps: support data first, query data last.
        """
        phi = self.theta_of_every_task(len(tasks))
        rounds = [self._sample(phi, tasks, trajectories, stream, watch, recurring)]
        for k, rate in enumerate(self._rates(self.meta, alphas), start=1):
            phi = self._inner_step(phi, rate, rounds[-1].batch, recurring)
            stream = stream._replace(inner_step=k)
            rounds.append(self._sample(phi, tasks, trajectories, stream, watch, recurring))
        return rounds

    def _update(
        self, support: Sequence[Sampled], query: Sampled, iteration: int
    ) -> dict[str, float]:
        """Move theta so that the policies adapted from it do better on the query trajectories."""
        config = self.config.outer
        due = config.hvp_check_every > 0 and iteration % config.hvp_check_every == 0
        due = due and not self._algorithm.first_order
        with self._clock("update"):
            problem = self.outer_problem([s.batch for s in support], query.batch)
            if self._algorithm.first_order:
                # Its gradient takes d phi / d theta for the identity, but moving theta moves phi by
                # the true one: finite differences would mix the two into no Hessian at all.
                config = replace(config, hvp="exact")
            theta, stats = trust_region_step(problem, flatten(self.meta), config, check_hvp=due)
            theta = self._world.leading(theta)
            self.meta = {name: p.clone() for name, p in unflatten(theta, self.meta).items()}
        self.rejected_updates += int(not stats["accepted"])
        metrics = {f"outer/{name}": value for name, value in stats.items()}
        return metrics | {"outer/rejected_total": float(self.rejected_updates)}

    # --- its parts

    def _sample(
        self,
        phi: Params,
        tasks: Array,
        trajectories: int,
        stream: Stream,
        watch: Watch | None,
        recurring: bool,
    ) -> Sampled:
        """Trajectories of every task's own policy, with advantages."""
        with self._clock("sampling"):
            sampled = self.sampler.collect(
                phi, tasks, trajectories, stream, watch=watch, recurring=recurring
            )
        with self._clock("adaptation"):
            batch, explained = make_batch(sampled, self.config.advantage, self._task_map)
        return Sampled(phi, sampled, batch, explained)

    def _inner_step(self, phi: Params, rate: Rates, support: Batch, recurring: bool) -> Params:
        """One inner step of every task, [M, ...] -> [M, ...]; no graph."""
        with self._clock("adaptation"):
            if recurring and self._task_map.compiled:
                (support,) = pad_to_bucket([support], self._max_env_steps)
            # Tensors, so that they are no constants of a program.
            rates = {
                name: torch.as_tensor(alpha, dtype=phi[name].dtype, device=phi[name].device)
                for name, alpha in rate.items()
            }
            data = phi, _of_every_task(rates, len(support.mask)), support
            return cast(Params, self._task_map.map(self._step_of_task, data, recurring))

    def _step_of_task(self, task: tuple[Params, Params, Batch]) -> Params:
        """One inner step from (phi, inner rates, support data)."""
        phi, rate, support = task
        return adapt(self._inner_loss, phi, [rate], [support], first_order=True)

    def adapted_policy(
        self, meta: Params, support: Sequence[Batch], hessian_epsilon: float | None = None
    ) -> Params:
        """phi of one task as a differentiable function of the meta-parameters.

        ANIL ignores ``hessian_epsilon``: the gradient of a head alone is exact at less than what
        two of all parameters cost.
        """
        theta, _ = split_rates(meta)
        rates = self._rates(meta, self.config.inner.alphas)
        if self._algorithm.head_only:
            hessian_epsilon = None
        first_order = self._algorithm.first_order
        return adapt(self._inner_loss, theta, rates, support, first_order, hessian_epsilon)

    def outer_problem(self, support: Sequence[Batch], query: Batch) -> Problem:
        """The outer step's problem over the flat meta-parameters [P]."""
        return self._objective.problem(self.meta, support, query)

    def _rates(self, meta: Params, alphas: Sequence[float]) -> list[Rates]:
        _, learned = split_rates(meta)
        return inner_rates(self._adapted, alphas, learned, self.config.inner.rate)

    def theta_of_every_task(self, tasks: int) -> Params:
        theta, _ = split_rates(self.meta)
        return _of_every_task(theta, tasks)

    # --- what the trainer asks for

    def score(self, metrics: Mapping[str, float]) -> float:
        """How good an iteration was, higher is better."""
        return metrics["return/after"]

    def evaluate(self, iteration: int) -> PolicyEvaluation:
        """Adapt to the held-out tasks, which are the same at every call; theta stays as it is."""
        return self._protocol.run(self)

    def mean_action_trajectories(
        self, rounds: Sequence[Sampled], tasks: Array, stream: Stream, watch: Watch | None = None
    ) -> list[Trajectories]:
        """As many trajectories of the mean actions of every round's policies."""
        return [
            self.sampler.collect(
                r.phi,
                tasks,
                r.trajectories.mask.shape[1],
                stream._replace(inner_step=k),
                noise=0.0,
                watch=watch,
            )
            for k, r in enumerate(rounds)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides its settings."""
        return {
            "meta": {name: p.cpu() for name, p in self.meta.items()},
            "env_steps": self.env_steps,
            "rejected_updates": self.rejected_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the parameters are not those of this policy."""
        require_like(state["meta"], self.meta)
        self.meta = {name: state["meta"][name].to(p) for name, p in self.meta.items()}
        self.env_steps = int(state["env_steps"])
        self.rejected_updates = int(state["rejected_updates"])

    def _inner_metrics(self, rounds: Sequence[Sampled]) -> dict[str, float]:
        """Norm of the first inner gradient, recovered from its step; mean over tasks."""
        if len(rounds) == 1:
            return {}
        theta, phi = rounds[0].phi, rounds[1].phi
        (rate,) = self._rates(self.meta, self.config.inner.alphas[:1])
        gradients = [(theta[n] - phi[n]) / rate[n] for n in self._adapted]
        squares = sum(g.flatten(1).square().sum(1) for g in gradients)
        norms = self._world.gather(torch.as_tensor(squares).sqrt())
        return {"inner/gradient_norm": float(norms.mean())}


def _of_every_task(params: Params, tasks: int) -> Params:
    """The same for every task, [M, ...], in the layout of what differs: one program serves both."""
    return {name: p.expand(tasks, *p.shape).contiguous() for name, p in params.items()}
