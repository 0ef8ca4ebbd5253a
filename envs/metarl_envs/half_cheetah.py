"""Half-cheetah: run at a goal velocity, forwards or backwards (Finn et al. 2017, section 5.3)."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metarl_envs.checks import require_range
from metarl_envs.family import Array, State, Target, Transition
from metarl_envs.locomotion import Locomotion
from metarl_envs.planar import PlanarChain
from metarl_envs.random_dynamics import RandomDynamics


@dataclass(frozen=True, kw_only=True)
class HalfCheetah(Locomotion):
    """The planar body of gymnasium's HalfCheetah-v5; subclasses define its reward.

    Observation [17]: qpos without the global x (8), qvel (9); rllab's [20] adds the centre of mass
    (3, with the global x). Never terminates.
    """

    control_cost: float = 0.05
    xml = "half_cheetah.xml"
    hidden_positions = 1
    planar = False
    camera = (90.0, -15.0, 3.5)

    def reward(self, step: Transition) -> Array:
        velocity = self.velocity(step.before, step.after)[:, 0]
        cost = self.control_cost * np.square(step.control).sum(1)
        return self.velocity_reward(velocity, step.tasks) - cost

    @cached_property
    def chain(self) -> PlanarChain:
        return PlanarChain.of(self.model)

    def centre_of_mass_velocity(self, state: State) -> Array:
        return self.chain.velocity(state.qpos, state.qvel)

    def rllab_observation(self, state: State) -> Array:
        centre = self.chain.position(state.qpos)
        return np.concatenate([state.qpos[:, 1:], state.qvel, centre], axis=1)

    @abstractmethod
    def velocity_reward(self, velocity: Array, tasks: Array) -> Array:
        """Reward [B] of moving at ``velocity`` [B], m/s along x."""


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVelocity(HalfCheetah):
    """Run at a goal velocity: reward -abs(v - v*) - control_cost * norm(u)^2.

    Args:
        velocity_range: lowest and highest goal velocity v*, m/s, drawn uniformly.
    """

    velocity_range: tuple[float, float] = (0.0, 2.0)
    task_fields = ("velocity",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("velocity_range", self.velocity_range)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(*self.velocity_range, (n, 1))

    def velocity_reward(self, velocity: Array, tasks: Array) -> Array:
        return -np.abs(velocity - tasks[:, 0])

    def target(self, task: Array) -> Target:
        return Target("velocity", task)


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDirection(HalfCheetah):
    """Run forwards (+1) or backwards (-1): reward d * v - control_cost * norm(u)^2."""

    task_fields = ("direction",)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.choice([-1.0, 1.0], (n, 1))

    def velocity_reward(self, velocity: Array, tasks: Array) -> Array:
        return tasks[:, 0] * velocity

    def target(self, task: Array) -> Target:
        return Target("direction", task)


@dataclass(frozen=True, kw_only=True)
class HalfCheetahParams(HalfCheetah, RandomDynamics):
    """Run forwards with a body that differs by task: reward v - control_cost * norm(u)^2.

    With all factors 1 it is gymnasium's HalfCheetah-v5.
    """

    control_cost: float = 0.1

    def velocity_reward(self, velocity: Array, tasks: Array) -> Array:
        return velocity
