"""What befalls runs of days, done for real: disks, files, trackers, simulations, families."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from metarl.commands.main import evaluate, train
from metarl.commands.training import _describe
from metarl.core.params import Params
from metarl.core.task_map import TaskMap
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics

POINT = ("--checkpoint.every", "2", "--evaluation.every", "0", "--logging.report", "false")
ENDLESS = str(10**6)


def rows(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def assert_undisturbed(toy, assert_same_outcome) -> Callable[[Path], None]:
    """Resume a run for two more iterations; it should be as one that nothing has happened to."""

    def check(run: Path) -> None:
        iterations = ("--iterations", str(rows(run) + 2))
        assert train(["--resume", str(run), *iterations]) == 0
        whole = toy("whole", *POINT, "--env.family", "eventful", *iterations)
        assert train([*whole, "--folder", str(run.parent)]) == 0
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


def fill(filler: Path) -> None:
    """Leave no byte of a disk free."""
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while _written(file, b"x" * size):
                pass


def _written(file: io.FileIO, data: bytes) -> bool:
    try:
        return bool(file.write(data))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return False
        raise


def test_a_full_disk_stops_nothing_and_loses_nothing(
    befalls, small_disk: Path, assert_undisturbed, capsys
):
    run, filler = small_disk / "run", small_disk / "filler"
    said = []

    def events():
        while rows(run) < 3:
            yield
        fill(filler)
        full = rows(run)
        for _ in range(6):
            yield
        said.append(capsys.readouterr().err)
        filler.unlink()
        while rows(run) < full + 5:
            yield
        ask_to_stop()

    assert train([*befalls(events), *POINT, "--folder", str(small_disk)]) == 0
    assert re.search(r"not saved, training goes on: \[Errno 28\]", said[0])
    assert [row["iteration"] for row in read_metrics(run / "metrics.jsonl")] == [*range(rows(run))]
    assert not [*run.rglob("*.tmp")]
    assert_undisturbed(run)


def test_a_disk_that_is_full_at_the_end_costs_what_came_after_the_newest_checkpoint(
    befalls, small_disk: Path, capsys
):
    run, filler = small_disk / "run", small_disk / "filler"

    def events():
        while rows(run) < 5:
            yield
        fill(filler)

    words = [*befalls(events), *POINT, "--iterations", "9", "--folder", str(small_disk)]
    assert train(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"metarl train: error: cannot write {run}/")
    filler.unlink()
    newest = RunFolder.open(run).checkpoints().all()[0].iteration
    assert evaluate([str(run)]) == 0
    record, _ = RunFolder.open(run).load_evaluation()
    assert record.iteration == newest < 9
    assert train(["--resume", str(run)]) == 0
    assert RunFolder.open(run).checkpoints().all()[0].iteration == 9


def test_checkpoints_that_cannot_be_written_for_a_while_are_written_later(
    befalls, runs: Path, assert_undisturbed, capsys
):
    run, folder = runs / "run", str(runs / "run" / "checkpoints")
    said = []

    def events():
        while rows(run) < 3:
            yield
        if not mount("--bind", folder, folder):
            ask_to_stop()
            return
        try:
            if mount("-o", "remount,bind,ro", folder):
                kept = sorted(os.listdir(folder))
                for _ in range(5):
                    yield
                assert sorted(os.listdir(folder)) == kept
                said.append(capsys.readouterr().err)
        finally:
            subprocess.run(["umount", folder], check=True)
        ask_to_stop()

    assert train([*befalls(events), *POINT]) == 0
    if not said:
        pytest.skip("making a folder read-only for everybody needs root")
    assert "not saved, training goes on: [Errno 30] Read-only file system" in said[0]
    newest = RunFolder.open(run).checkpoints().all()[0]
    assert newest.iteration == rows(run)
    assert_undisturbed(run)


@pytest.fixture(scope="module")
def four_iterations(tmp_path_factory: pytest.TempPathFactory, toy_settings: list[str]) -> Path:
    place = ("--folder", str(tmp_path_factory.mktemp("runs")), "--name", "run")
    assert train([*toy_settings, *POINT, *place, "--iterations", "4"]) == 0
    return Path(place[1]) / "run"


@pytest.mark.parametrize("where", [0.02, 0.5, 0.98])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(
    four_iterations: Path, tmp_path: Path, capsys, where: float
):
    run = shutil.copytree(four_iterations, tmp_path / "run")
    newest = run / "checkpoints" / "iteration-000004.pt"
    data = bytearray(newest.read_bytes())
    data[int(where * len(data))] ^= 8
    newest.write_bytes(data)
    capsys.readouterr()
    assert train(["--resume", str(run), "--iterations", "6"]) == 0
    out, err = capsys.readouterr()
    assert "from iteration 2" in out
    assert re.fullmatch(
        r"metarl: warning: \S+ is damaged \(its bytes .*\); using iteration \d+ instead\n", err
    )


def test_a_tracker_that_dies_is_left_behind(toy, start_command, wait_for_rows, runs: Path):
    pytest.importorskip("wandb")
    arguments = toy("run", *POINT, "--iterations", ENDLESS, "--logging.wandb", "offline")
    process = start_command(train, *arguments)
    wait_for_rows(process, runs / "run", 3)
    services = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"{process.pid}" in _command_line(entry).split()
        if "wandb-core" in _command_line(entry)
    ]
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    noise = "socket.send() raised exception.\n"
    said = next(line for line in process.stderr if line != noise)
    assert said.startswith("metarl: warning: wandb failed and is switched off: ")
    wait_for_rows(process, runs / "run", rows(runs / "run") + 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert err.replace(noise, "") == "metarl: stopping after this iteration; again to stop now\n"


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_a_family_that_raises_ends_in_one_line_and_can_be_gone_on_with(befalls, runs: Path, capsys):
    def events():
        for _ in range(5):
            yield
        raise KeyError("goal of nobody")

    assert train([*befalls(events), *POINT, "--iterations", "7"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    kept = runs / "run" / "error.txt"
    assert re.fullmatch(
        rf"metarl train: error: KeyError: 'goal of nobody' \({__file__}, line \d+\); the traceback "
        rf"is in {kept}; --resume {runs / 'run'} goes on from the last checkpoint",
        line,
    )
    assert kept.read_text().startswith("Traceback")
    assert RunFolder.open(runs / "run").checkpoints().all()[0].iteration == 4
    assert train(["--resume", str(runs / "run")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "from iteration 4" in out


def test_a_fault_before_the_first_checkpoint_is_no_reason_to_resume(tmp_path: Path):
    with pytest.raises(KeyError) as caught:
        raise KeyError("x")
    said = _describe(caught.value, RunFolder(tmp_path))
    assert said.endswith(f"; the traceback is in {tmp_path / 'error.txt'}")


def test_a_policy_that_breaks_the_simulation_is_counted_and_training_goes_on(
    toy, runs: Path, capsys
):
    cheetah = ("--env.family", "half-cheetah-velocity", "--inner.rate", "1e30")
    assert train(toy("run", *POINT, *cheetah, "--iterations", "3")) == 0
    found = read_metrics(runs / "run" / "metrics.jsonl")
    assert len(found) == 3
    assert all(row["episodes/diverged"] > 0 for row in found)
    assert all(row["outer/accepted"] == 0 for row in found), "no step on what is not finite"
    assert "no outer step was accepted in 3 logged iterations" in capsys.readouterr().out


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
