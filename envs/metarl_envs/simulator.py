"""MuJoCo simulations of gymnasium's bodies on the C++ threads of ``mujoco.batch``."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import mujoco.batch
import numpy as np
from numpy.typing import NDArray

from metarl_envs.family import Array, Mask, State

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


TORSO = 1
"""Id of the body at the root of every gymnasium model; 0 is the world."""


@cache
def load_model(
    xml: str,
    timestep: float | None = None,
    solimp: tuple[float, float, float] | None = None,
    fields: Sequence[str] = (),
) -> mujoco.MjModel:
    """Compile one of gymnasium's own MuJoCo bodies.

    Args:
        xml: file name in gymnasium's asset folder.
        timestep: physics time step in seconds; None keeps the file's.
        solimp: contact impedance of all geoms (least, greatest, width in metres); None keeps the
            file's.
        fields: fields of ``mujoco.MjData`` that will be read; the model gets the sensors without
            which the engine does not compute them.

    Raises:
        FileNotFoundError: the installed gymnasium does not ship the file.
    """
    path = ASSETS / xml
    if not path.is_file():
        raise FileNotFoundError(
            f"gymnasium {gymnasium.__version__} does not ship {xml} (looked in {ASSETS})"
        )
    spec = mujoco.MjSpec.from_file(str(path))
    # Scaling the masses after compiling gives the same bits as the deprecated attribute, which
    # prints a warning and writes MUJOCO_LOG.TXT into the working directory.
    total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    _add_sensors(spec, fields)
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    if timestep is not None:
        model.opt.timestep = timestep
    if solimp is not None:
        model.geom_solimp[:, :3] = solimp
    return model


def _add_sensors(spec: mujoco.MjSpec, fields: Sequence[str]) -> None:
    """Add the sensors that make the engine compute ``fields`` in every step."""
    torso = spec.bodies[TORSO]
    if "subtree_linvel" in fields:
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_SUBTREELINVEL,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=torso.name,
        )
    if "cfrc_ext" in fields:  # any force sensor does
        site = torso.add_site(name="metarl_force", group=5)  # not drawn
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_FORCE,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=site.name,
        )


def _no_fields(tasks: Array) -> Mapping[str, Array]:
    return {}


class MujocoSimulator:
    """``num_sims`` simulations of ``model``, ``frame_skip`` physics steps per env step.

    Args:
        model: the body; see ``load_model`` for the sensors that ``fields`` need.
        frame_skip: physics steps per env step.
        num_sims: B.
        threads: physics threads, 0 for all cores.
        fields: fields of ``mujoco.MjData`` in ``state.derived``, of the current state. Forces
            belong to that state and the last control, which is zero after a reset.
        model_fields: fields of the model that follow from tasks [K, task_dim], each [K, ...].
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int,
        num_sims: int,
        threads: int = 1,
        fields: Sequence[str] = (),
        model_fields: Callable[[Array], Mapping[str, Array]] = _no_fields,
    ):
        self._arguments = (model, frame_skip, num_sims, threads, fields, model_fields)
        if mujoco.get_mju_user_warning() is None:
            # Warnings are counted per simulation below; without a handler the engine would also
            # print them and write MUJOCO_LOG.TXT into the working directory.
            mujoco.set_mju_user_warning(lambda message: None)
        self.model = model
        self.batch = mujoco.batch.Batch(model, num_sims, threads)
        self.batch.reset()
        bindings = {name: self.batch.bind(name) for name in fields}
        self.state = State(self.batch.bind("qpos"), self.batch.bind("qvel"), bindings)
        # Without a stage, derived fields would be of the state before the last physics step. Forces
        # cost a quarter of the speed, the others a sixth.
        stages = mujoco.mjtStage
        of_fields = stages.mjSTAGE_ACC if "cfrc_ext" in fields else stages.mjSTAGE_VEL
        self._stage = (of_fields if fields else stages.mjSTAGE_NONE).value
        self._control = self.batch.bind("ctrl")
        self._frame_skip = frame_skip
        self._warnings = self.batch.warning[..., 1].sum(axis=1)
        self._model_fields = model_fields
        self._of_sims: dict[str, Array] = {}  # [B, ...], fields of the model

    def get_state(self) -> tuple[Array, dict[str, Array]]:
        """Return MuJoCo's whole state [B, nstate], and the fields of the model by simulation."""
        return self.batch.state.copy(), {name: x.copy() for name, x in self._of_sims.items()}

    def set_state(self, state: tuple[Array, dict[str, Array]]) -> None:
        array, of_sims = state
        self._set_model(np.arange(len(array)), of_sims)
        self.batch.state[:] = array
        if self.state.derived:
            self.batch.forward(stage=self._stage)
            self.batch.state[:] = array  # without the solver's new warm start
        self._warnings = self.batch.warning[..., 1].sum(axis=1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by state: threads and what they share with us can be neither."""
        return MujocoSimulator, self._arguments, self.get_state()

    __setstate__ = set_state

    def reset(self, ids: NDArray[np.integer], state: State, tasks: Array) -> None:
        self._set_model(ids, self._model_fields(tasks))
        self._put(ids, state)

    def _set_model(self, ids: NDArray[np.integer], values: Mapping[str, Array]) -> None:
        for name, of_tasks in values.items():
            if name not in self._of_sims:
                self._of_sims[name] = self.batch.expand(name)
            self._of_sims[name][ids] = of_tasks
        if values:
            self.batch.set_const()

    def _put(self, ids: NDArray[np.integer], state: State) -> None:
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.state.qpos[ids], self.state.qvel[ids] = state.qpos, state.qvel
        if self.state.derived:
            self.batch.forward(ids, stage=self._stage)
        self._warnings[ids] = self.batch.warning[ids, :, 1].sum(axis=1)

    def step(self, control: Array, noise: Array, ids: NDArray[np.integer] | None = None) -> Mask:
        before = State(self.state.qpos.copy(), self.state.qvel.copy())
        self._control[:] = control
        diverged = np.zeros(len(before.qpos), dtype=bool)
        try:
            self.batch.step(ids, nstep=self._frame_skip, stage=self._stage)
        except mujoco.batch.SimulationError as error:
            diverged[error.ids] = True
        warnings = self.batch.warning[..., 1].sum(axis=1)
        diverged |= (warnings > self._warnings) | ~_is_sane(self.state)
        self._warnings = warnings
        if diverged.any():
            (bad,) = np.nonzero(diverged)
            self._put(bad, State(before.qpos[bad], before.qvel[bad]))
        return diverged


def _is_sane(state: State) -> Mask:
    """Return which simulations are within the engine's own bound, [B]; NaN is not."""
    within = [np.abs(x) <= mujoco.mjMAXVAL for x in (state.qpos, state.qvel)]
    if all(x.all() for x in within):  # at once: the rule, and several times faster than row by row
        return np.ones(len(state.qpos), dtype=bool)
    qpos, qvel = (x.all(axis=1) for x in within)
    return np.asarray(qpos & qvel)
