"""Schedules: a factor on the length of outer steps that changes over the iterations."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from metarl.core.outer.step import OuterStep

Number = TypeVar("Number", float, Tensor)


def is_due(iteration: int, every: int) -> bool:
    """Return whether something happens in this iteration that does so every so often; 0: never."""
    return every > 0 and iteration % every == 0


@dataclass(frozen=True)
class ScheduledStep(OuterStep):
    """An outer step whose length follows a schedule.

    Args:
        schedule: constant; linear: from 1 to schedule_final; cosine: the same along half a cosine
            (Loshchilov and Hutter 2017, without restarts).
        schedule_iterations: iterations until schedule_final, which then stays; default: the
            iterations that the run begins with.
        schedule_final: factor at the end.
    """

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    schedule_iterations: Annotated[int, Gt(0)] | None = None
    schedule_final: Annotated[float, Interval(ge=0, le=1)] = 0.0

    def factor(self, iterations: Number) -> Number | float:
        """Return the factor of the step after ``iterations`` iterations, a number or tensor []."""
        if self.schedule == "constant" or self.schedule_iterations is None:
            return 1.0
        progress = iterations / self.schedule_iterations
        if isinstance(progress, Tensor):
            progress = progress.clamp(max=1.0)
            falling = (1 + torch.cos(math.pi * progress)) / 2
        else:
            progress = min(progress, 1.0)
            falling = (1 + math.cos(math.pi * progress)) / 2
        remainder = 1 - progress if self.schedule == "linear" else falling
        return self.schedule_final + (1 - self.schedule_final) * remainder
