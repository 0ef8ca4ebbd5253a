"""Helpers of the tests that run whole commands."""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.run import main as torchrun

from metarl.core.compile import compiler_fault
from metarl.report.curves import adaptation_curves
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics
from metarl_envs import FAMILIES
from metarl_envs.point import PointNavigation

ROOT = Path(__file__).parents[1]

# Whoever runs the tests may have an account; the tests say themselves when wandb is to be used.
for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]

torch.set_num_threads(1)  # threads of OpenMP spin where a core is busy, and tensors here are small

TOY = [
    *("--config", "smoke"),
    *("--tasks", "3", "--trajectories", "2", "--env.horizon", "5", "--policy.hidden_sizes", "[4]"),
    *("--outer.cg_iterations", "2", "--evaluation.tasks", "2", "--evaluation.trajectories", "2"),
    *("--evaluation.inner_steps", "1", "--logging.wandb", "disabled", "--logging.report", "false"),
    *("--compile", "false"),
]

TOY_SUPERVISED = [
    *("--data.source", "sinusoid", "--model.hidden_sizes", "[4]", "--compile", "false"),
    *("--tasks", "3", "--shots", "2", "--queries", "2", "--iterations", "2"),
    *("--evaluation.tasks", "4", "--evaluation.inner_steps", "1", "--checkpoint.every", "1"),
    *("--logging.wandb", "disabled", "--logging.report", "false", "--outer.average_decay", "0.5"),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=60, help="inputs of every kind in test_fuzz.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_compiler") and compiler_fault():
        pytest.skip("there is no C++ compiler")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache of decoded images is the tests' own, and one for all workers: decoding is slow.

    The key that runs are signed with is the tests' own, too.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_CACHE_HOME"] = str(shared / "cache")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    return os.environ["XDG_CACHE_HOME"]


@pytest.fixture(scope="session")
def toy_settings() -> list[str]:
    """Arguments of ``train`` for a run whose iterations take no time."""
    return TOY


@pytest.fixture(scope="session")
def toy_supervised_settings() -> list[str]:
    """The same for a supervised run."""
    return TOY_SUPERVISED


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
def toy_supervised(runs: Path) -> Callable[..., list[str]]:
    """The same for supervised runs."""

    def arguments(name: str, *overrides: str) -> list[str]:
        return [*TOY_SUPERVISED, "--folder", str(runs), "--name", name, *overrides]

    return arguments


@pytest.fixture
def befalls(
    toy: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Generator[None]]], list[str]]:
    """``befalls(events)``: arguments of an endless toy run, ``run``, beside which events go on.

    A generator's, which comes to its next ``yield`` whenever an iteration draws its tasks.
    """

    def arguments(events: Callable[[], Generator[None]]) -> list[str]:
        happening = events()

        class Eventful(PointNavigation):
            def sample_tasks(self, rng, n):
                next(happening, None)
                return super().sample_tasks(rng, n)

        monkeypatch.setitem(FAMILIES, "eventful", Eventful)
        return toy("run", "--env.family", "eventful", "--iterations", str(10**6))

    return arguments


@contextmanager
def _starting_in(folder: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    processes = []

    def run(*arguments: str, output: int = subprocess.PIPE, **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
        processes.append(process)
        return process

    try:
        yield run
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def starting_in() -> Callable[[Path], AbstractContextManager[Callable[..., subprocess.Popen]]]:
    """``with starting_in(folder) as start``: the same as ``start``, for fixtures of a module."""
    return _starting_in


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """``start(*arguments, **variables)``: start Python in ``tmp_path`` as a user would."""
    with _starting_in(tmp_path) as run:
        yield run


PRELOADED = ["metarl.commands.main", "torch._dynamo", "torch.distributed.run"]


@pytest.fixture(scope="session")
def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture
def fork(_forks: Any) -> Iterator[Callable[..., BaseProcess]]:
    """``fork(function, *arguments)``: call it in a process that need not import anything first."""
    processes = []

    def run(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
        processes.append(process := _forks.Process(target=function, args=arguments))
        process.start()
        return process

    yield run
    for process in processes:
        process.kill()
        process.join()


SETTLE_IN = """
import os, sys
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY), number)
    setattr(sys, name, open(number, "w", closefd=False))
os.chdir(folder)
"""


class Command:
    """A program in a process of its own, used as a ``subprocess.Popen``."""

    def __init__(self, process: BaseProcess, folder: Path):
        self.process = process
        self.stdout, self.stderr = ((folder / name).open() for name in ("stdout", "stderr"))

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def communicate(self) -> tuple[str, str]:
        with self.stdout, self.stderr:
            said = self.stdout.read(), self.stderr.read()
        self.process.join()
        return said


@pytest.fixture
def start_program(fork: Callable[..., BaseProcess], tmp_path: Path) -> Callable[..., Command]:
    """``start_program(source, **values)`` in a new folder, without a wait for imports."""

    def run(source: str, **values: Any) -> Command:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name in ("stdout", "stderr"):
            os.mkfifo(folder / name)
        return Command(fork(exec, SETTLE_IN + source, {"folder": str(folder), **values}), folder)

    return run


@pytest.fixture
def start_command(start_program: Callable[..., Command]) -> Callable[..., Command]:
    """``start_command(train, *arguments)`` in a new folder, without a wait for imports."""

    def run(command: Callable[[list[str]], int], *arguments: str) -> Command:
        source = "sys.exit(command(arguments))"
        return start_program(source, command=command, arguments=[*arguments])

    return run


@pytest.fixture
def start_torchrun(start_command: Callable[..., Command]) -> Callable[..., Command]:
    """``start_torchrun(*arguments)``; its workers need not import anything, restarted ones too."""
    forked = ("--run-path", "--start-method", "fork")
    return lambda *arguments: start_command(torchrun, *forked, *arguments)


@pytest.fixture(scope="session")
def wait_for_rows() -> Callable[[subprocess.Popen | BaseProcess | Command, Path, int], None]:
    """``wait_for_rows(process, run, rows)``: until a running training has written so many."""

    def wait(process: subprocess.Popen | BaseProcess | Command, run: Path, rows: int) -> None:
        file = run / "metrics.jsonl"
        while not file.exists() or file.read_bytes().count(b"\n") < rows:
            if isinstance(process, BaseProcess):
                assert process.is_alive()
            else:
                assert process.poll() is None, process.communicate()
            time.sleep(0.002)  # as long as it takes; pytest's own timeout ends a deadlock

    return wait


@pytest.fixture(scope="session")
def script() -> Callable[[str], str]:
    """``script(name)``: path of ``scripts/<name>.py``."""
    return lambda name: str(ROOT / "scripts" / f"{name}.py")


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have one figure, for tests of what else they say: drawing all takes seconds."""
    monkeypatch.setattr(
        "metarl.report.page.figures", lambda views: {"adaptation": adaptation_curves(views)}
    )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused: code 2, one line, nothing written; returns the line."""

    def run(command: Callable[[list[str]], int], *arguments: str) -> str:
        before = snapshot(workplace)
        capsys.readouterr()
        try:
            code = command(list(arguments))
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.count("\n") == 1, err
        assert re.match(r"metarl( [a-z]+)?: error: \S", err), err
        assert "Traceback" not in err
        assert snapshot(workplace) == before
        return err

    return run


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="session")
def settled() -> Callable[[Path], list[dict[str, Any]]]:
    """``settled(run)``: metrics without what is measured by a clock."""
    return _settled


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], tuple[list[dict[str, Any]], int, dict[str, Any]]]:
    """``outcome(run)``: metrics without timings, the last checkpoint's iteration and state."""
    return _outcome


@pytest.fixture(scope="session")
def assert_same_outcome() -> Callable[[Path, Path], None]:
    """``assert_same_outcome(run, reference)``, bit for bit."""
    return _assert_same_outcome


def _settled(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if not re.match(r"seconds/|env_steps_per_second", k)}
        for row in read_metrics(run / "metrics.jsonl")
    ]


def _outcome(run: Path) -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
    """Metrics without timings; the last checkpoint's iteration and state."""
    checkpoint, state = RunFolder.open(run).checkpoints().load()
    return _settled(run), checkpoint.iteration, state["learner"]


def _assert_same_outcome(run: Path, reference: Path) -> None:
    rows, iteration, state = _outcome(run)
    rows_expected, iteration_expected, expected = _outcome(reference)
    assert rows == rows_expected
    assert [row["iteration"] for row in rows] == list(range(len(rows)))
    assert iteration == iteration_expected == len(rows)
    _assert_equal(state, expected)
    assert (run / "evaluation.json").read_bytes() == (reference / "evaluation.json").read_bytes()


def _assert_equal(found: Any, expected: Any) -> None:
    """Nested dictionaries, bit for bit."""
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key in found:
            _assert_equal(found[key], expected[key])
    elif isinstance(found, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected
