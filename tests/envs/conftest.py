import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import metarl_envs
from metarl_envs.registry import SIMULATED

ROOT = Path(metarl_envs.__file__).parents[1]


@pytest.fixture(params=list(SIMULATED))
def name(request: pytest.FixtureRequest) -> str:
    """Every name in the registry in turn."""
    return request.param


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MuJoCo writes MUJOCO_LOG.TXT into the working directory when it has something to say.
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter, in the test's empty working directory."""

    def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


DRAWS = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 16, 16)"


@pytest.fixture
def run_with_opengl(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """``run_python`` with a ``MUJOCO_GL`` that works; skips the test where none does."""
    choices = [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else ["egl", "osmesa"]
    for choice in choices:
        if run_python(DRAWS, MUJOCO_GL=choice).returncode == 0:
            return lambda program: run_python(program, MUJOCO_GL=choice)
    pytest.skip(f"no OpenGL library draws here, tried MUJOCO_GL={' and '.join(choices)}")
