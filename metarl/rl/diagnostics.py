"""Metrics of a meta-update besides the statistics of its outer step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.core.params import Params
from metarl.rl.losses import Transitions
from metarl.rl.returns import masked_mean
from metarl.rl.rollout import Trajectories
from metarl.runtime.scores import half_width


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
        return Outcome(of.returns, of.lengths, of.diverged, means, self.explained_variance)


class Outcome(NamedTuple):
    """Metrics of one round of sampling."""

    returns: Tensor  # [M, N], undiscounted; NaN for diverged episodes
    lengths: Tensor  # [M, N], env steps
    diverged: Tensor  # [M, N], 1 where the simulation broke
    policy: dict[str, Tensor]  # [M] each, mean statistics of the action distributions
    explained_variance: Tensor  # [M]


def sampling_metrics(rounds: Sequence[Outcome]) -> dict[str, float]:
    """Return the metrics before the first and after the last inner step."""
    first, last = rounds[0], rounds[-1]
    return {
        **return_metrics(first, "before"),
        **return_metrics(last, "after"),
        "episodes/diverged": float(sum(r.diverged.sum() for r in rounds)),
        **{
            f"policy/{name}": float(masked_mean(x, first.lengths.sum(1)))
            for name, x in first.policy.items()
        },
        "baseline/explained_variance_before": float(first.explained_variance.mean()),
        "baseline/explained_variance_after": float(last.explained_variance.mean()),
    }


def return_metrics(outcome: Outcome, suffix: str) -> dict[str, float]:
    """Undiscounted returns and episode lengths as metrics named ``.../{suffix}``.

    The mean and the 95 % interval (half-width, Student's t) are over the means of the tasks, the
    standard deviation over all trajectories. Diverged episodes are left out; NaN if none is left.
    """
    per_task = outcome.returns.double().nanmean(1).cpu().numpy()
    per_task = per_task[np.isfinite(per_task)]
    returns = outcome.returns[~outcome.diverged.bool()].double()
    return {
        f"return/{suffix}": float(per_task.mean()) if len(per_task) else float("nan"),
        f"return/{suffix}_std": float(returns.std(unbiased=False))
        if len(returns)
        else float("nan"),
        f"return/{suffix}_ci95": half_width(per_task),
        f"length/{suffix}": float(outcome.lengths.mean()),
    }


class Clock:
    """Wall-clock seconds of an iteration's parts."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._started = time.perf_counter()
        self._seconds = {"sampling": 0.0, "adaptation": 0.0, "update": 0.0}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def metrics(self, env_steps: int) -> dict[str, float]:
        """Seconds by part and of the whole, and env steps per second of sampling."""
        return {
            **{f"seconds/{part}": seconds for part, seconds in self._seconds.items()},
            "seconds/iteration": time.perf_counter() - self._started,
            "env_steps_per_second": env_steps / self._seconds["sampling"],
        }
