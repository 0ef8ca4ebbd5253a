"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from metarl.core.params import tree_map
from metarl.runtime.seeding import Purpose, generator
from metarl.supervised.task_data import Examples, TaskBatch, TaskData, TaskRequest

Array = NDArray[np.float32]
Interval = tuple[float, float]

BLOCK = 100  # iterations that are drawn at once: making a generator costs more than using it


@dataclass(frozen=True)
class Sinusoid:
    """y = amplitude sin(x - phase) + noise.

    Args:
        amplitude_range: [low, high] of uniform amplitudes.
        phase_range: [low, high] of uniform phases, rad; [0, 6.2832]: all phases.
        x_range: [low, high] of uniform inputs.
        noise: standard deviation of the noise on support targets.
    """

    amplitude_range: Interval = (0.1, 5.0)
    phase_range: Interval = (0.0, math.pi)
    x_range: Interval = (-5.0, 5.0)
    noise: Annotated[float, Ge(0)] = 0.0

    task_fields: ClassVar = ("amplitude", "phase")
    input_shape: ClassVar = (1,)
    variants: ClassVar = ("half-range",)  # support points from the upper half of the range only

    def __post_init__(self) -> None:
        for name in ("amplitude_range", "phase_range", "x_range"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} should be [low, high], got [{low}, {high}]")

    def require(self, what: TaskRequest) -> None:
        """Everything can be drawn."""

    def draw(self, what: TaskRequest) -> TaskBatch:
        """Tasks [M, 2]; inputs and targets [M, S, 1]."""
        block, row = divmod(what.iteration, BLOCK)
        tasks, episodes = _block(self, what._replace(iteration=block, share=None))
        rows = slice(what.rows.start, what.rows.stop)
        return TaskBatch(tasks[row, rows], tree_map(lambda x: x[row, rows], episodes))


@lru_cache(maxsize=4)
def _block(family: Sinusoid, what: TaskRequest) -> TaskBatch:
    """A block of iterations: tasks [B, M, 2]; inputs and targets [B, M, S, 1].

    The tasks are the same whatever is drawn of them.
    """
    blocks = BLOCK if what.purpose == Purpose.TRAIN_TASKS else 1
    rng = generator(what.seed, what.purpose, what.iteration)
    unit = rng.random((blocks, what.tasks, 2), np.float32)
    amplitude = _scale(unit[..., :1], family.amplitude_range)
    phase = _scale(unit[..., 1:], family.phase_range)
    rng = generator(what.seed, what.purpose, what.iteration, inner_step=1)
    low, high = family.x_range
    start = (low + high) / 2 if what.variant == "half-range" else low
    support = _scale(rng.random((blocks, what.tasks, what.shots), np.float32), (start, high))
    query = _scale(rng.random((blocks, what.tasks, what.queries), np.float32), (low, high))
    noise = np.float32(family.noise) * rng.standard_normal(support.shape, np.float32)

    def of(x: Array, noise: Array | float) -> Examples:
        y = amplitude * np.sin(x - phase) + noise
        return Examples(torch.from_numpy(x)[..., None], torch.from_numpy(y)[..., None])

    tasks = np.concatenate([amplitude, phase], -1)
    return TaskBatch(tasks, TaskData(of(support, noise), of(query, 0.0)))


def _scale(unit: Array, interval: Interval) -> Array:
    low, high = interval
    return unit * np.float32(high - low) + np.float32(low)
