"""Families on gymnasium's classic control: the task is the physics."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl_envs.checks import require_range
from metarl_envs.family import Array
from metarl_envs.gym_family import GymFamily

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PhysicsFamily(GymFamily):
    """Tasks are constants of the physics, each uniform in the setting ``NAME_range``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high, name in zip(*self._bounds.T, self.task_fields, strict=True):
            require_range(f"{name}_range", (float(low), float(high)))

    @property
    def _bounds(self) -> Array:
        return np.array([getattr(self, f"{name}_range") for name in self.task_fields])

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        low, high = self._bounds.T
        return rng.uniform(low, high, (n, self.task_dim))


@dataclass(frozen=True, kw_only=True)
class CartPole(PhysicsFamily):
    """Gymnasium's CartPole-v1 with random physics: reward 1 per env step that the pole stands.

    Observation [4]: position and velocity of the cart, angle and angular velocity of the pole.
    Two actions: push to the left or to the right.

    Args:
        half_length_range: half of the pole's length, m.
        gravity_range: m/s^2.
        cart_mass_range: kg.
        pole_mass_range: kg.
        force_range: size of a push, N.
    """

    half_length_range: Range = (0.25, 2.0)
    gravity_range: Range = (5.0, 15.0)
    cart_mass_range: Range = (0.5, 2.0)
    pole_mass_range: Range = (0.05, 0.5)
    force_range: Range = (5.0, 15.0)

    env_id = "CartPole-v1"
    task_fields = ("half_length", "gravity", "cart_mass", "pole_mass", "force")

    def set_task(self, env: Any, task: Array) -> None:
        body = env.unwrapped
        body.length, body.gravity, body.masscart, body.masspole, body.force_mag = task.tolist()
        body.total_mass = body.masscart + body.masspole
        body.polemass_length = body.masspole * body.length


@dataclass(frozen=True, kw_only=True)
class Pendulum(PhysicsFamily):
    """Gymnasium's Pendulum-v1 with random physics: swing up, reward -(angle^2 + ...).

    Observation [3]: cosine and sine of the angle, angular velocity. Action [1]: torque, N m.

    Args:
        mass_range: kg.
        length_range: m.
        gravity_range: m/s^2.
    """

    mass_range: Range = (0.5, 1.5)
    length_range: Range = (0.5, 1.5)
    gravity_range: Range = (5.0, 12.0)

    env_id = "Pendulum-v1"
    task_fields = ("mass", "length", "gravity")

    def set_task(self, env: Any, task: Array) -> None:
        env.unwrapped.m, env.unwrapped.l, env.unwrapped.g = task.tolist()


@dataclass(frozen=True, kw_only=True)
class MountainCar(PhysicsFamily):
    """Gymnasium's MountainCarContinuous-v0 with random power and goal: 100 for the goal, less the
    control's cost.

    Observation [2]: position and velocity. Action [1]: force, in [-1, 1].

    Args:
        power_range: factor on the force; gymnasium's is 0.0015.
        goal_range: position of the goal, m; gymnasium's is 0.45.
    """

    power_range: Range = (0.001, 0.003)
    goal_range: Range = (0.2, 0.5)

    env_id = "MountainCarContinuous-v0"
    task_fields = ("power", "goal")

    def set_task(self, env: Any, task: Array) -> None:
        env.unwrapped.power, env.unwrapped.goal_position = task.tolist()
