"""Bernoulli bandits and random Markov decision processes (Duan et al. 2016, section 4)."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl_envs.checks import require, require_count
from metarl_envs.family import Array, Mask, State, TaskFamily, Transition

NextState = Callable[[NDArray[np.int64], NDArray[np.int64], Array, Array], Any]
"""Next states [B] of states [B], actions [B], tasks [B, task_dim] and noise [B, noise_dim]."""


class TableSimulator:
    """B simulations whose state is one whole number."""

    def __init__(self, num_sims: int, task_dim: int, next_state: NextState):
        self.state = State(np.zeros((num_sims, 1)), np.zeros((num_sims, 0)))
        self._tasks = np.zeros((num_sims, task_dim))
        self._next_state = next_state

    def reset(self, ids: NDArray[np.integer], state: State, tasks: Array) -> None:
        self.state.qpos[ids], self._tasks[ids] = state.qpos, tasks

    def step(self, control: Array, noise: Array, ids: NDArray[np.integer] | None = None) -> Mask:
        moving = np.arange(len(control)) if ids is None else ids
        state = self.state.qpos[moving, 0].astype(np.int64)
        action = control[moving, 0].astype(np.int64)
        self.state.qpos[moving, 0] = self._next_state(
            state, action, self._tasks[moving], noise[moving]
        )
        return np.zeros(len(control), dtype=bool)

    def get_state(self) -> tuple[Array, Array]:
        return self.state.qpos.copy(), self._tasks.copy()

    def set_state(self, state: tuple[Array, Array]) -> None:
        self.state.qpos[:], self._tasks[:] = state


@dataclass(frozen=True, kw_only=True)
class TableFamily(TaskFamily):
    """A family with discrete actions and no body."""

    threaded = False

    @property
    @abstractmethod
    def number_of_actions(self) -> int: ...

    @property
    def action_space(self) -> "spaces.Discrete":
        return spaces.Discrete(self.number_of_actions)

    @property
    def control_range(self) -> tuple[Array, Array]:
        return np.zeros(1), np.full(1, self.number_of_actions - 1.0)

    def control(self, action: Array) -> Array:
        return action[..., None]

    def initial_state(self, rng: np.random.Generator, tasks: Array) -> State:
        return State(np.zeros((len(tasks), 1)), np.zeros((len(tasks), 0)))


def _same_state(
    state: NDArray[np.int64], action: NDArray[np.int64], tasks: Array, noise: Array
) -> Any:
    return state


@dataclass(frozen=True, kw_only=True)
class Bandit(TableFamily):
    """Bernoulli bandit: an arm pays 1 with a probability of its own, which is uniform in [0, 1].

    Observation [1]: a constant. The task is the arms' probabilities.

    Args:
        horizon: pulls per episode.
        arms: number of arms.
    """

    horizon: int = 10
    arms: int = 10
    noise_dim = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("arms", self.arms)

    @property
    def task_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"arm_{k}" for k in range(self.arms))

    @property
    def number_of_actions(self) -> int:
        return self.arms

    @property
    def observation_dim(self) -> int:
        return 1

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(size=(n, self.arms))

    def observe(self, state: State, tasks: Array) -> Array:
        return np.ones((len(tasks), 1))

    def reward(self, step: Transition) -> Array:
        arm = step.control[:, 0].astype(np.int64)
        paying = step.noise[:, 0] < step.tasks[np.arange(len(arm)), arm]
        return paying.astype(np.float64)

    def optimum(self, task: Array) -> float:
        return self.horizon * float(task.max())

    def simulator(self, num_sims: int, threads: int = 1) -> TableSimulator:
        return TableSimulator(num_sims, self.task_dim, _same_state)


@dataclass(frozen=True, kw_only=True)
class RandomMDP(TableFamily):
    """Random MDP: transitions from a flat Dirichlet distribution, mean rewards from N(1, 1).

    Rewards have the standard deviation ``reward_noise``. Episodes begin in state 0.

    Observation [states]: the state, one-hot. The task is the number that its tables follow from.

    Args:
        horizon: env steps per episode.
        states: number of states.
        actions: number of actions.
        reward_noise: standard deviation of a reward.
    """

    horizon: int = 10
    states: int = 10
    actions: int = 5
    reward_noise: float = 1.0
    task_fields = ("number",)
    noise_dim = 3  # the transition; two of a normal number

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("states", self.states)
        require_count("actions", self.actions)
        require(self.reward_noise >= 0, f"reward_noise must be >= 0, got {self.reward_noise}")

    @property
    def number_of_actions(self) -> int:
        return self.actions

    @property
    def observation_dim(self) -> int:
        return self.states

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.integers(2**31, size=(n, 1)).astype(np.float64)

    def tables(self, task: Array) -> tuple[Array, Array]:
        """Transition probabilities [S, A, S] and mean rewards [S, A] of a task [1]."""
        return _tables(self.states, self.actions, int(task[0]))

    def observe(self, state: State, tasks: Array) -> Array:
        return np.eye(self.states)[state.qpos[:, 0].astype(np.int64)]

    def reward(self, step: Transition) -> Array:
        state, action = (x[:, 0].astype(np.int64) for x in (step.before.qpos, step.control))
        means = self._of_all(step.tasks, 1)
        normal = np.sqrt(-2 * np.log1p(-step.noise[:, 1])) * np.cos(2 * np.pi * step.noise[:, 2])
        mean: Array = means(state, action)
        return mean + self.reward_noise * normal

    def optimum(self, task: Array) -> float:
        transitions, rewards = self.tables(task)
        values = np.zeros(self.states)
        for _ in range(self.horizon):
            values = (rewards + transitions @ values).max(axis=1)
        return float(values[0])

    def simulator(self, num_sims: int, threads: int = 1) -> TableSimulator:
        return TableSimulator(num_sims, self.task_dim, self._next_state)

    def _next_state(
        self, state: NDArray[np.int64], action: NDArray[np.int64], tasks: Array, noise: Array
    ) -> Any:
        up_to = self._of_all(tasks, 0)(state, action).cumsum(axis=1)
        return np.minimum((noise[:, :1] >= up_to).sum(axis=1), self.states - 1)

    def _of_all(self, tasks: Array, which: int) -> Callable[..., Array]:
        """Return the tables of all simulations as a function of their states and actions."""
        numbers, rows = np.unique(tasks[:, 0], return_inverse=True)
        tables = np.stack([self.tables(np.array([number]))[which] for number in numbers])
        return lambda state, action: tables[rows, state, action]


@lru_cache(maxsize=4096)
def _tables(states: int, actions: int, number: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(number)
    transitions = rng.dirichlet(np.ones(states), (states, actions))
    return transitions, rng.normal(1.0, 1.0, (states, actions))
