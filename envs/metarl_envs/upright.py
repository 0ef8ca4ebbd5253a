"""Hopper and walker with random dynamics: run forwards, and do not fall (Rothfuss et al. 2019)."""

from dataclasses import dataclass

import numpy as np

from metarl_envs.checks import require_range
from metarl_envs.family import Array, Mask, State, Transition
from metarl_envs.random_dynamics import RandomDynamics

MAX_SPEED = 10.0
"""Velocities in observations are clipped to +- this (m/s, rad/s), as gymnasium does."""


@dataclass(frozen=True, kw_only=True)
class Upright(RandomDynamics):
    """A planar body that must not fall: reward v + alive_bonus - control_cost * norm(u)^2.

    The env step that ends the episode earns no bonus. At reset, qpos and qvel both have uniform
    noise of half-width ``reset_noise``. Velocities in observations are clipped to +-10.

    Args:
        alive_bonus: added to the reward of every env step that does not end the episode.
        healthy_z: lowest and highest height of the torso, m.
        healthy_angle: lowest and highest angle of the torso, rad.
        healthy_state: lowest and highest of the other coordinates and of velocities; null: any.
    """

    frame_skip: int = 4
    control_cost: float = 0.001
    reset_noise: float = 0.005
    alive_bonus: float = 1.0
    healthy_z: tuple[float, float]
    healthy_angle: tuple[float, float]
    healthy_state: tuple[float, float] | None = None
    hidden_positions = 1
    planar = False
    camera = (90.0, -15.0, 3.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("healthy_z", self.healthy_z)
        require_range("healthy_angle", self.healthy_angle)
        if self.healthy_state is not None:
            require_range("healthy_state", self.healthy_state)

    def initial_state(self, rng: np.random.Generator, tasks: Array) -> State:
        if self.position_noise is not None:
            return super().initial_state(rng, tasks)
        noise, n = self.reset_noise, len(tasks)
        qpos = self.start + rng.uniform(-noise, noise, (n, self.model.nq))
        return State(qpos, rng.uniform(-noise, noise, (n, self.model.nv)))

    def observe(self, state: State, tasks: Array) -> Array:
        velocities = np.clip(state.qvel, -MAX_SPEED, MAX_SPEED)
        return np.concatenate([state.qpos[:, self.hidden_positions :], velocities], axis=1)

    def reward(self, step: Transition) -> Array:
        velocity = self.velocity(step.before, step.after)[:, 0]
        bonus = self.alive_bonus * ~self.terminated(step.after, step.tasks)
        return velocity + bonus - self.control_cost * np.square(step.control).sum(axis=1)

    def terminated(self, state: State, tasks: Array) -> Mask:
        z, angle = state.qpos[:, 1:2], state.qpos[:, 2:3]
        healthy = _within(z, self.healthy_z) & _within(angle, self.healthy_angle)
        if self.healthy_state is not None:
            others = np.concatenate([state.qpos[:, 2:], state.qvel], axis=1)
            healthy &= _within(others, self.healthy_state)
        return ~healthy


@dataclass(frozen=True, kw_only=True)
class HopperParams(Upright):
    """One leg: the body of gymnasium's Hopper-v5. Observation [11]."""

    healthy_z: tuple[float, float] = (0.7, 100.0)
    healthy_angle: tuple[float, float] = (-0.2, 0.2)
    healthy_state: tuple[float, float] | None = (-100.0, 100.0)
    xml = "hopper.xml"


@dataclass(frozen=True, kw_only=True)
class WalkerParams(Upright):
    """Two legs: the body of gymnasium's Walker2d-v5. Observation [17]."""

    healthy_z: tuple[float, float] = (0.8, 2.0)
    healthy_angle: tuple[float, float] = (-1.0, 1.0)
    xml = "walker2d_v5.xml"


def _within(values: Array, bounds: tuple[float, float]) -> Mask:
    """Return whether all numbers of a row [B, ...] lie strictly between two bounds, [B]."""
    low, high = bounds
    return np.asarray(((low < values) & (values < high)).all(axis=1))
