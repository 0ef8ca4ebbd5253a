"""What families on gymnasium's MuJoCo bodies share: the physics, its clock, the reset noise."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import mujoco
import numpy as np

from envs.family import Array, State, TaskFamily, require, require_count
from envs.simulator import MujocoSimulator, load_model


@dataclass(frozen=True, kw_only=True)
class Locomotion(TaskFamily):
    """A family on one of gymnasium's MuJoCo bodies.

    Args:
        frame_skip: physics steps per env step (5: gymnasium profile, 1: paper profile).
        timestep: physics time step in seconds; null keeps the body's own.
        control_cost: factor on the squared norm of the actuator control.
        reset_noise: at reset, half-width of the uniform noise on qpos and std of the noise on qvel.
    """

    frame_skip: int = 5
    timestep: float | None = None
    control_cost: float = 0.0
    reset_noise: float = 0.1

    xml: ClassVar[str]
    """File name of the body in gymnasium's asset folder."""
    hidden_positions: ClassVar[int]
    """How many leading entries of qpos (global x, y) the observation leaves out."""
    planar: ClassVar[bool] = True
    """Whether the body moves in the plane, or along x only."""
    camera: ClassVar[tuple[float, float, float]]
    """Of videos, looking at the body: azimuth and elevation in degrees, distance in metres."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("frame_skip", self.frame_skip)
        require(
            self.timestep is None or self.timestep > 0,
            f"timestep must be positive or null, got {self.timestep}",
        )
        require(self.control_cost >= 0, f"control_cost must not be negative: {self.control_cost}")
        require(self.reset_noise >= 0, f"reset_noise must not be negative: {self.reset_noise}")

    @cached_property
    def model(self) -> mujoco.MjModel:
        return load_model(self.xml, self.timestep)

    @property
    def dt(self) -> float:
        return float(self.model.opt.timestep * self.frame_skip)

    @property
    def observation_dim(self) -> int:
        return int(self.model.nq + self.model.nv - self.hidden_positions)

    @cached_property
    def control_range(self) -> tuple[Array, Array]:
        low, high = self.model.actuator_ctrlrange.T
        return low, high

    def initial_state(self, rng: np.random.Generator, n: int) -> State:
        noise = self.reset_noise
        qpos = self.model.qpos0 + rng.uniform(-noise, noise, (n, self.model.nq))
        return State(qpos, noise * rng.standard_normal((n, self.model.nv)))

    def observe(self, state: State, tasks: Array) -> Array:
        return np.concatenate([state.qpos[:, self.hidden_positions :], state.qvel], axis=1)

    def position(self, qpos: Array) -> Array:
        return qpos[..., : 2 if self.planar else 1]

    def simulator(self, num_sims: int, threads: int = 1) -> MujocoSimulator:
        return MujocoSimulator(self.model, self.frame_skip, num_sims, threads)
