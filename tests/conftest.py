"""Helpers of the tests that run whole commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Whoever runs the tests may have an account; the tests say themselves when wandb is to be used.
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]

TOY = [
    *("--config", "smoke"),
    *("--tasks", "3", "--trajectories", "2", "--env.horizon", "5", "--policy.hidden_sizes", "[4]"),
    *("--outer.cg_iterations", "2", "--evaluation.tasks", "2", "--evaluation.trajectories", "2"),
    *("--evaluation.inner_steps", "1", "--logging.wandb", "disabled", "--logging.report", "false"),
]


@pytest.fixture(scope="session")
def toy_settings() -> list[str]:
    """Arguments of ``train`` for a run whose iterations take no time."""
    return TOY


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where ``toy`` runs are kept."""
    return tmp_path / "runs"


@pytest.fixture
def toy(runs: Path) -> Callable[..., list[str]]:
    """``toy(name, *overrides)``: arguments of ``train`` for such a run in ``runs/name``."""

    def arguments(name: str, *overrides: str) -> list[str]:
        return [*TOY, "--folder", str(runs), "--name", name, *overrides]

    return arguments


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """``start(*arguments, **variables)``: start Python in ``tmp_path`` as a user would."""
    processes = []

    def run(*arguments: str, output: int = subprocess.PIPE, **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def script() -> Callable[[str], str]:
    """``script(name)``: path of ``scripts/<name>.py``."""
    return lambda name: str(ROOT / "scripts" / f"{name}.py")
