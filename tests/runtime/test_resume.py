"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import itertools
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from metarl.commands.main import train
from metarl.core.compile import compiler_fault
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics

POINT = ("--checkpoint.every", "3", "--evaluation.every", "2", "--inner.algorithm", "meta-sgd")
CHEETAH = (
    *("--env.family", "half-cheetah-velocity", "--checkpoint.every", "3"),
    *("--compile", str(not compiler_fault()).lower()),
)
ENDLESS = str(10**6)


# --- killed


@pytest.mark.parametrize(
    ("case", "threads", "rows"), [(POINT, "1", 0), (POINT, "2", 7), (CHEETAH, "2", 4)]
)
def test_a_run_killed_at_a_random_moment_ends_as_if_nothing_had_happened(
    assert_same_outcome,
    toy,
    fork,
    wait_for_rows,
    runs: Path,
    case: tuple[str, ...],
    threads: str,
    rows: int,
    capsys,
):
    arguments = (*case, "--threads", threads)
    process = fork(train, toy("killed", *arguments, "--iterations", ENDLESS))
    wait_for_rows(process, runs / "killed", rows)
    time.sleep(random.Random(rows).uniform(0, 0.05))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL

    done = len(read_metrics(runs / "killed" / "metrics.jsonl"))
    assert done >= rows
    iterations = str(done + 2)
    assert train(["--resume", str(runs / "killed"), "--iterations", iterations]) == 0
    assert train(toy("whole", *arguments, "--iterations", iterations)) == 0
    assert capsys.readouterr().err == ""
    assert_same_outcome(runs / "killed", runs / "whole")


SINUSOID = ("--inner.steps", "2", "--evaluation.every", "40")
GLYPHS = ("--data.source", "glyphs", "--model.name", "dense", "--data.ways", "3")


@pytest.mark.parametrize(
    ("case", "algorithm", "rows"),
    [(SINUSOID, "maml", 0), (SINUSOID, "meta-sgd", 120), (GLYPHS, "reptile", 5)],
)
def test_a_supervised_run_killed_at_a_random_moment_ends_as_if_nothing_had_happened(
    assert_same_outcome,
    toy_supervised,
    fork,
    wait_for_rows,
    runs: Path,
    case: tuple[str, ...],
    algorithm: str,
    rows: int,
    capsys,
):
    """Adam's moments and learned rates come back too; tasks are drawn in blocks of iterations."""
    arguments = (*case, "--inner.algorithm", algorithm, "--checkpoint.every", "3")
    process = fork(train, toy_supervised("killed", *arguments, "--iterations", ENDLESS))
    wait_for_rows(process, runs / "killed", rows)
    time.sleep(random.Random(rows).uniform(0, 0.05))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    iterations = str(len(read_metrics(runs / "killed" / "metrics.jsonl")) + 2)
    assert train(["--resume", str(runs / "killed"), "--iterations", iterations]) == 0
    assert train(toy_supervised("whole", *arguments, "--iterations", iterations)) == 0
    assert capsys.readouterr().err == ""
    assert_same_outcome(runs / "killed", runs / "whole")


CRASH = """
import os, signal, sys
from metarl.commands.main import train

def crash(frame, event, function):
    global left
    if event == "c_call" and function in (os.fsync, os.replace):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(crash)
train(arguments)
"""
"""Train, and be killed before one fsync or rename, ``left``: three each for run.json, config.yaml,
and a checkpoint's note and file."""


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    assert_same_outcome, toy, fork, runs: Path, capsys
):
    before_the_rename_of_the_second = 2 * 3 + 2 * 3 + 5
    arguments = (*POINT, "--iterations", "9", "--evaluation.every", "0")
    settings = {"left": before_the_rename_of_the_second, "arguments": toy("torn", *arguments)}
    process = fork(exec, CRASH, settings)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (runs / "torn" / "checkpoints").iterdir())
    left = [name.replace(f".{process.pid}.", ".") for name in left]
    assert left == [
        "iteration-000003.json",
        "iteration-000003.pt",
        "iteration-000006.json",
        "iteration-000006.pt.tmp",
    ]
    assert train(["--resume", str(runs / "torn")]) == 0
    assert "from iteration 3" in capsys.readouterr().out
    assert train(toy("whole", *arguments)) == 0
    assert_same_outcome(runs / "torn", runs / "whole")


def test_a_run_killed_while_its_folder_is_made_can_be_started_again(toy, fork, runs: Path):
    process = fork(exec, CRASH, {"left": 2, "arguments": toy("run")})
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = {path.name for path in (runs / "run").iterdir()}
    assert left == {"run.lock", f"run.json.{process.pid}.tmp"}
    assert train(["--resume", str(runs / "run")]) == 2
    assert train(toy("run")) == 0
    assert not [*(runs / "run").rglob("*.tmp")]


def test_a_run_with_a_damaged_checkpoint_is_repeated_from_the_one_before(
    assert_same_outcome, toy, runs: Path, capsys
):
    arguments = (*POINT, "--iterations", "8")
    assert train(toy("whole", *arguments)) == 0
    assert train(toy("damaged", *arguments)) == 0
    last = runs / "damaged" / "checkpoints" / "iteration-000008.pt"
    os.truncate(last, 100)
    capsys.readouterr()
    assert train(["--resume", str(runs / "damaged")]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"metarl: warning: .*000008.pt is damaged \(.*\); using iteration \d+ instead\n", err
    )
    assert "from iteration 6" in out
    assert_same_outcome(runs / "damaged", runs / "whole")


# --- asked to stop


def test_a_signal_finishes_the_iteration_saves_and_exits_with_success(
    assert_same_outcome, toy, start_command, wait_for_rows, runs: Path, capsys
):
    arguments = (*POINT, "--checkpoint.every", "1000")
    process = start_command(train, *toy("stopped", *arguments, "--iterations", ENDLESS))
    wait_for_rows(process, runs / "stopped", 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 0
    assert err == "metarl: stopping after this iteration; again to stop now\n"
    assert f"stopped; to go on: metarl train --resume {runs / 'stopped'} " in out

    done = len(read_metrics(runs / "stopped" / "metrics.jsonl"))
    (checkpoint,) = RunFolder.open(runs / "stopped").checkpoints().all()
    assert checkpoint.iteration == done
    assert f"{done}/{ENDLESS}" in out
    assert f"{done + 1}/{ENDLESS}" not in out
    iterations = ("--iterations", str(done + 1))
    assert train(["--resume", str(runs / "stopped"), *iterations]) == 0
    assert train(toy("whole", *arguments, *iterations)) == 0
    assert_same_outcome(runs / "stopped", runs / "whole")


def test_a_second_signal_stops_at_once(toy, start_command, runs: Path):
    # Iterations so long that the second signal comes within the one that the first finds.
    long = ("--env.horizon", "200", "--trajectories", "400", "--env.goal_tolerance", "0")
    arguments = toy("run", *long, "--checkpoint.every", "1000", "--iterations", ENDLESS)
    process = start_command(train, *arguments)
    assert process.stdout.readline() == f"run folder: {runs / 'run'}\n"
    assert process.stdout.readline().startswith(f"1/{ENDLESS}  before")
    time.sleep(0.05)  # the second iteration has begun
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("metarl: stopping after this iteration")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (-signal.SIGTERM, "")
    assert err == "metarl: stopped now; --resume goes on from the last checkpoint\n"
    assert RunFolder.open(runs / "run").checkpoints().is_empty()


# --- never stopped


@pytest.mark.parametrize("case", [POINT, CHEETAH])
def test_the_number_of_threads_changes_nothing(
    assert_same_outcome, toy, runs: Path, case: tuple[str, ...]
):
    for threads in ("1", "2", "0"):
        assert train(toy(threads, *case, "--threads", threads, "--iterations", "4")) == 0
    assert_same_outcome(runs / "2", runs / "1")
    assert_same_outcome(runs / "0", runs / "1")


def test_a_finished_run_with_more_iterations_is_a_longer_run(assert_same_outcome, toy, runs: Path):
    assert train(toy("run", *POINT, "--iterations", "4")) == 0
    evaluation = (runs / "run" / "evaluation.json").read_bytes()
    # As it is there is nothing left to do.
    assert train(["--resume", str(runs / "run"), "--threads", "1"]) == 0
    assert (runs / "run" / "evaluation.json").read_bytes() == evaluation
    assert train(["--resume", str(runs / "run"), "--iterations", "7"]) == 0
    assert train(toy("longer", *POINT, "--iterations", "7")) == 0
    assert_same_outcome(runs / "run", runs / "longer")
    config = RunFolder.open(runs / "run").config_file.read_text()
    assert "iterations: 7\n" in config  # so that it can be resumed again without saying so


def test_other_seeds_are_other_runs(outcome, toy, runs: Path):
    """Else all of the above would hold for a program that does nothing."""
    for seed in ("0", "1"):
        assert train(toy(seed, "--seed", seed)) == 0
    (rows, _, state), (other_rows, _, other) = outcome(runs / "0"), outcome(runs / "1")
    assert rows[0]["return/before"] != other_rows[0]["return/before"]
    assert not any(torch.equal(state["meta"][n], other["meta"][n]) for n in ("head.weight",))


def test_every_iteration_changes_the_parameters(toy, runs: Path):
    assert train(toy("run", "--iterations", "3", "--checkpoint.keep", "9")) == 0
    checkpoints = RunFolder.open(runs / "run").checkpoints()
    states = [checkpoints.load(str(i))[1]["learner"]["meta"] for i in (1, 2, 3)]
    for before, after in itertools.pairwise(states):
        assert not all(torch.equal(before[name], after[name]) for name in before)
