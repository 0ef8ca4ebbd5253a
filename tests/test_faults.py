"""What befalls runs of days, done for real: disks, files, trackers, simulations, families."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metarl.cli import train
from metarl.core.outer import TaskMap
from metarl.core.params import Params
from metarl.metrics import read_metrics
from metarl.run import RunFolder

POINT = ("--checkpoint.every", "2", "--evaluation.every", "0", "--logging.report", "false")
ENDLESS = str(10**6)


def rows(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stop(process: subprocess.Popen) -> list[str]:
    """Ask it to stop; what it has said on standard error."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [line for line in err.splitlines() if "stopping after this iteration" not in line]


@pytest.fixture
def assert_undisturbed(toy, assert_same_outcome) -> Callable[[Path], None]:
    """Resume a run for two more iterations; it should be as one that nothing has happened to."""

    def check(run: Path) -> None:
        iterations = ("--iterations", str(rows(run) + 2))
        assert train(["--resume", str(run), *iterations]) == 0
        assert train([*toy("whole", *POINT, *iterations), "--folder", str(run.parent)]) == 0
        assert_same_outcome(run, run.with_name("whole"))

    return check


def mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)):
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=False)


def _written(file: io.FileIO, data: bytes) -> bool:
    try:
        return bool(file.write(data))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return False
        raise


def test_a_full_disk_stops_nothing_and_loses_nothing(
    toy, start, script, small_disk: Path, assert_undisturbed
):
    arguments = [*toy("run", *POINT, "--iterations", ENDLESS), "--folder", str(small_disk)]
    process = start(script("train"), *arguments)
    run = small_disk / "run"
    wait_until(lambda: rows(run) >= 3, process)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            while _written(filler, b"x" * size):
                pass
    said = [process.stderr.readline() for _ in range(2)]
    assert any("not saved, training goes on: [Errno 28]" in line for line in said), said
    time.sleep(0.2)
    (small_disk / "filler").unlink()
    before = rows(run)
    wait_until(lambda: rows(run) >= before + 20, process)
    stop(process)
    assert [row["iteration"] for row in read_metrics(run / "metrics.jsonl")] == [*range(rows(run))]
    assert not [*run.rglob("*.tmp")]
    assert_undisturbed(run)


def test_checkpoints_that_cannot_be_written_for_a_while_are_written_later(
    toy, start, script, runs: Path, assert_undisturbed
):
    process = start(script("train"), *toy("run", *POINT, "--iterations", ENDLESS))
    run, folder = runs / "run", str(runs / "run" / "checkpoints")
    wait_until(lambda: rows(run) >= 3, process)
    if not (mount("--bind", folder, folder) and mount("-o", "remount,bind,ro", folder)):
        process.kill()
        pytest.skip("making a folder read-only for everybody needs root")
    try:
        said = process.stderr.readline()
        kept = sorted(os.listdir(folder))
        before = rows(run)
        wait_until(lambda: rows(run) >= before + 5, process)
        assert sorted(os.listdir(folder)) == kept
    finally:
        subprocess.run(["umount", folder], check=True)
    assert "not saved, training goes on: [Errno 30] Read-only file system" in said
    stop(process)
    newest = RunFolder.open(run).checkpoints().all()[0]
    assert newest.iteration == rows(run)
    assert_undisturbed(run)


@pytest.mark.parametrize("where", [0.02, 0.5, 0.98])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(toy, runs: Path, capsys, where: float):
    assert train(toy("run", *POINT, "--iterations", "4")) == 0
    newest = runs / "run" / "checkpoints" / "iteration-000004.pt"
    data = bytearray(newest.read_bytes())
    data[int(where * len(data))] ^= 8
    newest.write_bytes(data)
    capsys.readouterr()
    assert train(["--resume", str(runs / "run"), "--iterations", "6"]) == 0
    out, err = capsys.readouterr()
    assert "from iteration 2" in out
    assert re.fullmatch(r"metarl: warning: \S+ is damaged \(its bytes .*\); trying another\n", err)


def test_a_tracker_that_dies_is_left_behind(toy, start, script, runs: Path, tmp_path: Path):
    pytest.importorskip("wandb")
    arguments = toy("run", *POINT, "--iterations", ENDLESS, "--logging.wandb", "offline")
    process = start(script("train"), *arguments)
    wait_until(lambda: rows(runs / "run") >= 3, process)
    services = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"{process.pid}" in _command_line(entry).split()
        if "wandb-core" in _command_line(entry)
    ]
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    before = rows(runs / "run")
    wait_until(lambda: rows(runs / "run") >= before + 50, process)
    said = [line for line in stop(process) if line != "socket.send() raised exception."]
    assert said == ["metarl: warning: wandb failed and is switched off: Connection lost"]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


FAMILY = """
import dataclasses, sys
import numpy as np
import envs
from envs.point import PointNavigation
from metarl.cli import train

limit = int(sys.argv[1])

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(PointNavigation):
    def sample_tasks(self, rng, n):
        Mine.calls = getattr(Mine, "calls", 0) + 1
        if Mine.calls > limit:
            raise KeyError("goal of nobody")
        return super().sample_tasks(rng, n)

envs.FAMILIES["mine"] = Mine
sys.exit(train(sys.argv[2:]))
"""


def test_a_family_that_raises_ends_in_one_line_and_can_be_gone_on_with(toy, start, runs: Path):
    settings = toy("run", *POINT, "--env.family", "mine", "--iterations", "7")
    process = start("-c", FAMILY, "5", *settings)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = err.splitlines()
    kept = runs / "run" / "error.txt"
    assert re.fullmatch(
        r"metarl train: error: KeyError: 'goal of nobody' \(<string>, line \d+\); the traceback is "
        rf"in {kept}; --resume {runs / 'run'} goes on from the last checkpoint",
        line,
    )
    assert kept.read_text().startswith("Traceback")
    assert RunFolder.open(runs / "run").checkpoints().all()[0].iteration == 4
    process = start("-c", FAMILY, "1000", "--resume", str(runs / "run"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "from iteration 4" in out


def test_a_policy_that_breaks_the_simulation_is_counted_and_training_goes_on(toy, runs: Path):
    cheetah = ("--env.family", "half-cheetah-velocity", "--inner.rate", "1e30")
    assert train(toy("run", *POINT, *cheetah, "--iterations", "3")) == 0
    found = read_metrics(runs / "run" / "metrics.jsonl")
    assert len(found) == 3
    assert all(row["episodes/diverged"] > 0 for row in found)
    assert all(row["outer/accepted"] == 0 for row in found), "no step on what is not finite"


def test_out_of_memory_of_the_device_takes_smaller_chunks():
    task_map = TaskMap(chunk_size=7)
    sizes = []

    def objective(meta: Params, task: torch.Tensor) -> torch.Tensor:
        sizes.append(task_map.chunk_size)
        if task_map.chunk_size > 2:  # as on a GPU that holds two tasks
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (meta["x"] * task).sum()

    value, gradient = task_map.mean_and_grad(objective, {"x": torch.ones(())}, torch.arange(7.0))
    assert sizes[:3] == [7, 4, 2]
    assert (float(value), float(gradient["x"])) == (3, 3)

    def never(meta: Params, task: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        TaskMap(chunk_size=4).mean(never, {"x": torch.ones(())}, torch.arange(7.0))
