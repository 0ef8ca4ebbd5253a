"""Tasks that change the physics of a MuJoCo body (Rothfuss et al. 2019, appendix A)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl_envs.checks import require, require_range
from metarl_envs.family import Array
from metarl_envs.locomotion import Locomotion


class Part(NamedTuple):
    """A field of ``mujoco.MjModel`` that tasks scale."""

    field: str
    entries: NDArray[np.bool_]  # those that have a column in the task array
    names: list[str]  # of the columns


@dataclass(frozen=True, kw_only=True)
class RandomDynamics(Locomotion):
    """Masses, inertias, dampings and frictions that differ by task; the reward is the body's.

    A task has a column for every number that it scales: a factor, 1 for the body as it is. Factors
    are 1.5^u with u uniform in ``exponent_range``, independent of each other.

    Args:
        exponent_range: lowest and highest u.
        damping_base: base of the factors on damping; code published for Rothfuss et al. has 1.3.
    """

    exponent_range: tuple[float, float] = (-3.0, 3.0)
    damping_base: float = 1.5
    has_rllab = False  # half-cheetah's centre of mass is that of its own masses

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("exponent_range", self.exponent_range)
        require(self.damping_base > 1, f"damping_base must be above 1, got {self.damping_base}")

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The scaled fields, in the order of their columns."""
        return _parts(self.model)

    @property
    def task_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for part in self.parts for name in part.names)

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Array:
        is_damping = [part.field == "dof_damping" for part in self.parts for _ in part.names]
        bases = np.where(is_damping, self.damping_base, 1.5)
        return bases ** rng.uniform(*self.exponent_range, (n, self.task_dim))

    def model_fields(self, tasks: Array) -> Mapping[str, Array]:
        require(bool((tasks > 0).all()), "the factors of a task must be positive")
        ends = np.cumsum([len(part.names) for part in self.parts])[:-1]
        fields = {}
        for part, factors in zip(self.parts, np.split(tasks, ends, axis=1), strict=True):
            own = getattr(self.model, part.field)
            fields[part.field] = values = np.broadcast_to(own, (len(tasks), *own.shape)).copy()
            values[:, part.entries] *= factors
        return fields


def _parts(model: mujoco.MjModel) -> tuple[Part, ...]:
    bodies = [model.body(i).name or f"body_{i}" for i in range(model.nbody)]
    geoms = [model.geom(i).name or f"geom_{i}" for i in range(model.ngeom)]
    dofs = [model.joint(joint).name for joint in model.dof_jntid]
    axes = ("x", "y", "z")
    kinds = ("sliding", "torsional", "rolling")
    names = {
        "body_mass": [f"mass_{body}" for body in bodies],
        "body_inertia": [[f"inertia_{axis}_{body}" for axis in axes] for body in bodies],
        "dof_damping": [f"damping_{dof}" for dof in dofs],
        "geom_friction": [[f"friction_{kind}_{geom}" for kind in kinds] for geom in geoms],
    }
    parts = []
    for field, columns in names.items():
        entries = getattr(model, field) != 0  # a factor on 0 would change nothing
        parts.append(Part(field, entries, np.array(columns)[entries].tolist()))
    return tuple(parts)
