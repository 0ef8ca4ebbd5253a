"""M tasks x N gymnasium environments in lock-step, in this process or in worker processes.

Results do not depend on the number of workers: every environment keeps its place, and its seed
comes from its task's generator.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarl_envs.batch import EnvStep, require_tasks
from metarl_envs.family import Array, Mask
from metarl_envs.gym_workers import (
    REQUESTS,
    RESET,
    STEP,
    Envs,
    Worker,
    buffers_in,
    kinds_of_buffers,
    memory_of,
)

if TYPE_CHECKING:
    from metarl_envs.gym_family import GymFamily


class GymBatch:
    """M tasks x N environments of one family, one episode each at a time; see ``BatchedEnv``.

    Args:
        family: the task family.
        num_tasks: M.
        num_envs: N, environments per task.
        workers: worker processes; 0: run in this process.
        observe_task: append the task's row to every observation.
    """

    def __init__(
        self,
        family: "GymFamily",
        num_tasks: int,
        num_envs: int,
        workers: int = 0,
        observe_task: bool = False,
    ):
        self.family = family
        self.shape = (num_tasks, num_envs)
        self._observe_task = observe_task
        number = num_tasks * num_envs
        workers = min(workers, number)
        memory = {
            name: memory_of(bool(workers), *kind) for name, kind in kinds_of_buffers(family, number)
        }
        self._buffers = buffers_in(memory, family, number)
        self._episode_steps = np.zeros(number, dtype=np.int64)
        self._local = None if workers else Envs(family, self._buffers, range(number))
        bounds = [w * number // workers for w in range(workers + 1)] if workers else []
        self._workers = [Worker(family, memory, number, range(*ids)) for ids in pairwise(bounds)]

    @property
    def alive(self) -> Mask:
        """Return which episodes are still running, [M, N]."""
        return self._buffers.running.reshape(self.shape).copy()

    @property
    def tasks(self) -> Array:
        """The M tasks of the current episodes, [M, task_dim]."""
        return self._buffers.tasks[:: self.shape[1]].copy()

    @property
    def qpos(self) -> Array:
        """No generalised coordinates, [M, N, 0]."""
        return np.zeros((*self.shape, 0))

    def reset(self, tasks: Array, rngs: Sequence[np.random.Generator]) -> NDArray[np.floating]:
        """Start new episodes; see ``BatchedEnv.reset``.

        Raises:
            ValueError: ``tasks`` has the wrong shape or is not finite, or an observation does not
                fit its space.
            WorkerError: a worker failed.
        """
        num_tasks, num_envs = self.shape
        require_tasks(self.family, num_tasks, tasks, rngs)
        self._buffers.tasks[:] = np.repeat(tasks, num_envs, axis=0)
        self._buffers.seeds[:] = np.concatenate([r.integers(2**31, size=num_envs) for r in rngs])
        self._buffers.running[:] = True
        self._buffers.success[:] = np.nan
        self._episode_steps[:] = 0
        self._all(RESET)
        return self._observations()

    def step(self, action: NDArray[np.floating]) -> EnvStep:
        """One env step of the running episodes; see ``BatchedEnv.step``.

        Raises:
            ValueError: ``action`` has the wrong shape, or a reward or an observation is not sound.
            WorkerError: a worker failed.
        """
        buffers = self._buffers
        shape = (*self.shape, *buffers.actions.shape[1:])
        if action.shape != shape:
            raise ValueError(f"action must have shape {shape}, got {action.shape}")
        alive = buffers.running.copy()
        buffers.actions[:] = action.reshape(buffers.actions.shape)
        if not alive.all():
            for x in (buffers.rewards, buffers.terminated, buffers.truncated):
                x[~alive] = 0
            buffers.success[~alive] = np.nan
        self._all(STEP)
        self._episode_steps += alive
        truncated = buffers.truncated | (alive & (self._episode_steps >= self.family.horizon))
        truncated &= ~buffers.terminated
        buffers.running[:] = alive & ~buffers.terminated & ~truncated
        return EnvStep(
            self._observations(),
            buffers.rewards.reshape(self.shape).copy(),
            buffers.terminated.reshape(self.shape).copy(),
            truncated.reshape(self.shape),
            np.zeros(self.shape, dtype=bool),
            buffers.success.reshape(self.shape).copy(),
        )

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def _all(self, request: bytes) -> None:
        if self._local is not None:
            REQUESTS[request](self._local)
            return
        try:
            for worker in self._workers:
                worker.send(request)
            for worker in self._workers:
                worker.wait()
        except BaseException:  # also when interrupted: answers must not be mixed up later
            self.close()
            raise

    def _observations(self) -> NDArray[np.floating]:
        observations: NDArray[np.floating] = self._buffers.observations
        if self._observe_task:
            observations = np.concatenate([observations, self._buffers.tasks], axis=1)
        return observations.reshape(*self.shape, *observations.shape[1:]).copy()
