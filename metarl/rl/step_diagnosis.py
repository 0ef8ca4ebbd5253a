"""Estimate how much of an outer step is noise: its gain on data that it was not made from."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from metarl.core.outer.curvature import dot
from metarl.core.outer.step import Objective, OuterStep
from metarl.core.params import tree_map
from metarl.rl.losses import Transitions

Rounds: TypeAlias = Sequence[Transitions]
"""The data [M, ...] of every round of sampling: support data first, query data last."""


def diagnosis(
    outer: OuterStep,
    objective: Callable[[Rounds], Objective],
    theta: Tensor,
    new: Tensor,
    rounds: Rounds,
    fresh: Rounds,
    first_task: int = 0,
) -> dict[str, float]:
    """Compare an outer step on the data that it was made from with data that it never saw.

    The cosine is that of two steps, each made from half of the tasks and without what the outer
    step keeps of earlier iterations: 1 where a step is all signal, about 0 where it is all noise.

    Args:
        outer: the outer step.
        objective: the objective on such data.
        theta, new: meta-parameters [P] before and after the step.
        rounds: the data that the step was made from.
        fresh: trajectories of other tasks, sampled with theta too.
        first_task: index of this process's first task among all tasks.

    Returns:
        Improvement of the surrogate on both, KL on fresh data (nats), and the cosine.
    """
    halves = [_every_second(rounds, (first_task + k) % 2) for k in range(2)]
    steps = [outer.step(objective(h), theta, outer.init(theta))[0] - theta for h in halves]
    lengths = [math.sqrt(dot(step, step)) for step in steps]
    own, other = objective(rounds), objective(fresh)
    loss, kl = (other.loss_and_kl(new) - other.loss_and_kl(theta)).tolist()
    gain = own.loss_and_kl(theta) - own.loss_and_kl(new)
    return {
        "improvement": float(gain[0]),
        "fresh_improvement": -loss,
        "fresh_kl": kl,
        "cosine_of_halves": dot(*steps) / math.prod(lengths) if all(lengths) else math.nan,
    }


def _every_second(rounds: Rounds, first: int) -> list[Transitions]:
    """The data of every second task."""
    return [tree_map(lambda x: x[first::2], batch) for batch in rounds]
