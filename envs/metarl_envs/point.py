"""Point navigation in the plane (Finn et al. 2017, section 5.3 and appendix A.2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarl_envs.checks import require, require_range
from metarl_envs.family import Array, Mask, State, Target, TaskFamily, Transition


class PointSimulator:
    """Points that move by their control: s' = s + u."""

    def __init__(self, num_sims: int):
        self.state = State(np.zeros((num_sims, 2)), np.zeros((num_sims, 0)))

    def reset(self, ids: NDArray[np.integer], state: State, tasks: Array) -> None:
        self.state.qpos[ids] = state.qpos

    def step(self, control: Array, noise: Array, ids: NDArray[np.integer] | None = None) -> Mask:
        moving = slice(None) if ids is None else ids
        diverged = np.zeros(len(self.state.qpos), dtype=bool)
        diverged[moving] = ~np.isfinite(control[moving]).all(axis=1)
        self.state.qpos[moving] += np.where(diverged[moving, None], 0.0, control[moving])
        return diverged

    def get_state(self) -> Array:
        return self.state.qpos.copy()

    def set_state(self, state: Array) -> None:
        self.state.qpos[:] = state


@dataclass(frozen=True, kw_only=True)
class PointNavigation(TaskFamily):
    """Walk from the origin to a goal: reward -norm(s' - goal), or a sparse one.

    Observation [2]: the position. Terminates when both its distances, along x and along y, are
    below ``goal_tolerance``.

    Args:
        goal_range: lowest and highest goal coordinate, drawn uniformly.
        max_step: largest move per env step and coordinate.
        goal_tolerance: distance per coordinate at which the goal counts as reached; 0: never.
        squared: square the distance, as the paper's text says; its numbers fit the plain distance.
        reward_radius: with a radius r the reward is sparse: 1 - distance / r within r of the goal,
            0 elsewhere; null: dense.
    """

    horizon: int = 100
    action_scale: float = 0.1
    goal_range: tuple[float, float] = (-0.5, 0.5)
    max_step: float = 0.1
    goal_tolerance: float = 0.01
    squared: bool = False
    reward_radius: float | None = None
    task_fields = ("goal_x", "goal_y")
    threaded = False
    is_drawn = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("goal_range", self.goal_range)
        require(self.max_step > 0, f"max_step must be positive, got {self.max_step}")
        require(
            self.goal_tolerance >= 0,
            f"goal_tolerance must not be negative, got {self.goal_tolerance}",
        )

        require(
            self.reward_radius is None or self.reward_radius > 0,
            f"reward_radius must be positive or null, got {self.reward_radius}",
        )

    @property
    def render_fps(self) -> int:
        return 20  # the world has no clock: as fast as an eye can follow

    @property
    def observation_dim(self) -> int:
        return 2

    @property
    def control_range(self) -> tuple[Array, Array]:
        high = np.full(2, self.max_step)
        return -high, high

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(*self.goal_range, (n, 2))

    def initial_state(self, rng: np.random.Generator, tasks: Array) -> State:
        return State(np.zeros((len(tasks), 2)), np.zeros((len(tasks), 0)))

    def observe(self, state: State, tasks: Array) -> Array:
        return state.qpos.copy()

    def reward(self, step: Transition) -> Array:
        squared_distance = np.square(step.after.qpos - step.tasks).sum(axis=1)
        if self.squared:
            return -squared_distance
        distance: Array = np.sqrt(squared_distance)
        if self.reward_radius is None:
            return -distance
        return np.maximum(1 - distance / self.reward_radius, 0.0)

    def terminated(self, state: State, tasks: Array) -> Mask:
        close: Mask = np.abs(state.qpos - tasks) < self.goal_tolerance
        return np.asarray(close.all(axis=1))

    def success(self, state: State, tasks: Array) -> Mask:
        return self.terminated(state, tasks)

    def position(self, qpos: Array) -> Array:
        return qpos

    def target(self, task: Array) -> Target:
        return Target("position", task)

    def simulator(self, num_sims: int, threads: int = 1) -> PointSimulator:
        return PointSimulator(num_sims)
