"""A convolutional policy on images: find the goal of a grid world that does not show it."""

from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium import spaces

import metarl
from metarl_envs import GymFamily

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])


class PixelGrid(gymnasium.Env):
    """Walk from the middle of a square grid to a goal; the image shows the walker only.

    The observation is an image [size, size, 1] of zeros with a one where the walker is. The reward
    is minus the number of moves that the goal is away, divided by ``size``.
    """

    action_space = spaces.Discrete(4)

    def __init__(self, size):
        self.size = size
        self.goal = np.zeros(2, dtype=int)
        self.observation_space = spaces.Box(0.0, 1.0, (size, size, 1), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.full(2, self.size // 2)
        return self.image(), {}

    def step(self, action):
        self.place = np.clip(self.place + MOVES[action], 0, self.size - 1)
        away = np.abs(self.goal - self.place).sum()
        return self.image(), -away / self.size, bool(away == 0), False, {"success": away == 0}

    def image(self):
        image = np.zeros(self.observation_space.shape, np.float32)
        image[tuple(self.place)] = 1.0
        return image


@dataclass(frozen=True, kw_only=True)
class GridGoals(GymFamily):
    """Goals anywhere on the grid.

    Args:
        size: rows and columns of the grid.
    """

    horizon: int = 20
    size: int = 7

    task_fields = ("row", "column")
    flatten = False  # a convolution wants the image's shape

    def make(self):
        return PixelGrid(self.size)

    def sample_tasks(self, rng, n):
        return rng.integers(self.size, size=(n, 2)).astype(float)

    def set_task(self, env, task):
        env.goal = task.astype(int)


def main(**settings):
    return metarl.train(
        {
            "env.family": GridGoals,
            "policy": {"name": "categorical-cnn", "filters": 8, "hidden": 32},
            "inner.rate": 1.0,
            "iterations": 40,
        },
        settings,
    )


if __name__ == "__main__":
    main()
