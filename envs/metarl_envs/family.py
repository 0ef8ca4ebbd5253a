"""The interface of a task family: a distribution over tasks that share a body and its actions.

A family is a frozen dataclass whose fields are its constants, so an instance is also the record of
the settings it was made with. Its methods are pure functions of arrays, written once and used by
the batched sampler, by the single gymnasium environment and by the vector environment alike.

Shapes: B simulations (any order of tasks and trajectories), ``task_dim`` numbers per task,
O observation, A action.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from metarl_envs.checks import is_finite, require, require_count

if TYPE_CHECKING:
    import gymnasium

    from metarl_envs.batch import BatchedEnv

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class State(NamedTuple):
    """Generalised coordinates of B simulations, and fields that the engine derives from them."""

    qpos: Array  # [B, nq]
    qvel: Array  # [B, nv]
    derived: Mapping[str, Array] = MappingProxyType({})  # [B, ...], the fields a family asked for

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (self.qpos, self.qvel, dict(self.derived))  # no proxy can be copied

    def copy(self) -> "State":
        arrays = {name: field.copy() for name, field in self.derived.items()}
        return State(self.qpos.copy(), self.qvel.copy(), arrays)


class Transition(NamedTuple):
    """One env step of B simulations."""

    before: State
    after: State
    control: Array  # [B, A], of the actuators
    tasks: Array  # [B, task_dim]
    noise: Array  # [B, noise_dim], uniform in [0, 1); the source of all randomness in the step


class Target(NamedTuple):
    """The goal of a task, as pictures show it: a place (m), a direction or a velocity (m/s)."""

    kind: Literal["position", "direction", "velocity"]
    value: Array  # [D]: coordinates, a unit vector, or the velocity along each axis


class Simulator(Protocol):
    """B simulations of one body, advanced in lock-step."""

    @property
    def state(self) -> State:
        """Live views of the current state of all B simulations."""

    def reset(self, ids: NDArray[np.integer], state: State, tasks: Array) -> None:
        """Put the simulations ``ids`` [K] into ``state`` (qpos [K, nq], qvel [K, nv]).

        From now on they follow the dynamics of ``tasks`` [K, task_dim].
        """

    def step(self, control: Array, noise: Array, ids: NDArray[np.integer] | None = None) -> Mask:
        """Advance simulations ``ids`` (None: all) by one env step under ``control`` [B, A].

        Args:
            noise: [B, noise_dim], uniform in [0, 1), for dynamics that are random.

        Returns a mask [B] of the simulations that diverged; those were put back to the state they
        had before the call.
        """

    def get_state(self) -> Any:
        """Return a copy of all that the next steps depend on."""

    def set_state(self, state: Any) -> None:
        """Go on from a state that ``get_state`` of equal simulations returned."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """A distribution over tasks, and environments for them.

    Subclass ``TaskFamily`` for a simulator of arrays, ``GymFamily`` for a ``gymnasium.Env``.

    Args:
        horizon: env steps per trajectory, a time limit.

    Raises:
        ValueError: a constant is out of its range or contradicts another.
    """

    horizon: int = 200

    task_fields: ClassVar[tuple[str, ...]]
    """Names of the columns of a task array."""

    is_drawn: ClassVar[bool] = False
    """Whether ``metarl_envs.video`` can draw its states."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            require(
                value is None or isinstance(value, str) or is_finite(value),
                f"{field.name} must hold finite numbers, got {value!r}",
            )
        require_count("horizon", self.horizon)

    @property
    def task_dim(self) -> int:
        return len(self.task_fields)

    @property
    def dt(self) -> float:
        """Simulated seconds per env step; 1 for a family without a clock."""
        return 1.0

    @property
    def render_fps(self) -> int:
        """Frames per second of a video in real time, one frame per env step."""
        return round(1 / self.dt)

    @property
    @abstractmethod
    def observation_space(self) -> "spaces.Box[Any]":
        """Space of a policy's observations."""

    @property
    def observation_space_with_task(self) -> "spaces.Box[Any]":
        """Space of observations followed by the task's row, for a policy that is told the task."""
        shape = self.observation_space.shape
        require(len(shape) == 1, f"only a vector can be followed by a task, got shape {shape}")
        return spaces.Box(-np.inf, np.inf, (shape[0] + self.task_dim,), np.float64)

    @property
    @abstractmethod
    def action_space(self) -> "spaces.Space[Any]":
        """Space of a policy's actions."""

    @abstractmethod
    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        """Draw ``n`` tasks, [n, task_dim]."""

    @abstractmethod
    def environments(
        self, num_tasks: int, num_envs: int, threads: int = 1, observe_task: bool = False
    ) -> Any:
        """Return ``num_tasks`` x ``num_envs`` environments in lock-step, as ``BatchedEnv``.

        Args:
            threads: number of threads or worker processes; see ``parallelism``.
            observe_task: append the task's row to every observation.
        """

    @abstractmethod
    def env(self, task: Any = None, render_mode: str | None = None) -> "gymnasium.Env[Any, Any]":
        """Return one environment as a ``gymnasium.Env``.

        Args:
            task: [task_dim]; None: a new one at every reset, where the family has a simulator.
            render_mode: see gymnasium.

        Raises:
            ValueError: the task does not fit the family, or it is not drawn in this mode.
        """

    def parallelism(self, threads: int, workers: int) -> int:
        """Return the number of threads or of worker processes that environments run on.

        Args:
            threads: CPU threads of this process.
            workers: worker processes for environments in Python; 0: this process.
        """
        return 1

    def tells_tasks_apart(self) -> bool:
        """Return whether tasks seem to make a difference; True where that was not tried."""
        return True

    def position(self, qpos: Array) -> Array:
        """Return the body's position at qpos [..., nq]: [..., D] metres along x, or x and y.

        For pictures only; by default there is nothing to show (D 0).
        """
        return qpos[..., :0]

    def target(self, task: Array) -> Target | None:
        """Return the goal of ``task`` [task_dim], for pictures only; by default there is none."""
        return None

    def optimum(self, task: Array) -> float | None:
        """Return the largest mean return of any policy that knows ``task``; None: not known."""
        return None


@dataclass(frozen=True, kw_only=True)
class TaskFamily(Family):
    """A family whose environments are a simulator and functions of arrays.

    Args:
        action_scale: factor on the policy's action before it is clipped to the actuator limits.
    """

    action_scale: float = 1.0

    noise_dim: ClassVar[int] = 0
    """Random numbers that dynamics and reward take in every env step, from the task's generator."""

    threaded: ClassVar[bool] = True
    """Whether the simulator runs on threads, and not in Python."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.action_scale > 0, f"action_scale must be positive, got {self.action_scale}")

    @property
    @abstractmethod
    def observation_dim(self) -> int: ...

    @property
    @abstractmethod
    def control_range(self) -> tuple[Array, Array]:
        """Lowest and highest actuator control, each [A]."""

    @property
    def action_dim(self) -> int:
        return len(self.control_range[0])

    @property
    def observation_space(self) -> "spaces.Box[np.float64]":
        return spaces.Box(-np.inf, np.inf, (self.observation_dim,), np.float64)

    @property
    def action_space(self) -> "spaces.Space[Any]":
        """Space of a policy's actions, which ``control`` turns into those of the actuators."""
        low, high = (x.astype(np.float32) for x in self.control_range)
        scale = np.float32(self.action_scale)
        return spaces.Box(low / scale, high / scale, dtype=np.float32)

    def control(self, action: Array) -> Array:
        """Actuator controls [..., A] of the policy's actions [..., *action_shape].

        By default clip(action_scale * a, low, high). Discrete actions come as whole numbers in
        float64.
        """
        low, high = self.control_range
        return np.clip(self.action_scale * action, low, high)

    @abstractmethod
    def initial_state(self, rng: np.random.Generator, tasks: Array) -> State:
        """Draw an initial state for every row of ``tasks`` [n, task_dim]."""

    @abstractmethod
    def observe(self, state: State, tasks: Array) -> Array:
        """Observations [B, O]."""

    @abstractmethod
    def reward(self, step: Transition) -> Array:
        """Rewards [B] of an env step."""

    def terminated(self, state: State, tasks: Array) -> Mask:
        """Return whether the episode ends in ``state``, [B]; by default never."""
        return np.zeros(len(state.qpos), dtype=bool)

    def success(self, state: State, tasks: Array) -> Mask | None:
        """Return whether a task is solved in ``state``, [B]; None: that is not defined."""
        return None

    def environments(
        self, num_tasks: int, num_envs: int, threads: int = 1, observe_task: bool = False
    ) -> "BatchedEnv":
        from metarl_envs.batch import BatchedEnv

        return BatchedEnv(self, num_tasks, num_envs, threads, observe_task)

    def env(self, task: Any = None, render_mode: str | None = None) -> "gymnasium.Env[Any, Any]":
        from metarl_envs.single import TaskEnv

        return TaskEnv(self, task, render_mode)

    def parallelism(self, threads: int, workers: int) -> int:
        return threads if self.threaded else 1

    @abstractmethod
    def simulator(self, num_sims: int, threads: int = 1) -> Simulator:
        """``num_sims`` simulations on ``threads`` threads (0: all cores)."""


def as_task(family: Family, task: ArrayLike | Mapping[str, float]) -> Array:
    """Return a copy of ``task`` as an array [task_dim].

    Args:
        task: [task_dim], a number where the task has one field, or the value of every field.

    Raises:
        ValueError: it has another shape or other fields, or a value is not a finite number.
    """
    name, names = type(family).__name__, family.task_fields
    rule = f"a task of {name} is {family.task_dim} finite numbers ({', '.join(names)})"
    if isinstance(task, Mapping):
        for field in [*names, *task]:
            require(field in names, f"{rule}; there is no field {field!r}")
            require(field in task, f"{rule}; {field} is missing in {task!r}")
        task = [task[field] for field in names]
    try:
        array = np.array(task, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{rule}, got {task!r}") from None
    array = array[None] if array.ndim == 0 else array
    require(array.shape == (family.task_dim,), f"{rule}, got {task!r}")
    for field, value in zip(names, array.tolist(), strict=True):
        require(math.isfinite(value), f"{rule}; {field} is {value}")
    return array


def native_actions(space: "spaces.Space[Any]", actions: NDArray[Any]) -> NDArray[Any]:
    """Return a policy's actions [..., *action_shape] as those of an environment's space.

    Those of a Box are clipped to it; those of a Discrete space, 0 to n - 1, begin at its start.

    Raises:
        ValueError: a number is not an action of a Discrete space.
    """
    if isinstance(space, spaces.Discrete):
        numbers = actions.astype(np.int64)
        outside = (numbers < 0) | (numbers >= space.n)
        if outside.any():
            raise ValueError(f"action {actions[outside][0]:g} is not one of {space.n}")
        return numbers + np.int64(space.start)
    assert isinstance(space, spaces.Box)
    return np.clip(actions, space.low, space.high).astype(space.dtype)
