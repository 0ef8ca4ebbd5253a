"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from metarl.seeding import Purpose, generator
from metarl.supervised.episodes import Batch, Draw, Drawn, Episode

Array = NDArray[np.float32]
Interval = tuple[float, float]

BLOCK = 100  # iterations that are drawn at once: making a generator costs more than using it


@dataclass(frozen=True)
class Sinusoid:
    """y = amplitude sin(x - phase) + noise.

    Args:
        amplitude_range: amplitudes are uniform in it.
        phase_range: phases (rad) are uniform in it; [0, 6.2832] for all of them.
        x_range: inputs are uniform in it.
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

    def require(self, what: Draw) -> None:
        """Everything can be drawn."""

    def draw(self, what: Draw) -> Drawn:
        """Tasks [M, 2]; inputs and targets [M, S, 1]."""
        block, row = divmod(what.iteration, BLOCK)
        blocks = _uniform(what._replace(iteration=block, share=None))
        rows = slice(what.rows.start, what.rows.stop)
        tasks, support_x, query_x, noise = (x[row, rows] for x in blocks)
        amplitude, phase = _scaled(tasks.T, self.amplitude_range, self.phase_range)
        low, high = self.x_range
        start = (low + high) / 2 if what.variant == "half-range" else low
        support = _scale(support_x, (start, high))
        query = _scale(query_x, self.x_range)

        def of(x: Array, noise: Array | float) -> Batch:
            y = amplitude[:, None] * np.sin(x - phase[:, None]) + noise
            return Batch(_tensor(x), _tensor(y))

        episodes = Episode(of(support, self.noise * noise), of(query, 0.0))
        return Drawn(np.stack([amplitude, phase], 1), episodes)


@lru_cache(maxsize=4)
def _uniform(what: Draw) -> tuple[Array, Array, Array, Array]:
    """Numbers in [0, 1) for the tasks and inputs of a block of iterations, and standard noise.

    The tasks are the same whatever is drawn of them.
    """
    blocks = BLOCK if what.purpose == Purpose.TRAIN_TASKS else 1
    rng = generator(what.seed, what.purpose, what.iteration)
    tasks = rng.random((blocks, what.tasks, 2), np.float32)
    rng = generator(what.seed, what.purpose, what.iteration, inner_step=1)
    support = rng.random((blocks, what.tasks, what.shots), np.float32)
    query = rng.random((blocks, what.tasks, what.queries), np.float32)
    return tasks, support, query, rng.standard_normal(support.shape, np.float32)


def _scaled(unit: Array, *ranges: Interval) -> list[Array]:
    return [_scale(x, interval) for x, interval in zip(unit, ranges, strict=True)]


def _scale(unit: Array, interval: Interval) -> Array:
    low, high = interval
    return unit * np.float32(high - low) + np.float32(low)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(x)[..., None]
