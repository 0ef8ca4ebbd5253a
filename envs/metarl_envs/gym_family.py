"""Task families of any ``gymnasium.Env``: subclass ``GymFamily``."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl_envs.checks import require
from metarl_envs.family import Array, Family, as_task
from metarl_envs.gym_batch import GymBatch

TRIED_STEPS = 50  # env steps in which two tasks should differ

Env: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(frozen=True, kw_only=True)
class GymFamily(Family):
    """A distribution over tasks of a ``gymnasium.Env``.

    A subclass has ``env_id`` (or ``make``), ``task_fields``, ``sample_tasks`` and ``set_task``. It
    is a frozen dataclass, whose fields are its settings.

    Observations are float vectors: boxes are flattened, discrete ones are one-hot, dictionaries
    and tuples are concatenated. With ``flatten`` False a box keeps its shape. Actions are those of
    a Box, which are clipped to it, or of a Discrete space.

    Args:
        timeout: seconds after which a worker process that does not answer counts as lost.

    Raises:
        ValueError: a space is not supported, or the environment cannot be made.
    """

    timeout: float = 60.0

    env_id: ClassVar[str] = ""
    """The environment's id in gymnasium."""

    flatten: ClassVar[bool] = True
    """Whether observations become vectors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.timeout > 0, f"timeout must be positive, got {self.timeout}")

    @abstractmethod
    def set_task(self, env: Env, task: Array) -> None:
        """Change ``env`` to ``task`` [task_dim]; called before every reset."""

    def make(self) -> Env:
        """Return an environment. A time limit of its own gives way to ``horizon``."""
        require(bool(self.env_id), f"{type(self).__name__} must have an env_id, or a make()")
        return gymnasium.make(self.env_id, max_episode_steps=self.horizon, disable_env_checker=True)

    def env(self, task: Any = None, render_mode: str | None = None) -> Env:
        require(render_mode is None, f"{type(self).__name__} is not drawn: call its make()")
        env = self.make()
        if task is not None:
            self.set_task(env, as_task(self, task))
        return env

    def parallelism(self, threads: int, workers: int) -> int:
        return workers

    def is_success(self, info: Mapping[str, Any]) -> bool | None:
        """Return whether an env step's ``info`` says that the task is solved; None: it is silent.

        An episode succeeds if one of its env steps does.
        """
        success = info.get("success")
        return None if success is None else bool(success)

    @cached_property
    def native_spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """The environment's own spaces of observations and actions."""
        name = type(self).__name__
        try:
            env = self.make()
        except Exception as error:  # whatever a user's environment does
            raise ValueError(f"{name}.make failed: {type(error).__name__}: {error}") from error
        pair = env.observation_space, env.action_space
        env.close()
        is_box = isinstance(pair[0], spaces.Box)
        if not (is_box or (self.flatten and pair[0].is_np_flattenable)):
            raise ValueError(f"{name}: observations of {pair[0]} are not supported")
        if not isinstance(pair[1], spaces.Box | spaces.Discrete):
            raise ValueError(f"{name}: actions are those of a Box or Discrete, got {pair[1]}")
        return pair

    @property
    def observation_space(self) -> "spaces.Box[Any]":
        space, _ = self.native_spaces
        flat: Any = spaces.utils.flatten_space(space) if self.flatten else space
        return spaces.Box(-np.inf, np.inf, flat.shape, np.float32)

    @property
    def action_space(self) -> spaces.Space[Any]:
        return self.native_spaces[1]

    def observe(self, observation: Any) -> NDArray[Any]:
        """Return one of the environment's observations as an array [*observation_shape].

        Raises:
            ValueError: it has another shape.
        """
        space, _ = self.native_spaces
        if not isinstance(space, spaces.Box):
            return np.asarray(spaces.utils.flatten(space, observation))
        array = np.asarray(observation)
        if array.shape != space.shape:
            raise ValueError(
                f"{type(self).__name__}: an observation has shape {array.shape}, "
                f"but its space says {space.shape}"
            )
        return array.reshape(-1) if self.flatten else array

    def observe_all(self, observations: Sequence[Any]) -> NDArray[Any]:
        """Return ``observe`` of n observations, [n, *observation_shape]."""
        space, _ = self.native_spaces
        if isinstance(space, spaces.Box):
            shape = len(observations), *space.shape
            with suppress(ValueError):  # of different shapes: ``observe`` says which
                array = np.array(observations)
                if array.shape == shape:
                    return array.reshape(len(observations), -1) if self.flatten else array
        return np.stack([self.observe(observation) for observation in observations])

    def tells_tasks_apart(self) -> bool:
        """Return whether two tasks give different episodes under equal seeds and actions.

        True also where no two of a few sampled tasks differ.
        """
        tasks = self.sample_tasks(np.random.default_rng(0), 8)
        other = next((task for task in tasks if not np.array_equal(task, tasks[0])), None)
        if other is None:
            return True
        batch = self.environments(2, 1)
        pair, rngs = np.stack([tasks[0], other]), [np.random.default_rng(0) for _ in range(2)]
        results: list[NDArray[Any]] = [batch.reset(pair, rngs)]
        self.action_space.seed(0)
        for _ in range(min(self.horizon, TRIED_STEPS)):
            if not batch.alive.all():
                break
            action = np.asarray(self.action_space.sample(), dtype=np.float64)
            if isinstance(self.action_space, spaces.Discrete):
                action -= self.action_space.start
            step = batch.step(np.stack([action, action])[:, None])
            results += [step.observation, step.reward, step.terminated]
        batch.close()
        return any(not np.array_equal(x[0], x[1]) for x in results)

    def environments(
        self, num_tasks: int, num_envs: int, threads: int = 0, observe_task: bool = False
    ) -> GymBatch:
        """See ``Family``; with ``threads`` 0 they run in this process."""
        return GymBatch(self, num_tasks, num_envs, threads, observe_task)
