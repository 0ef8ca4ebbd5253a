"""Ant: move in a direction, at a speed, or to a goal (Finn et al. 2017; Rakelly et al. 2019)."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from metarl_envs.checks import require, require_range
from metarl_envs.family import Array, Mask, State, Target, Transition
from metarl_envs.locomotion import Locomotion
from metarl_envs.random_dynamics import RandomDynamics
from metarl_envs.simulator import TORSO


@dataclass(frozen=True, kw_only=True)
class Ant(Locomotion):
    """The four-legged body of gymnasium's Ant-v5; subclasses define its reward.

    Observation [27]: qpos without the global x and y (13), qvel (14). rllab's [125]: qpos (15),
    qvel (14), contact forces clipped to +-1 (84), rotation matrix of the torso (9), centre of mass
    (3). Terminates when the torso's height leaves ``healthy_z``.

    rllab's environment also has ``timestep`` 0.02, ``contact_cost`` 0.0005, ``crouched`` true and
    ``solimp`` [0.8, 0.8, 0.01].

    Args:
        alive_bonus: added to the reward of every env step.
        healthy_z: lowest and highest torso height in metres; null: an episode never terminates.
        contact_cost: factor on the squared norm of the contact torques (N m) and forces (N) on all
            bodies, each number clipped to +-1; after the env step, under its control.
        crouched: start with bent legs (``init_qpos`` of ant.xml).
        solimp: impedance of contacts (least, greatest, width in metres); null keeps the body's own.
    """

    control_cost: float = 0.5
    alive_bonus: float = 1.0
    healthy_z: tuple[float, float] | None = (0.2, 1.0)
    contact_cost: float = 0.0
    crouched: bool = False
    solimp: tuple[float, float, float] | None = None
    xml = "ant.xml"
    hidden_positions = 2
    camera = (90.0, -40.0, 5.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.healthy_z is not None:
            require_range("healthy_z", self.healthy_z)
        require(self.contact_cost >= 0, f"contact_cost must not be negative: {self.contact_cost}")
        if self.solimp is not None:
            least, greatest, width = self.solimp if np.shape(self.solimp) == (3,) else (0, 0, 0)
            require(
                0 < least < 1 and 0 < greatest < 1 and width > 0,
                "solimp must be null or [least, greatest, width] with least and greatest between 0 "
                f"and 1 and a positive width, got {self.solimp}",
            )

    @property
    def contact_impedance(self) -> tuple[float, float, float] | None:
        if self.solimp is None:
            return None
        least, greatest, width = self.solimp
        return least, greatest, width

    @property
    def derived_fields(self) -> tuple[str, ...]:
        fields = set()
        if self.velocity_of == "centre-of-mass":
            fields |= {"subtree_linvel"}
        if self.contact_cost:
            fields |= {"cfrc_ext"}
        if self.observation == "rllab":
            fields |= {"cfrc_ext", "xmat", "subtree_com"}
        return tuple(sorted(fields))

    @property
    def start(self) -> Array:
        if not self.crouched:
            return super().start
        return np.asarray(self.model.numeric("init_qpos").data)

    def reward(self, step: Transition) -> Array:
        cost = self.control_cost * np.square(step.control).sum(axis=1)
        if self.contact_cost:
            cost += self.contact_cost * np.square(_contact_forces(step.after)).sum(axis=1)
        velocity = self.velocity(step.before, step.after)
        motion = self.motion_reward(step.after.qpos[:, :2], velocity, step.tasks)
        return motion - cost + self.alive_bonus

    def centre_of_mass_velocity(self, state: State) -> Array:
        return state.derived["subtree_linvel"][:, TORSO]

    def rllab_observation(self, state: State) -> Array:
        fields = state.derived
        return np.concatenate(
            [
                *(state.qpos, state.qvel, _contact_forces(state)),
                *(fields["xmat"][:, TORSO], fields["subtree_com"][:, TORSO]),
            ],
            axis=1,
        )

    @abstractmethod
    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        """Reward [B] of the torso's ``position`` [B, 2] (m) and of ``velocity`` [B, 2] (m/s)."""

    def terminated(self, state: State, tasks: Array) -> Mask:
        if self.healthy_z is None:
            return super().terminated(state, tasks)
        low, high = self.healthy_z
        z = state.qpos[:, 2]
        return (z < low) | (z > high)


@dataclass(frozen=True, kw_only=True)
class AntDirection(Ant):
    """Move towards an angle in the plane: v . (cos, sin) - control_cost * norm(u)^2 + alive_bonus.

    The task is the angle in radians, uniform in [0, 2 pi).
    """

    task_fields = ("angle",)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(0.0, 2 * np.pi, (n, 1))

    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        angle = tasks[:, 0]
        return velocity[:, 0] * np.cos(angle) + velocity[:, 1] * np.sin(angle)

    def target(self, task: Array) -> Target:
        return Target("direction", np.array([np.cos(task[0]), np.sin(task[0])]))


@dataclass(frozen=True, kw_only=True)
class AntForwardBackward(Ant):
    """Move along +x (+1) or -x (-1): d * v_x - control_cost * norm(u)^2 + alive_bonus."""

    task_fields = ("direction",)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.choice([-1.0, 1.0], (n, 1))

    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        return tasks[:, 0] * velocity[:, 0]

    def target(self, task: Array) -> Target:
        return Target("direction", np.array([task[0], 0.0]))


@dataclass(frozen=True, kw_only=True)
class AntVelocity(Ant):
    """Move along x at a goal velocity.

    Reward -abs(v_x - v*) + velocity_bonus - control_cost * norm(u)^2 + alive_bonus.

    Args:
        velocity_range: lowest and highest goal velocity v*, m/s, drawn uniformly.
        velocity_bonus: added to the velocity's part of the reward.
    """

    control_cost: float = 0.005
    alive_bonus: float = 0.05
    velocity_range: tuple[float, float] = (0.0, 3.0)
    velocity_bonus: float = 1.0
    task_fields = ("velocity",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("velocity_range", self.velocity_range)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        return rng.uniform(*self.velocity_range, (n, 1))

    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        return self.velocity_bonus - np.abs(velocity[:, 0] - tasks[:, 0])

    def target(self, task: Array) -> Target:
        return Target("velocity", task)


@dataclass(frozen=True, kw_only=True)
class AntGoal(Ant):
    """Move to a goal: reward -norm_1(xy - goal) - control_cost * norm(u)^2; never terminates.

    Observation [29]: qpos with x and y (15), qvel (14).

    Args:
        goal_radius: radius in metres of the disc that goals are drawn from uniformly.
    """

    control_cost: float = 0.1
    alive_bonus: float = 0.0
    healthy_z: tuple[float, float] | None = None
    goal_radius: float = 3.0
    task_fields = ("goal_x", "goal_y")
    hidden_positions = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.goal_radius > 0, f"goal_radius must be positive, got {self.goal_radius}")

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        # The square root makes the density uniform over the area.
        radius = self.goal_radius * np.sqrt(rng.random(n))
        angle = rng.uniform(0.0, 2 * np.pi, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        return -np.abs(position - tasks).sum(axis=1)

    def target(self, task: Array) -> Target:
        return Target("position", task)


@dataclass(frozen=True, kw_only=True)
class AntParams(Ant, RandomDynamics):
    """Run along x with a body that differs by task: v_x - control_cost * norm(u)^2 + alive_bonus.

    The env step that ends the episode earns no bonus. With all factors 1 it is gymnasium's Ant-v5
    without contact forces; ``contact_cost`` 0.0005 adds them to the reward.
    """

    def reward(self, step: Transition) -> Array:
        ends = self.terminated(step.after, step.tasks)
        return super().reward(step) - self.alive_bonus * ends

    def motion_reward(self, position: Array, velocity: Array, tasks: Array) -> Array:
        return velocity[:, 0]


def _contact_forces(state: State) -> Array:
    """Torques and forces of contacts on every body, clipped to +-1, [B, 6 bodies]."""
    forces = state.derived["cfrc_ext"]
    return np.clip(forces, -1.0, 1.0).reshape(len(forces), -1)
