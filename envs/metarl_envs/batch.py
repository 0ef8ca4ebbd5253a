"""M tasks x N environments of one family in lock-step."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl_envs.family import Array, Family, Mask, State, TaskFamily, Transition


class EnvStep(NamedTuple):
    """Results of one env step of M x N environments; 0 or False where an episode is over."""

    observation: NDArray[Any]  # [M, N, O], after the env step; the last one of an episode
    reward: Array  # [M, N]
    terminated: Mask  # [M, N], the family ended the episode
    truncated: Mask  # [M, N], the horizon ended the episode
    diverged: Mask  # [M, N], the simulation broke: the episode is over, this step does not count
    success: Array  # [M, N], 1 or 0: whether the task is solved; NaN where that is not defined


def require_tasks(
    family: Family, number: int, tasks: Array, rngs: Sequence[np.random.Generator]
) -> None:
    """Raise ``ValueError`` unless there are ``number`` tasks, each with a generator."""
    shape = (number, family.task_dim)
    if tasks.shape != shape or not np.isfinite(tasks).all():
        raise ValueError(
            f"tasks must be finite with shape {shape} "
            f"({', '.join(family.task_fields)}), got shape {tasks.shape}"
        )
    if len(rngs) != number:
        raise ValueError(f"expected one generator per task, {number}, got {len(rngs)}")


class EnvState(NamedTuple):
    """The state that env steps of M x N environments depend on; see ``BatchedEnv.get_state``."""

    simulator: Any
    tasks: Array  # [M * N, task_dim]
    episode_steps: NDArray[np.int64]  # [M * N], env steps of the episode so far
    alive: Mask  # [M * N]
    rngs: list[np.random.Generator | None]  # [M]


class BatchedEnv:
    """M tasks x N environments, one episode each at a time; finished episodes leave the physics.

    Args:
        family: the task family.
        num_tasks: M.
        num_envs: N, environments per task.
        threads: physics threads, 0 for all cores; results do not depend on it.
        observe_task: append the task's row to every observation, for policies that are told it.
    """

    def __init__(
        self,
        family: TaskFamily,
        num_tasks: int,
        num_envs: int,
        threads: int = 1,
        observe_task: bool = False,
    ):
        self.family = family
        self._observe_task = observe_task
        self.shape = (num_tasks, num_envs)
        self.simulator = family.simulator(num_tasks * num_envs, threads)
        self._tasks = np.zeros((num_tasks * num_envs, family.task_dim))
        self._episode_steps = np.zeros(num_tasks * num_envs, dtype=np.int64)
        self._alive = np.zeros(num_tasks * num_envs, dtype=bool)
        self._action_shape = family.action_space.shape or ()
        self._rngs: list[np.random.Generator | None] = [None] * num_tasks

    @property
    def alive(self) -> Mask:
        """Return which episodes are still running, [M, N]."""
        return self._alive.reshape(self.shape).copy()

    @property
    def tasks(self) -> Array:
        """The M tasks of the current episodes, [M, task_dim]."""
        return self._tasks[:: self.shape[1]].copy()

    @property
    def qpos(self) -> Array:
        """Generalised coordinates, [M, N, nq]; a live view."""
        return self.simulator.state.qpos.reshape(*self.shape, -1)

    def reset(
        self, tasks: Array, rngs: Sequence[np.random.Generator], mask: Mask | None = None
    ) -> Array:
        """Start new episodes.

        Args:
            tasks: the M tasks, [M, task_dim].
            rngs: one generator per task; it draws the initial states of that task's N environments
                and, where the family takes noise, that of every env step.
            mask: the tasks to reset, [M]; None for all. The others go on untouched.

        Returns:
            Observations of all environments, [M, N, O].

        Raises:
            ValueError: ``tasks`` has the wrong shape or is not finite, or ``rngs`` is not M long.
        """
        num_tasks, num_envs = self.shape
        require_tasks(self.family, num_tasks, tasks, rngs)
        resetting = np.arange(num_tasks) if mask is None else np.flatnonzero(mask)
        ids = (resetting[:, None] * num_envs + np.arange(num_envs)).reshape(-1)
        self._tasks[ids] = np.repeat(tasks[resetting], num_envs, axis=0)
        starts = []
        for m in resetting.tolist():
            self._rngs[m] = rngs[m]
            of_task = slice(m * num_envs, (m + 1) * num_envs)
            starts.append(self.family.initial_state(rngs[m], self._tasks[of_task]))
        start = State(
            np.concatenate([s.qpos for s in starts]), np.concatenate([s.qvel for s in starts])
        )
        self.simulator.reset(ids, start, self._tasks[ids])
        self._episode_steps[ids] = 0
        self._alive[ids] = True
        return self._observe()

    def step(self, action: Array) -> EnvStep:
        """One env step of the running episodes under the policy's ``action`` [M, N, *action_shape].

        Raises:
            ValueError: ``action`` has the wrong shape.
        """
        shape = (*self.shape, *self._action_shape)
        if action.shape != shape:
            raise ValueError(f"action must have shape {shape}, got {action.shape}")
        alive = self._alive.copy()
        ids = None if alive.all() else np.flatnonzero(alive)
        # As float64 first, so that an action has one control and one cost whatever its dtype.
        control = self.family.control(
            action.astype(np.float64).reshape(len(alive), *self._action_shape)
        )
        before = self.simulator.state.copy()
        noise = self._noise()
        diverged = self.simulator.step(control, noise, ids)
        after = self.simulator.state
        self._episode_steps[alive] += 1

        counts = alive & ~diverged
        step = Transition(before, after, control, self._tasks, noise)
        reward = np.where(counts, self._reward(step), 0.0)
        if not np.isfinite(reward).all():
            raise ValueError(f"{type(self.family).__name__}: a reward is not finite")
        terminated = counts & self.family.terminated(after, self._tasks)
        truncated = counts & (self._episode_steps >= self.family.horizon)
        self._alive = counts & ~terminated & ~truncated
        outcome = self.family.success(after, self._tasks)
        success = np.full(len(alive), np.nan) if outcome is None else np.where(counts, outcome, 0.0)
        return EnvStep(
            self._observe(),
            reward.reshape(self.shape),
            terminated.reshape(self.shape),
            truncated.reshape(self.shape),
            diverged.reshape(self.shape),
            success.reshape(self.shape),
        )

    def get_state(self) -> EnvState:
        """Return a copy of the state, which can be pickled: for planning, and for workers."""
        return copy.deepcopy(self.live_state())

    def live_state(self) -> EnvState:
        """Return the state with arrays and generators that go on changing."""
        simulator_state = self.simulator.get_state()
        return EnvState(simulator_state, self._tasks, self._episode_steps, self._alive, self._rngs)

    def set_state(self, state: EnvState) -> None:
        """Go on from a state that ``get_state`` of environments of the same shape returned."""
        self.set_live_state(copy.deepcopy(state))

    def set_live_state(self, state: EnvState) -> None:
        """Go on from a state whose arrays and generators are these environments' from now on."""
        simulator_state, self._tasks, self._episode_steps, self._alive, self._rngs = state
        self.simulator.set_state(simulator_state)

    def _reward(self, step: Transition) -> Array:
        """Raise ValueError unless there is one reward per simulation."""
        reward = np.asarray(self.family.reward(step))
        if reward.shape != (len(self._tasks),):
            raise ValueError(
                f"{type(self.family).__name__}.reward should have shape ({len(self._tasks)},), one "
                f"number per simulation, got {reward.shape}"
            )
        return reward

    def _noise(self) -> Array:
        """Uniform numbers [B, noise_dim], those of a task from its own generator."""
        (num_tasks, num_envs), dim = self.shape, self.family.noise_dim
        noise = np.zeros((num_tasks, num_envs, dim))
        if dim:
            for rng, of_task in zip(self._rngs, noise, strict=True):
                if rng is not None:
                    rng.random(out=of_task)
        return noise.reshape(num_tasks * num_envs, dim)

    def _observe(self) -> Array:
        observation = self.family.observe(self.simulator.state, self._tasks)
        if self._observe_task:
            observation = np.concatenate([observation, self._tasks], axis=1)
        return observation.reshape(*self.shape, -1)
