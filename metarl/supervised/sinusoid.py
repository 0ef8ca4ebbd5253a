"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from metarl.supervised.regression import (
    Array,
    Interval,
    RegressionFamily,
    require_interval,
    uniform,
)


@dataclass(frozen=True)
class Sinusoid(RegressionFamily):
    """y = amplitude sin(x - phase) + noise.

    Args:
        amplitude_range: [low, high] of uniform amplitudes.
        phase_range: [low, high] of uniform phases, rad; [0, 6.2832]: all phases.
    """

    amplitude_range: Interval = (0.1, 5.0)
    phase_range: Interval = (0.0, math.pi)

    task_fields: ClassVar = ("amplitude", "phase")
    variants: ClassVar = ("half-range",)  # support points from the upper half of the range only

    def __post_init__(self) -> None:
        super().__post_init__()
        require_interval("amplitude_range", self.amplitude_range)
        require_interval("phase_range", self.phase_range)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        unit = rng.random((n, 2), np.float32)
        low, high = np.array([self.amplitude_range, self.phase_range], float).T
        return unit * (high - low).astype(np.float32) + low.astype(np.float32)

    def targets(self, tasks: Array, inputs: Array) -> Array:
        amplitude, phase = tasks[:, None, :1], tasks[:, None, 1:]
        return amplitude * np.sin(inputs - phase)

    def sample_inputs(
        self, rng: np.random.Generator, n: int, examples: int, variant: str = ""
    ) -> Array:
        low, high = self.x_range
        start = (low + high) / 2 if variant == "half-range" else low
        return uniform(rng, (start, high), (n, examples, 1))
