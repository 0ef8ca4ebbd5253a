"""Physics, clock and reset noise that the families on gymnasium's MuJoCo bodies share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import mujoco
import numpy as np

from metarl_envs.checks import require, require_choice, require_count
from metarl_envs.family import Array, State, TaskFamily
from metarl_envs.simulator import MujocoSimulator, load_model

VelocityOf = Literal["torso", "centre-of-mass"]
Observation = Literal["gymnasium", "rllab"]


@dataclass(frozen=True, kw_only=True)
class Locomotion(TaskFamily):
    """A family on one of gymnasium's MuJoCo bodies.

    The defaults are gymnasium's environments. Those of rllab, which Finn et al. 2017 used, have
    ``frame_skip`` 1, ``velocity_of`` centre-of-mass, ``observation`` rllab and ``position_noise``
    0.01.

    Args:
        frame_skip: physics steps per env step.
        timestep: physics time step in seconds; null keeps the body's own.
        control_cost: factor on the squared norm of the actuator control.
        reset_noise: at reset, half-width of the uniform noise on qpos and std of the noise on qvel.
        position_noise: at reset, std of Gaussian noise on qpos; null: uniform, see reset_noise.
        velocity_of: velocity in the reward: of the torso (displacement / dt) or of the whole body's
            centre of mass (after the env step).
        observation: gymnasium's, or rllab's with the centre of mass.
    """

    frame_skip: int = 5
    timestep: float | None = None
    control_cost: float = 0.0
    reset_noise: float = 0.1
    position_noise: float | None = None
    velocity_of: VelocityOf = "torso"
    observation: Observation = "gymnasium"

    xml: ClassVar[str]
    """File name of the body in gymnasium's asset folder."""
    hidden_positions: ClassVar[int]
    """How many leading entries of qpos (global x, y) the observation leaves out."""
    is_drawn: ClassVar[bool] = True
    planar: ClassVar[bool] = True
    """Whether the body moves in the plane, or along x only."""
    camera: ClassVar[tuple[float, float, float]]
    """Of videos, looking at the body: azimuth and elevation in degrees, distance in metres."""
    has_rllab: ClassVar[bool] = True
    """Whether rllab's observation and the velocity of the centre of mass are offered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("frame_skip", self.frame_skip)
        require(
            self.timestep is None or self.timestep > 0,
            f"timestep must be positive or null, got {self.timestep}",
        )
        require(self.control_cost >= 0, f"control_cost must not be negative: {self.control_cost}")
        require(self.reset_noise >= 0, f"reset_noise must not be negative: {self.reset_noise}")
        require(
            self.position_noise is None or self.position_noise >= 0,
            f"position_noise must not be negative: {self.position_noise}",
        )
        require_choice("velocity_of", self.velocity_of, get_args(VelocityOf))
        require_choice("observation", self.observation, get_args(Observation))
        require(
            self.has_rllab or (self.observation, self.velocity_of) == ("gymnasium", "torso"),
            f"{type(self).__name__} has observation gymnasium and velocity_of torso only",
        )

    @cached_property
    def model(self) -> mujoco.MjModel:
        return load_model(self.xml, self.timestep, self.contact_impedance, self.derived_fields)

    @property
    def contact_impedance(self) -> tuple[float, float, float] | None:
        """``solimp`` of all geoms (least, greatest, width in metres); None: the body's own."""
        return None

    @property
    def derived_fields(self) -> tuple[str, ...]:
        """Fields of ``mujoco.MjData`` in ``state.derived``. Each one costs speed."""
        return ()

    @property
    def dt(self) -> float:
        return float(self.model.opt.timestep * self.frame_skip)

    @cached_property
    def observation_dim(self) -> int:
        simulator = self.simulator(1)
        return self.observe(simulator.state, np.zeros((1, self.task_dim))).shape[1]

    @cached_property
    def control_range(self) -> tuple[Array, Array]:
        low, high = self.model.actuator_ctrlrange.T
        return low, high

    def initial_state(self, rng: np.random.Generator, tasks: Array) -> State:
        n = len(tasks)
        noise, size = self.reset_noise, (n, self.model.nq)
        if self.position_noise is None:
            position_noise = rng.uniform(-noise, noise, size)
        else:
            position_noise = self.position_noise * rng.standard_normal(size)
        qvel = noise * rng.standard_normal((n, self.model.nv))
        return State(self.start + position_noise, qvel)

    @property
    def start(self) -> Array:
        """qpos [nq] before the noise of a reset."""
        return np.asarray(self.model.qpos0)

    def observe(self, state: State, tasks: Array) -> Array:
        if self.observation == "rllab":
            return self.rllab_observation(state)
        return np.concatenate([state.qpos[:, self.hidden_positions :], state.qvel], axis=1)

    def rllab_observation(self, state: State) -> Array:
        """Observations [B, O] of rllab's environment of this body, where ``has_rllab``."""
        raise NotImplementedError

    def centre_of_mass_velocity(self, state: State) -> Array:
        """Velocity [B, 3] of the centre of mass of the whole body, m/s, where ``has_rllab``."""
        raise NotImplementedError

    def velocity(self, before: State, after: State) -> Array:
        """The velocity that is rewarded, [B, D] m/s; see ``velocity_of``."""
        if self.velocity_of == "centre-of-mass":
            return self.centre_of_mass_velocity(after)[:, : 2 if self.planar else 1]
        return (self.position(after.qpos) - self.position(before.qpos)) / self.dt

    def position(self, qpos: Array) -> Array:
        return qpos[..., : 2 if self.planar else 1]

    def simulator(self, num_sims: int, threads: int = 1) -> MujocoSimulator:
        return MujocoSimulator(
            self.model, self.frame_skip, num_sims, threads, self.derived_fields, self.model_fields
        )

    def model_fields(self, tasks: Array) -> Mapping[str, Array]:
        """Fields of ``mujoco.MjModel`` that follow from ``tasks`` [K, task_dim], each [K, ...].

        Names are those of ``mujoco.batch.Batch.expand``; by default all simulations have the
        body's own.
        """
        return {}
