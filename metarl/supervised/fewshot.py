"""Few-shot classification: episodes of N ways and K shots from labelled examples."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose, generator
from metarl.supervised.labelled import LabelledTensors
from metarl.supervised.task_data import Examples, TaskBatch, TaskData, TaskRequest

SPLIT_OF = {
    Purpose.TRAIN_TASKS: "train",
    Purpose.VALIDATION_TASKS: "validation",
    Purpose.EVALUATION_TASKS: "test",
}


class FewShot:
    """N-way K-shot episodes (Vinyals et al. 2016).

    Every task is drawn by a generator of its own, from (seed, iteration, task).

    Args:
        splits: examples by split.
        ways: N, classes of a task.
    """

    variants = ()

    def __init__(self, splits: Mapping[str, LabelledTensors], ways: int):
        self.splits = splits
        self.ways = ways
        self.task_fields = tuple(f"class_{n}" for n in range(ways))
        self.input_shape = tuple(next(iter(splits.values())).inputs.shape[1:])

    def require(self, what: TaskRequest) -> None:
        """Refuse to draw tasks that cannot be drawn.

        Raises:
            UserError: there is no such split, or it lacks classes, or a class lacks examples.
        """
        split, examples = SPLIT_OF[what.purpose], what.shots + what.queries
        if split not in self.splits:
            raise UserError(f"data: there are no {split} examples")
        dataset = self.splits[split]
        if len(dataset.names) < self.ways:
            raise UserError(
                f"data.ways is {self.ways}, more than the {len(dataset.names)} classes of the "
                f"{split} split"
            )
        fewest = min(range(len(dataset.names)), key=lambda c: len(dataset.of_class[c]))
        if len(dataset.of_class[fewest]) < examples:
            raise UserError(
                f"shots + queries is {examples}, more than the {len(dataset.of_class[fewest])} "
                f"examples of class {dataset.names[fewest]} in the {split} split"
            )

    def draw(self, what: TaskRequest) -> TaskBatch:
        """Tasks [M, N] of class numbers; inputs [M, N * K, ...], targets [M, N * K]."""
        dataset = self.splits[SPLIT_OF[what.purpose]]
        tasks = [self._task(dataset, what, m) for m in what.rows]
        classes = np.stack([classes for classes, _ in tasks])
        index = np.stack([index for _, index in tasks])  # [M, N, K + queries]
        sides = index[..., : what.shots], index[..., what.shots :]
        support, query = (self._batch(dataset, side) for side in sides)
        return TaskBatch(classes.astype(np.float64), TaskData(support, query))

    def _task(
        self, dataset: LabelledTensors, what: TaskRequest, m: int
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Classes [N] and examples [N, K + queries] of task m."""
        rng = generator(what.seed, what.purpose, what.iteration, m)
        classes = rng.choice(len(dataset.names), self.ways, replace=False)
        examples = what.shots + what.queries
        index = [rng.choice(dataset.of_class[c], examples, replace=False) for c in classes]
        return classes, np.stack(index)

    def _batch(self, dataset: LabelledTensors, index: NDArray[np.integer]) -> Examples:
        tasks, ways, examples = index.shape
        targets = torch.arange(ways).repeat_interleave(examples).expand(tasks, -1)
        return Examples(dataset[index.reshape(tasks, -1)], targets)
