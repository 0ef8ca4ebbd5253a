"""MuJoCo simulations of gymnasium's bodies on the C++ threads of ``mujoco.batch``."""

from functools import cache
from pathlib import Path

import gymnasium
import mujoco
import mujoco.batch
import numpy as np
from numpy.typing import NDArray

from envs.family import Array, Mask, State

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


@cache
def load_model(xml: str, timestep: float | None = None) -> mujoco.MjModel:
    """Compile one of gymnasium's own MuJoCo bodies.

    Args:
        xml: file name in gymnasium's asset folder.
        timestep: physics time step in seconds; None keeps the file's.

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
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    if timestep is not None:
        model.opt.timestep = timestep
    return model


class MujocoSimulator:
    """``num_sims`` simulations of ``model``, ``frame_skip`` physics steps per env step."""

    def __init__(self, model: mujoco.MjModel, frame_skip: int, num_sims: int, threads: int = 1):
        if mujoco.get_mju_user_warning() is None:
            # Warnings are counted per simulation below; without a handler the engine would also
            # print them and write MUJOCO_LOG.TXT into the working directory.
            mujoco.set_mju_user_warning(lambda message: None)
        self.model = model
        self.batch = mujoco.batch.Batch(model, num_sims, threads)
        self.batch.reset()
        self.state = State(self.batch.bind("qpos"), self.batch.bind("qvel"))
        self._control = self.batch.bind("ctrl")
        self._frame_skip = frame_skip
        self._warnings = self.batch.warning[..., 1].sum(axis=1)

    def reset(self, ids: NDArray[np.integer], state: State) -> None:
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.state.qpos[ids], self.state.qvel[ids] = state
        self._warnings[ids] = self.batch.warning[ids, :, 1].sum(axis=1)

    def step(self, control: Array, ids: NDArray[np.integer] | None = None) -> Mask:
        before = self.state.copy()
        self._control[:] = control
        diverged = np.zeros(len(before.qpos), dtype=bool)
        try:
            self.batch.step(ids, nstep=self._frame_skip)
        except mujoco.batch.SimulationError as error:
            diverged[error.ids] = True
        warnings = self.batch.warning[..., 1].sum(axis=1)
        diverged |= (warnings > self._warnings) | ~_is_sane(self.state)
        self._warnings = warnings
        if diverged.any():
            (bad,) = np.nonzero(diverged)
            self.reset(bad, State(before.qpos[bad], before.qvel[bad]))
        return diverged


def _is_sane(state: State) -> Mask:
    """Which simulations the engine would go on with, [B]: its own bound, which NaN fails too."""
    within = [np.abs(x) <= mujoco.mjMAXVAL for x in state]
    if all(x.all() for x in within):  # at once: the rule, and several times faster than row by row
        return np.ones(len(state.qpos), dtype=bool)
    qpos, qvel = (x.all(axis=1) for x in within)
    return np.asarray(qpos & qvel)
