"""Meta-reinforcement learning: algorithm 3 of Finn et al. 2017 with any outer step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from metarl.core.algorithms import InnerConfig, split_rates
from metarl.core.outer.schedule import is_due
from metarl.core.outer.step import Objective, OuterStep, State
from metarl.core.params import (
    Functional,
    Params,
    flatten,
    like_tree,
    plain_tree,
    require_like,
    tree_map,
    unflatten,
)
from metarl.core.processes import Processes
from metarl.rl.adaptation import Adaptation
from metarl.rl.diagnostics import Clock, Sampled, inner_kl, sampling_metrics
from metarl.rl.evaluate import PolicyEvaluation, PolicyEvaluator, Tasks
from metarl.rl.losses import Transitions
from metarl.rl.objective import OuterObjective
from metarl.rl.rollout import AdvantageConfig
from metarl.rl.sampler import Stream
from metarl.rl.step_diagnosis import diagnosis
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose, generator

TOLERANCE = 1e-3  # of the surrogate and the KL before the update, which are 0


@dataclass(frozen=True)
class PolicyInnerConfig(InnerConfig):
    """The inner loop of policies.

    Args:
        algorithm: see metarl list algorithms.
        loss: policy-gradient estimator of the inner loss: reinforce, lvc, dice, loaded-dice, or
            package.module:Name.
        dice_lambda: of loaded-dice: 0 is lvc, 1 is dice, between them bias and variance trade.
    """

    algorithm: Literal["maml", "fomaml", "anil", "boil", "cavia", "meta-sgd"] = "maml"
    loss: str = "reinforce"
    dice_lambda: Annotated[float, Interval(ge=0, le=1)] = 0.95


@dataclass(frozen=True)
class LearnerConfig:
    """The settings that one meta-update depends on.

    Args:
        tasks: M, tasks per iteration.
        trajectories: N, trajectories per task and inner step; the paper's K.
        inner: the inner loop.
        advantage: how rewards become advantages.
        baseline: what they are measured against, ``name: NAME``, and any of its settings.
        outer: the outer step, ``name: NAME``, and any of its settings.
        diagnose_every: iterations between measurements of how much of an outer step is noise, on as
            many env steps again that nothing else uses; 0: never.
        exploration: factor on E-MAML's term in the outer loss, which credits the policy before
            adaptation with the rewards after it (Stadie et al. 2018); 0: none, 1: the paper's.
    """

    tasks: Annotated[int, Ge(1)] = 20
    trajectories: Annotated[int, Ge(1)] = 20
    inner: PolicyInnerConfig = field(default_factory=PolicyInnerConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    baseline: dict[str, Any] = field(default_factory=lambda: {"name": "linear"})
    outer: dict[str, Any] = field(default_factory=lambda: {"name": "trpo"})
    exploration: Annotated[float, Ge(0)] = 0.0
    diagnose_every: Annotated[int, Ge(0)] = 0


class MetaRLLearner:
    """Owns the meta-parameters and improves them once per iteration.

    Args:
        config: settings of the meta-update.
        family: the task distribution.
        adaptation: the inner loop in training; evaluations bring their own.
        outer: the outer step.
        meta: initial meta-parameters: theta, and learned rates if the algorithm has them.
        evaluation: how the policy is evaluated.
        seed: root of all random numbers.
    """

    def __init__(
        self,
        config: LearnerConfig,
        family: Tasks,
        adaptation: Adaptation,
        outer: OuterStep,
        meta: Params,
        evaluation: PolicyEvaluator,
        seed: int,
    ):
        self.config = config
        self.adaptation = adaptation
        self.outer = outer
        self.meta = meta
        self.outer_state = outer.init(flatten(self.meta))
        self.baseline_state = adaptation.baseline_state
        self.env_steps = 0
        self.rejected_updates = 0
        self._objective = OuterObjective(
            adaptation.sampler.policy, adaptation.inner, adaptation.task_map, config.exploration
        )
        self.family = family
        self.evaluator = evaluation
        self._seed = seed
        self._is_checked = False

    # --- the paper's algorithm box, top to bottom

    def iterate(self, iteration: int) -> dict[str, float]:
        """One meta-update (Finn et al. 2017, algorithm 3); returns its metrics."""
        self.clock.start()
        rounds, self.baseline_state = self.sample(iteration)
        support, query = [r.batch for r in rounds[:-1]], rounds[-1].batch
        inner = self._inner_metrics(rounds)
        with self.clock("update"):
            objective = self.objective(support, query, iteration)
            self._require_policy_fits_its_samples(objective)
            theta, state, stats = self.outer.step(objective, flatten(self.meta), self.outer_state)
            self._require_still_finite(theta, iteration)
            theta, self.outer_state = tree_map(self.processes.leading, (theta, state))
        metrics = self._metrics(rounds, inner, stats)
        if is_due(iteration, self.config.diagnose_every):
            metrics |= self._diagnosis(theta, rounds, iteration)
        self.meta = {name: p.clone() for name, p in unflatten(theta, self.meta).items()}
        return metrics

    def sample(
        self,
        iteration: int,
        tasks_for: Purpose = Purpose.TRAIN_TASKS,
        rollout_for: Purpose = Purpose.TRAIN_ROLLOUT,
    ) -> tuple[list[Sampled], State]:
        """Draw tasks; sample with theta, adapt, sample with phi.

        Returns:
            The rounds, query data last, and the new state of the baseline.
        """
        config = self.config
        tasks = self.family.sample_tasks(generator(self._seed, tasks_for, iteration), config.tasks)
        share = self.processes.share(config.tasks)
        stream = Stream(self._seed, rollout_for, iteration, first_task=share.start)
        return self.adaptation.sample_and_adapt(
            self.meta,
            tasks[share.start : share.stop],
            config.inner.alphas,
            config.trajectories,
            stream,
            self.baseline_state,
        )

    def objective(
        self, support: Sequence[Transitions], query: Transitions, iteration: int = 0
    ) -> Objective:
        """Return the outer step's objective, over the flat meta-parameters [P]."""
        return self._objective.of(self.meta, support, query, iteration)

    # --- its parts

    @property
    def processes(self) -> Processes:
        return self.adaptation.task_map.processes

    @property
    def clock(self) -> Clock:
        return self.adaptation.clock

    def _require_policy_fits_its_samples(self, objective: Objective) -> None:
        """Raise UserError unless surrogate and KL are 0: the policy is the one that sampled.

        Once a session: the surrogate is minus the mean of standardised advantages.
        """
        if self._is_checked:
            return
        self._is_checked = True
        loss, kl = objective.loss_and_kl(flatten(self.meta)).tolist()
        if abs(loss) > TOLERANCE or abs(kl) > TOLERANCE:
            raise UserError(
                f"the policy is not the one that sampled: before the update the surrogate is "
                f"{loss:.3g} and the KL {kl:.3g}, which should both be 0; check that the policy "
                "draws no random numbers, treats every observation on its own, and that its "
                "distribution's log_prob fits its sample"
            )

    def _require_still_finite(self, theta: Tensor, iteration: int) -> None:
        """Raise UserError where an outer step lost a theta that was finite."""
        if torch.isfinite(flatten(self.meta)).all() and not torch.isfinite(theta).all():
            name = type(self.outer).__name__
            raise UserError(f"iteration {iteration}: {name} gave parameters that are not finite")

    def _metrics(
        self, rounds: Sequence[Sampled], inner: Mapping[str, float], stats: Mapping[str, Any]
    ) -> dict[str, float]:
        outcomes = self.processes.gather([r.outcome() for r in rounds])
        env_steps = int(sum(o.lengths.sum() for o in outcomes))
        self.env_steps += env_steps
        self.rejected_updates += int(not stats.get("accepted", True))
        return {
            **sampling_metrics(outcomes),
            **inner,
            **{f"outer/{name}": float(value) for name, value in stats.items()},
            "outer/rejected_total": float(self.rejected_updates),
            "env_steps": float(self.env_steps),
            **self.clock.metrics(env_steps),
        }

    def _diagnosis(
        self, new: Tensor, rounds: Sequence[Sampled], iteration: int
    ) -> dict[str, float]:
        """Return metrics of the step from theta to ``new`` [P], see ``diagnosis``."""
        fresh, _ = self.sample(iteration, Purpose.DIAGNOSIS_TASKS, Purpose.DIAGNOSIS_ROLLOUT)
        metrics = diagnosis(
            self.outer,
            lambda data: self.objective(data[:-1], data[-1], iteration),
            flatten(self.meta),
            new,
            [r.batch for r in rounds],
            [r.batch for r in fresh],
            self.processes.share(self.config.tasks).start,
        )
        return {f"diagnosis/{name}": value for name, value in metrics.items()}

    def _inner_metrics(self, rounds: Sequence[Sampled]) -> dict[str, float]:
        """Return metrics of the first inner step, means over tasks, and the learned inner rates.

        The gradient's norm is recovered from the step; the KL is that of phi from theta.
        """
        rate_metrics = {
            f"inner/rate/{name}": float(rate.mean())
            for name, rate in split_rates(self.meta)[1].items()
        }
        if len(rounds) == 1:
            return rate_metrics
        theta, phi = rounds[0].phi, rounds[1].phi
        _, (rate,) = self.adaptation.inner.split(self.meta, self.config.inner.alphas[:1])
        gradients = [(theta[n] - phi[n]) / rate[n] for n in rate]
        squares = sum(g.flatten(1).square().sum(1) for g in gradients)
        kl = inner_kl(self.adaptation.sampler.policy, phi, rounds[0].batch)
        values = self.processes.gather((torch.as_tensor(squares).sqrt(), kl))
        return {
            "inner/gradient_norm": float(values[0].mean()),
            "inner/kl": float(values[1].mean()),
            **rate_metrics,
        }

    # --- for the trainer

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the score of an iteration; higher is better."""
        return metrics["return/after"]

    def evaluate(self, iteration: int) -> PolicyEvaluation:
        """Adapt to the held-out tasks, which are the same at every call; theta stays as it is."""
        return self.evaluator.run(self.evaluated_meta, self.baseline_state)

    @property
    def network(self) -> Functional:
        """The policy as a function of its parameters."""
        policy = self.adaptation.sampler.policy
        assert isinstance(policy, Functional)
        return policy

    @property
    def evaluated_meta(self) -> Params:
        """The meta-parameters that evaluations use: theta, or the outer step's average of it."""
        vector = self.outer.evaluated(flatten(self.meta), self.outer_state)
        return unflatten(vector, self.meta)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs besides its settings."""
        return {
            "meta": {name: p.cpu() for name, p in self.meta.items()},
            "outer": plain_tree(self.outer_state),
            "baseline": plain_tree(self.baseline_state),
            "env_steps": self.env_steps,
            "rejected_updates": self.rejected_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise ValueError when the parameters are not those of this policy."""
        require_like(state["meta"], self.meta)
        outer = like_tree(state["outer"], self.outer_state)
        baseline = like_tree(state["baseline"], self.baseline_state)
        self.meta = {name: state["meta"][name].to(p) for name, p in self.meta.items()}
        self.outer_state, self.baseline_state = outer, baseline
        self.env_steps = _count(state["env_steps"])
        self.rejected_updates = _count(state["rejected_updates"])


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the checkpoint has {type(value).__name__} where a count should be")
    return value
