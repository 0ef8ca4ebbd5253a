"""The centre of mass of planar bodies as a function of their joints, without the engine."""

from typing import NamedTuple

import mujoco
import numpy as np

from metarl_envs.family import Array
from metarl_envs.simulator import TORSO

ROOT_JOINTS = 3  # the torso slides along x and z, and turns about y


class PlanarChain(NamedTuple):
    """Links in the x-z plane: the torso slides along x and z, and every link turns about y.

    Relative to the torso, the centre of mass is a sum of one constant vector a link, turned by the
    link's angle: the sum over the link itself and all links beyond it. L links, B bodies.
    """

    start: Array  # [2], x and z of the torso at qpos 0
    angles: Array  # [L, L], angles of the joints -> angles of the links
    offsets: Array  # [L, 2], x and z in the link's own frame, m
    y: float  # of the centre of mass

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "PlanarChain":
        """The chain of a model.

        Raises:
            ValueError: the model is not a planar chain with one hinge a link.
        """
        links = np.arange(TORSO, model.nbody)
        hinges = np.arange(ROOT_JOINTS - 1, model.njnt)
        _require_planar(model, links, hinges)
        axis = model.jnt_axis[hinges, 1]
        parent = model.body_parentid[links] - TORSO
        share = model.body_mass / model.body_mass.sum()
        angles = np.zeros((len(links), len(links)))
        offsets = share[links, None] * model.body_ipos[links][:, [0, 2]]
        for link in range(len(links)):  # parents come before their children
            if link > 0:
                angles[link] = angles[parent[link]]
            angles[link, link] += axis[link]
        beyond = share[links].copy()
        for link in reversed(range(1, len(links))):
            offsets[parent[link]] += beyond[link] * model.body_pos[links[link]][[0, 2]]
            beyond[parent[link]] += beyond[link]
        y = float(share @ model.body_ipos[:, 1])
        return cls(model.body_pos[TORSO][[0, 2]].copy(), angles, offsets, y)

    def position(self, qpos: Array) -> Array:
        """Centre of mass [B, 3] in metres at ``qpos`` [B, 2 + L]."""
        centre = np.empty((len(qpos), 3))
        sin, cos = self._turns(qpos)
        x, z = self.offsets.T
        centre[:, 0] = self.start[0] + qpos[:, 0] + cos @ x + sin @ z
        centre[:, 1] = self.y
        centre[:, 2] = self.start[1] + qpos[:, 1] + cos @ z - sin @ x
        return centre

    def velocity(self, qpos: Array, qvel: Array) -> Array:
        """Velocity [B, 3] of the centre of mass in m/s at ``qpos`` and ``qvel`` [B, 2 + L]."""
        velocity = np.zeros((len(qpos), 3))
        sin, cos = self._turns(qpos)
        x, z = self.offsets.T
        turning = qvel[:, ROOT_JOINTS - 1 :] @ self.angles.T
        sin, cos = turning * sin, turning * cos
        velocity[:, 0] = qvel[:, 0] + cos @ z - sin @ x
        velocity[:, 2] = qvel[:, 1] - cos @ x - sin @ z
        return velocity

    def _turns(self, qpos: Array) -> tuple[Array, Array]:
        """Sine and cosine of every link's angle, each [B, L]."""
        angle = qpos[:, ROOT_JOINTS - 1 :] @ self.angles.T
        return np.sin(angle), np.cos(angle)


def _require_planar(model: mujoco.MjModel, links: Array, hinges: Array) -> None:
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    kinds = [slide] * (ROOT_JOINTS - 1) + [hinge] * len(links)
    if not (
        model.jnt_type.tolist() == kinds
        and np.array_equal(model.jnt_axis[: ROOT_JOINTS - 1], [[1, 0, 0], [0, 0, 1]])
        and not np.delete(model.jnt_axis[hinges], 1, axis=1).any()
        and not model.jnt_pos.any()
        and not model.qpos0[[0, *hinges]].any()
        and np.array_equal(model.jnt_bodyid[hinges], links)
        and (model.body_quat[links] == [1, 0, 0, 0]).all()
    ):
        raise ValueError("the model is not a chain of links in the x-z plane")
