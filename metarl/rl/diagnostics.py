"""Metrics of a meta-update besides the statistics of its outer step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.params import Params, tree_map
from metarl.rl.losses import Policy, Transitions
from metarl.rl.returns import masked_mean
from metarl.rl.rollout import Trajectories
from metarl.runtime.scores import half_width

KL_STRIDE = 10  # of env steps, whose KL is a diagnostic and should cost little


class Sampled(NamedTuple):
    """One round of sampling with every task's own policy."""

    phi: Params  # [M, ...], the policies
    trajectories: Trajectories
    batch: Transitions  # the trajectories with advantages, as losses see them
    explained_variance: Tensor  # [M], in-sample, of the baseline

    def outcome(self) -> "Outcome":
        """Return the metrics of this round."""
        of = self.trajectories
        statistics = of.sampling.statistics() | {"entropy": of.sampling.entropy()}
        means = {name: torch.func.vmap(masked_mean)(x, of.mask) for name, x in statistics.items()}
        return Outcome(
            of.returns, of.lengths, of.diverged, of.success, means, self.explained_variance
        )


class Outcome(NamedTuple):
    """Metrics of one round of sampling."""

    returns: Tensor  # [M, N], undiscounted; NaN for diverged episodes
    lengths: Tensor  # [M, N], env steps
    diverged: Tensor  # [M, N], 1 where the simulation broke
    success: Tensor  # [M, N], 1 or 0; NaN where that is not defined
    policy: dict[str, Tensor]  # [M] each, mean statistics of the action distributions
    explained_variance: Tensor  # [M]

    def mean_returns(self) -> NDArray[np.float64]:
        """Return the mean return of every task, [M]; NaN where all of its episodes diverged."""
        means: NDArray[np.float64] = self.returns.double().nanmean(1).cpu().numpy()
        return means


def sampling_metrics(rounds: Sequence[Outcome]) -> dict[str, float]:
    """Return the metrics before the first and after the last inner step.

    ``return/gain`` is the mean over tasks of the difference, with its 95 % interval. Where there
    are more inner steps than one, ``return/after_K`` is the mean return after K of them.
    """
    first, last = rounds[0], rounds[-1]
    means = [r.mean_returns() for r in rounds]
    gain = means[-1] - means[0]
    gain = gain[np.isfinite(gain)]
    between = {f"return/after_{k}": _mean(mean) for k, mean in enumerate(means)}
    return {
        **return_metrics(first, "before"),
        **return_metrics(last, "after"),
        "return/gain": _mean(gain),
        "return/gain_ci95": half_width(gain),
        **(between if len(rounds) > 2 else {}),
        "episodes/diverged": float(sum(r.diverged.sum() for r in rounds)),
        **{
            f"policy/{name}": float(masked_mean(x, first.lengths.sum(1)))
            for name, x in first.policy.items()
        },
        "policy/entropy_after": float(masked_mean(last.policy["entropy"], last.lengths.sum(1))),
        "baseline/explained_variance_before": float(first.explained_variance.mean()),
        "baseline/explained_variance_after": float(last.explained_variance.mean()),
    }


def return_metrics(outcome: Outcome, suffix: str) -> dict[str, float]:
    """Undiscounted returns and episode lengths as metrics named ``.../{suffix}``.

    The mean and the 95 % interval (half-width, Student's t) are over the means of the tasks, the
    standard deviation over all trajectories. Diverged episodes are left out; NaN if none is left.
    The rate of success is there where the family defines it.
    """
    per_task = outcome.mean_returns()
    per_task = per_task[np.isfinite(per_task)]
    returns = outcome.returns[~outcome.diverged.bool()].double()
    return {
        f"return/{suffix}": _mean(per_task),
        f"return/{suffix}_std": float(returns.std(unbiased=False))
        if len(returns)
        else float("nan"),
        f"return/{suffix}_ci95": half_width(per_task),
        f"length/{suffix}": float(outcome.lengths.mean()),
        **(
            {} if outcome.success.isnan().all() else {f"success/{suffix}": success(outcome.success)}
        ),
    }


def success(flags: Tensor) -> float:
    """Return the share of episodes [M, N] that succeed among those where it is defined."""
    return float(flags.double().nanmean())


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the finite values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


@torch.no_grad()
def inner_kl(policy: Policy, phi: Params, support: Transitions) -> Tensor:
    """Return the mean KL of the sampling policies from adapted ones, [M].

    Args:
        policy: function of parameters and observations to distributions.
        phi: parameters [M, ...] after the inner step.
        support: the env steps [M, S] that it was made from; every tenth is looked at.
    """
    some = tree_map(lambda x: x[:, ::KL_STRIDE], support)
    distribution = torch.func.vmap(policy)(phi, some.observations)
    return torch.func.vmap(masked_mean)(some.sampling.kl(distribution), some.mask)


class Clock:
    """Wall-clock seconds of an iteration's parts."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._start = time.perf_counter()
        self._seconds = {"sampling": 0.0, "adaptation": 0.0, "update": 0.0}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - start

    def metrics(self, env_steps: int) -> dict[str, float]:
        """Seconds by part and of the whole, and env steps per second of sampling."""
        return {
            **{f"seconds/{part}": seconds for part, seconds in self._seconds.items()},
            "seconds/iteration": time.perf_counter() - self._start,
            "env_steps_per_second": env_steps / self._seconds["sampling"],
        }
