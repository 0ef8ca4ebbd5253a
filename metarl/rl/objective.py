"""What the outer step of meta-reinforcement-learning minimises, and its trust region."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from metarl.core.outer.trust_region import Problem, TrustRegionConfig
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.rl.losses import Batch, Policy, mean_kl, surrogate_and_kl
from metarl.rl.rollout import pad_to_bucket

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


@dataclass(frozen=True)
class OuterConfig(TrustRegionConfig):
    """The outer TRPO step.

    Args:
        hvp_check_every: log the relative difference of the finite-difference and the exact
            Hessian-vector product every so many iterations; 0: never.
        curvature_fraction: fraction of the query env steps, spread over all of them, that the
            curvature is estimated from; 1 is the paper's (Schulman et al. 2015, appendix C.1, take
            a tenth too).
        inner_hessian: how the KL's gradient, where products are finite differences of it, goes
            through the inner loop, whose derivative is made of the inner loss's Hessian: by finite
            differences of the inner gradient, ``hvp_epsilon`` long, or exactly, as in the paper
            (1.3 to 1.5 times the work; FOMAML has no such Hessian, and ANIL's is always exact).
    """

    hvp_check_every: Annotated[int, Ge(0)] = 10
    curvature_fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    inner_hessian: Literal["finite-difference", "exact"] = "finite-difference"

    def __post_init__(self) -> None:
        if self.hvp_length == "proportional" and self.inner_hessian != "exact":
            raise ValueError(
                "outer.hvp_length proportional needs outer.inner_hessian exact, "
                "because outer.hvp_epsilon is then a ratio"
            )

    @property
    def inner_hessian_epsilon(self) -> float | None:
        """Length of the inner gradient's finite difference; None: exact."""
        return self.hvp_epsilon if self.inner_hessian == "finite-difference" else None


class AdaptedPolicy(Protocol):
    """phi of one task as a differentiable function of the meta-parameters and its support data."""

    def __call__(
        self, meta: Params, support: Sequence[Batch], hessian_epsilon: float | None = None
    ) -> Params:
        """``hessian_epsilon``: of finite differences for its derivative; None: exact."""


class OuterObjective:
    """Mean over tasks of the surrogate of phi(theta) on the query trajectories, subject to the mean
    KL(pi_sampling || pi_phi(theta)).

    Args:
        config: settings of the outer step.
        policy: the policy as a function of its parameters.
        adapted_policy: the inner loop of one task.
        task_map: evaluates per-task functions over the tasks of this process.
        max_env_steps: N T, the most that a task can have; where programs are compiled, data are
            padded to one of a few sizes.
    """

    def __init__(
        self,
        config: OuterConfig,
        policy: Policy,
        adapted_policy: AdaptedPolicy,
        task_map: TaskMap,
        max_env_steps: int,
    ):
        self._config = config
        self._policy = policy
        self._adapted_policy = adapted_policy
        self._task_map = task_map
        self._max_env_steps = max_env_steps

    def problem(self, like: Params, support: Sequence[Batch], query: Batch) -> Problem:
        """The outer step's problem over the flat meta-parameters [P], of the shapes of ``like``."""
        task_map = self._task_map
        if task_map.compiled:
            *support, query = pad_to_bucket([*support, query], self._max_env_steps)
        data = (tuple(support), query)
        curvature_data = (tuple(support), self.for_curvature(query))

        def loss_and_kl(theta: Tensor) -> tuple[float, float]:
            loss, kl = task_map.mean(self.surrogate_and_kl, unflatten(theta, like), data)
            return float(loss), float(kl)

        def loss_gradient(theta: Tensor) -> tuple[tuple[float, float], Tensor]:
            at = unflatten(theta, like)
            (loss, kl), gradient = task_map.mean_and_grad(self.surrogate_and_kl, at, data)
            return (float(loss), float(kl)), flatten(gradient)

        def kl_gradient(theta: Tensor) -> Tensor:
            at = unflatten(theta, like)
            return flatten(task_map.mean_and_grad(self.kl_for_products, at, curvature_data)[1])

        def kl_hvp(theta: Tensor, v: Tensor) -> Tensor:
            at, along = unflatten(theta, like), unflatten(v, like)
            return flatten(task_map.hvp(self.kl, at, curvature_data, along))

        return Problem(loss_and_kl, loss_gradient, kl_gradient, kl_hvp)

    def surrogate_and_kl(self, meta: Params, task: tuple[Sequence[Batch], Batch]) -> Tensor:
        """Of one task: surrogate and KL of the adapted policy on the query trajectories, [2]."""
        support, query = task
        return surrogate_and_kl(self._policy, self._adapted_policy(meta, support), query)

    def kl(self, meta: Params, task: tuple[Sequence[Batch], Batch]) -> Tensor:
        """Of one task: the KL alone, a scalar."""
        support, query = task
        return mean_kl(self._policy, self._adapted_policy(meta, support), query)

    def kl_for_products(self, meta: Params, task: tuple[Sequence[Batch], Batch]) -> Tensor:
        """The same KL; its gradient goes through the inner loop as ``inner_hessian`` says."""
        support, query = task
        phi = self._adapted_policy(meta, support, self._config.inner_hessian_epsilon)
        return mean_kl(self._policy, phi, query)

    def for_curvature(self, query: Batch) -> Batch:
        """The env steps of every task that the curvature is estimated from: one at a different
        place of every stretch, as equal distances would see the same moments of every trajectory.
        """
        fraction, end = self._config.curvature_fraction, query.mask.shape[1]
        if fraction == 1:
            return query
        j = torch.arange(math.ceil(fraction * end), dtype=torch.float64, device=query.mask.device)
        kept = ((j + j * GOLDEN_RATIO % 1) / fraction).long()
        # Not one where the batch happens to end: that depends on the other tasks, and on padding.
        kept = kept[kept < end]
        return tree_map(lambda x: x[:, kept], query)
