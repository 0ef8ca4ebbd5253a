"""Many environments of one family as a ``gymnasium.vector.VectorEnv``."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from metarl_envs.batch import BatchedEnv
from metarl_envs.family import Array, Mask, TaskFamily, as_task
from metarl_envs.rendering import make_renderer, render_metadata
from metarl_envs.single import check_options, make_family


class TaskVectorEnv(VectorEnv[Array, NDArray[np.float32], NDArray[Any]]):
    """``num_envs`` environments of a family, for ``gymnasium.make_vec``.

    Its results are those of gymnasium's ``SyncVectorEnv`` over ``TaskEnv``, bit for bit; physics
    runs on threads. Every sub-environment has a task and a generator of its own.

    Args:
        num_envs: number of sub-environments.
        family: name in ``FAMILIES``, or a family.
        task: one task for all, or one each [num_envs, task_dim] ([num_envs] numbers where a task
            has one column); None: each sub-environment draws one at every reset.
        threads: physics threads, 0 for all cores; results do not depend on it.
        autoreset_mode: when a finished sub-environment starts its next episode.
        max_episode_steps: upper limit of the family's ``horizon``; None or -1: no other limit.
        render_mode: None, or one of ``metadata["render_modes"]``.
        width: of frames, in pixels.
        height: of frames, in pixels.
        constants: fields of the family, where ``family`` is a name.

    Raises:
        TypeError: the family has no such constant.
        ValueError: an argument is unknown or out of its range.
    """

    def __init__(  # the arguments that make_vec hands on
        self,
        num_envs: int,
        family: str | TaskFamily,
        task: ArrayLike | Mapping[str, float] | None = None,
        threads: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **constants: Any,
    ):
        self.family = make_family(family, constants)
        if max_episode_steps is not None and max_episode_steps != -1:
            horizon = min(self.family.horizon, max_episode_steps)
            self.family = replace(self.family, horizon=horizon)
        self.num_envs = num_envs
        self.batch = BatchedEnv(self.family, num_envs, 1, threads)
        self.single_observation_space = self.family.observation_space
        self.single_action_space = self.family.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = render_metadata(self.batch) | {"autoreset_mode": self.autoreset_mode}
        self.metadata["render_modes"] = [m for m in self.metadata["render_modes"] if m != "human"]
        if render_mode == "human":
            raise ValueError("render_mode 'human' has one window: only for a single environment")
        self.render_mode = render_mode
        self._renderer = make_renderer(self.batch, render_mode, width, height)
        self._tasks: list[Array | None] = self._as_tasks(task)
        self._generators = [seeding.np_random() for _ in range(num_envs)]
        self._over = np.zeros(num_envs, dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The sub-environments' generators, as SyncVectorEnv has it."""
        return tuple(generator for generator, _ in self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The sub-environments' seeds, as SyncVectorEnv has it."""
        return tuple(seed for _, seed in self._generators)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: sub-environment i is seeded with ``seed + i``, or with the i-th of a sequence;
                None: go on with its generator.
            options: "reset_mask" [num_envs]: the sub-environments to reset, the others go on;
                "task": their tasks from now on, as for the constructor.

        Raises:
            TypeError, ValueError: a seed or an option has the wrong type, shape or value.
        """
        options = check_options(options, {"reset_mask", "task"})
        mask = np.ones(self.num_envs, dtype=bool)
        if "reset_mask" in options:
            mask = _check_mask(options["reset_mask"], self.num_envs)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one per env, got {len(seeds)}")
        tasks = self._as_tasks(options["task"]) if "task" in options else self._tasks
        for i in np.flatnonzero(mask).tolist():
            self._tasks[i] = tasks[i]
            if seeds is not None and seeds[i] is not None:
                self._generators[i] = seeding.np_random(seeds[i])
        self._over = self._over & ~mask
        observation = self._start(mask)
        return observation, _info(task=(self.batch.tasks, mask))

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[Array, Array, Mask, Mask, dict[str, Any]]:
        """One env step of every sub-environment, or the first observation of its next episode.

        Raises:
            ResetNeeded: a sub-environment has no episode, and does not start one by itself.
            ValueError: ``actions`` have the wrong shape.
        """
        next_step = self.autoreset_mode is AutoresetMode.NEXT_STEP
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        starting = self._over if next_step else np.zeros_like(self._over)
        idle = ~self.batch.alive[:, 0] & ~starting
        if idle.any():
            ids = np.flatnonzero(idle).tolist()
            raise ResetNeeded(f"no episode is running in sub-environments {ids}: reset them first")

        step = self.batch.step(np.asarray(actions)[:, None])
        if self._renderer is not None:
            self._renderer.advance()
        observation, reward = step.observation[:, 0], step.reward[:, 0]
        terminated, diverged = step.terminated[:, 0], step.diverged[:, 0]
        truncated = step.truncated[:, 0] | diverged
        self._over = terminated | truncated
        info: dict[str, Any] = {}
        if same_step and self._over.any():
            starting = self._over
            info = self._final_info(observation, diverged)
        if starting.any():
            observation = self._start(starting)
        everywhere = np.ones(self.num_envs, dtype=bool)
        info |= _info(task=(self.batch.tasks, everywhere), diverged=(diverged, ~starting))
        return observation, reward, terminated, truncated, info

    def get_state(self) -> Any:
        """Return a copy of the state, which can be pickled: for planning, and for workers."""
        state = self.batch.live_state(), self._tasks, self._generators, self._over
        return copy.deepcopy(state)

    def set_state(self, state: Any) -> None:
        """Go on from a state that ``get_state`` of as many environments of the family returned."""
        of_batch, self._tasks, self._generators, self._over = copy.deepcopy(state)
        self.batch.set_live_state(of_batch)
        if self._renderer is not None:
            self._renderer.start(range(self.num_envs))

    def render(self) -> tuple[Any, ...] | None:
        """A frame of every sub-environment."""
        if self._renderer is None:
            return None
        return tuple(self._renderer.render(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        if self._renderer is not None:
            self._renderer.close()

    def _start(self, mask: Mask) -> Array:
        """Start episodes where ``mask`` holds; the observations of all sub-environments."""
        tasks, rngs = self.batch.tasks, self.np_random
        for i in np.flatnonzero(mask):
            task = self._tasks[i]
            tasks[i] = self.family.sample_tasks(rngs[i], 1)[0] if task is None else task
        observation = self.batch.reset(tasks, rngs, mask)[:, 0]
        if self._renderer is not None:
            self._renderer.start(np.flatnonzero(mask))
        return observation

    def _final_info(self, observation: Array, diverged: Mask) -> dict[str, Any]:
        """Return the last info of the episodes that ended, in the form of SAME_STEP mode."""
        final_observation = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(self._over):
            final_observation[i] = observation[i]
        final = _info(task=(self.batch.tasks, self._over), diverged=(diverged, self._over))
        return {
            "final_obs": final_observation,
            "_final_obs": self._over.copy(),
            "final_info": final,
            "_final_info": self._over.copy(),
        }

    def _as_tasks(self, task: ArrayLike | Mapping[str, float] | None) -> list[Array | None]:
        """The task of every sub-environment, None where it draws one at every reset."""
        if task is None:
            return [None] * self.num_envs
        if isinstance(task, Mapping):
            return [as_task(self.family, task)] * self.num_envs
        array = np.array(task, dtype=np.float64)
        numbers = self.family.task_dim == array.ndim == 1 and len(array) > 1
        if array.ndim != 2 and not numbers:
            return [as_task(self.family, array)] * self.num_envs
        if len(array) != self.num_envs:
            raise ValueError(f"expected one task, or {self.num_envs}, got {len(array)}")
        return [as_task(self.family, row) for row in array]


def _info(**entries: tuple[NDArray[Any], Mask]) -> dict[str, Any]:
    """Vector info: each key's values where its mask holds and 0 elsewhere, and the mask, ``_key``.

    A key that no sub-environment has is left out.
    """
    info: dict[str, Any] = {}
    for key, (values, mask) in entries.items():
        if mask.any():
            info[key] = np.zeros_like(values)
            info[key][mask] = values[mask]
            info[f"_{key}"] = mask.copy()
    return info


def _check_mask(mask: object, num_envs: int) -> Mask:
    """``options["reset_mask"]``, refused for the reasons for which SyncVectorEnv refuses it."""
    name = "options['reset_mask']"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(mask).__name__}")
    if mask.shape != (num_envs,):
        raise ValueError(f"{name} must have shape ({num_envs},), got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must be of bool, got {mask.dtype}")
    if not mask.any():
        raise ValueError(f"{name} must hold at least one True")
    return mask
