"""The one place that makes randomness.

Every random number comes from a generator that is derived from (seed, iteration, task, purpose),
never carried along. A resumed run needs no generator state, and no result depends on how tasks are
split over threads or processes.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a random generator. Old runs can only be repeated while the values stay."""

    PARAMETERS = 0
    TRAIN_TASKS = 1
    TRAIN_ROLLOUT = 2
    EVALUATION_TASKS = 3
    EVALUATION_ROLLOUT = 4
    VALIDATION_TASKS = 5
    VALIDATION_ROLLOUT = 6
    MEAN_ACTION_ROLLOUT = 7
    IMAGE_SPLIT = 8
    GLYPHS = 9
    DIAGNOSIS_TASKS = 10
    DIAGNOSIS_ROLLOUT = 11


def generator(
    seed: int, purpose: Purpose, iteration: int = 0, task: int = 0, inner_step: int = 0
) -> np.random.Generator:
    """A fresh generator for one use; equal arguments give equal numbers.

    Raises:
        ValueError: an argument is negative.
    """
    key = np.random.SeedSequence([seed, int(purpose), iteration, task, inner_step])
    return np.random.default_rng(key)


def torch_seed(seed: int, purpose: Purpose) -> int:
    """A seed for ``torch.Generator``, derived in the same way."""
    return int(generator(seed, purpose).integers(2**62))
