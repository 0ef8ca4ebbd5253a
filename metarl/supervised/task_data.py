"""The data of supervised tasks: support examples adapt, query examples judge."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metarl.runtime.seeding import Purpose


class Examples(NamedTuple):
    """S examples of one task; of all tasks with M in front."""

    inputs: Tensor  # [S, ...]
    targets: Tensor  # [S, ...], or [S] class numbers


class TaskData(NamedTuple):
    """Support data to adapt on, query data to judge on."""

    support: Examples
    query: Examples


class TaskBatch(NamedTuple):
    """M tasks and an episode of each."""

    tasks: NDArray[np.floating]  # [M, task_dim]
    episodes: TaskData


class TaskRequest(NamedTuple):
    """A request for tasks and their data. Equal requests give equal data."""

    seed: int
    purpose: Purpose
    iteration: int
    tasks: int  # M
    shots: int  # K, support examples (of every class)
    queries: int  # query examples (of every class)
    variant: str = ""  # one of the source's
    share: range | None = None  # which of the tasks; all

    @property
    def rows(self) -> range:
        """Numbers of the tasks to draw."""
        return range(self.tasks) if self.share is None else self.share


class Source(Protocol):
    """A distribution over tasks with data.

    ``variants`` name other ways to draw a task's data; ``require`` raises UserError where nothing
    can be drawn.
    """

    @property
    def task_fields(self) -> Sequence[str]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...  # of one example
    @property
    def variants(self) -> Sequence[str]: ...
    def require(self, what: TaskRequest) -> None: ...
    def draw(self, what: TaskRequest) -> TaskBatch: ...
