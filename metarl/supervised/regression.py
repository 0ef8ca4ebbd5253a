"""Families of functions for few-shot regression."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from math import prod
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from metarl.core.params import tree_map
from metarl.runtime.errors import UserError, described
from metarl.runtime.seeding import Purpose, generator
from metarl.supervised.task_data import Examples, TaskBatch, TaskData, TaskRequest

Array = NDArray[np.float32]
Interval = tuple[float, float]

SHAPES = {
    "sample_tasks": "[n, task_dim]",
    "sample_inputs": "[n, examples, *input_shape]",
    "targets": "[n, examples, outputs]",
}
"""What methods of a family return."""

BLOCK = 100  # iterations that are drawn at once: making a generator costs more than using it


@dataclass(frozen=True, kw_only=True)
class RegressionFamily(ABC):
    """A distribution over functions, each a row of ``task_dim`` numbers.

    Subclasses are frozen dataclasses; their fields are settings. Methods are pure functions of
    arrays over n tasks; all numbers become float32. ``task_fields`` names the numbers of a task.

    Args:
        x_range: [low, high] of uniform inputs.
        noise: standard deviation of the noise on support targets.
    """

    x_range: Interval = (-5.0, 5.0)
    noise: Annotated[float, Ge(0)] = 0.0

    task_fields: ClassVar[Sequence[str]]
    input_shape: ClassVar[tuple[int, ...]] = (1,)
    outputs: ClassVar[int] = 1
    variants: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        require_interval("x_range", self.x_range)

    @abstractmethod
    def sample_tasks(self, rng: np.random.Generator, n: int) -> NDArray[Any]:
        """Return n tasks [n, task_dim]."""

    @abstractmethod
    def targets(self, tasks: Array, inputs: Array) -> NDArray[Any]:
        """Return the values [n, S, outputs] of each task's function, without noise.

        Args:
            tasks: [n, task_dim].
            inputs: S of each task, [n, S, *input_shape].
        """

    def sample_inputs(
        self, rng: np.random.Generator, n: int, examples: int, variant: str = ""
    ) -> NDArray[Any]:
        """Return the inputs of n tasks [n, examples, *input_shape].

        Args:
            variant: one of ``variants``, of support inputs only.
        """
        return uniform(rng, self.x_range, (n, examples, *self.input_shape))

    def require(self, what: TaskRequest) -> None:
        """Raise UserError where a method fails, or returns something else than it should."""
        try:
            self.draw(what)
        except UserError:
            raise
        except Exception as error:  # whatever a user's family does
            raise UserError(f"{type(self).__name__}: {described(error)}") from error

    def draw(self, what: TaskRequest) -> TaskBatch:
        """Tasks [M, task_dim]; inputs [M, S, *input_shape] and targets [M, S, outputs].

        Raises:
            UserError: a method returned another shape, or numbers that are not finite.
        """
        size = block_size(self.input_shape, what.purpose)
        block, row = divmod(what.iteration, size)
        tasks, episodes = self._blocks(what._replace(iteration=block, share=None))
        rows = slice(row * what.tasks + what.rows.start, row * what.tasks + what.rows.stop)
        return TaskBatch(tasks[rows], tree_map(lambda x: x[rows], episodes))

    @cached_property
    def _blocks(self) -> Callable[[TaskRequest], TaskBatch]:
        """``_block`` of this family; the last blocks are kept."""
        return lru_cache(maxsize=4)(partial(_block, self))


def block_size(input_shape: Sequence[int], purpose: Purpose) -> int:
    """Return the number of iterations that are drawn at once; fewer of large inputs."""
    return max(1, BLOCK // prod(input_shape)) if purpose == Purpose.TRAIN_TASKS else 1


def uniform(rng: np.random.Generator, interval: Interval, shape: Sequence[int]) -> Array:
    """Return uniform numbers in [low, high)."""
    low, high = interval
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


def require_interval(name: str, interval: Interval) -> None:
    """Raise ValueError unless low <= high."""
    low, high = interval
    if not low <= high:
        raise ValueError(f"{name} should be [low, high], got [{low}, {high}]")


def _block(family: RegressionFamily, what: TaskRequest) -> TaskBatch:
    """A block of B iterations: tasks [B * M, task_dim]; inputs and targets [B * M, S, ...].

    The tasks are the same whatever is drawn of them.
    """
    n = block_size(family.input_shape, what.purpose) * what.tasks
    rng = generator(what.seed, what.purpose, what.iteration)
    rows = family.sample_tasks(rng, n)
    tasks = _as_float32(family, "sample_tasks", rows, (n, len(family.task_fields)))
    rng = generator(what.seed, what.purpose, what.iteration, inner_step=1)

    def inputs(examples: int, variant: str = "") -> Array:
        rows = family.sample_inputs(rng, n, examples, variant)
        return _as_float32(family, "sample_inputs", rows, (n, examples, *family.input_shape))

    def examples(x: Array, noise: Array | float) -> Examples:
        shape = (*x.shape[:2], family.outputs)
        y = _as_float32(family, "targets", family.targets(tasks, x), shape) + noise
        return Examples(torch.from_numpy(x), torch.from_numpy(y))

    support, query = inputs(what.shots, what.variant), inputs(what.queries)
    shape = (n, what.shots, family.outputs)
    noise = np.float32(family.noise) * rng.standard_normal(shape, np.float32)
    return TaskBatch(tasks, TaskData(examples(support, noise), examples(query, 0.0)))


def _as_float32(family: RegressionFamily, method: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Return a method's result as float32.

    Raises:
        UserError: it has another shape, or holds other things than finite real numbers.
    """
    where = f"{type(family).__name__}.{method}"
    should = f"{where} should return {SHAPES[method]}, here {[*shape]}"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths, for example
        raise UserError(f"{should}, got a {type(value).__name__}: {error}") from error
    if array.shape != shape:
        raise UserError(f"{should}, got {[*array.shape]}")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where} should return real numbers, got {array.dtype}")
    numbers: Array = np.require(array, np.float32, ["C", "W"])
    if not np.isfinite(numbers).all():
        raise UserError(f"{where} gave numbers that are not finite")
    return numbers
