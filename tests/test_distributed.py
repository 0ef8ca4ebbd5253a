"""Several processes under torchrun do what one does, and survive the loss of one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metarl.build import make_learner
from metarl.cli import train
from metarl.config import RLExperiment
from metarl.core.world import World
from metarl.errors import UserError
from metarl.metrics import read_metrics
from metarl.rl.protocol import PolicyEvaluationConfig
from metarl.training import require_same_settings

CHEETAH = (
    *("--env.family", "half-cheetah-velocity", "--env.horizon", "20", "--iterations", "5"),
    *("--tasks", "5", "--evaluation.tasks", "4", "--checkpoint.every", "2"),
)
SINUSOID = ("--iterations", "5", "--tasks", "7", "--evaluation.tasks", "5", "--logging.every", "1")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ROOT = Path(__file__).parents[1]


def settled(path: Path) -> list[dict[str, Any]]:
    """Metrics without what is measured by a clock."""
    return [
        {k: v for k, v in row.items() if not re.match(r"seconds/|env_steps_per_second", k)}
        for row in read_metrics(path / "metrics.jsonl")
    ]


# --- sharing


@pytest.mark.parametrize(("tasks", "size"), [(1, 1), (7, 2), (40, 3), (5, 5), (4096, 512)])
def test_shares_are_all_tasks_in_order_and_even(tasks: int, size: int):
    shares = [World(rank, size).share(tasks) for rank in range(size)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert {len(share) for share in shares} <= {tasks // size, tasks // size + 1}


COLLECTIVES = """
import sys, torch
from metarl.core.world import Disconnected
from metarl.distributed import joined

with joined("cpu", 30) as world:
    rank = world.rank
    rows = torch.arange(2 * rank, dtype=torch.float64)[:, None] + rank
    total, (count,) = world.sum((torch.full((2, 2), 1.0 + rank), (torch.tensor(rank),)))
    said = world.leading_bytes(b"from 0" if world.leads else b"")
    torch.save(
        {
            "sum": total, "count": count, "gathered": world.gather({"rows": rows})["rows"],
            "leading": world.leading(torch.tensor(7 + rank)), "bytes": said,
            "any": [world.any(False), world.any(rank == 1)],
        },
        f"{sys.argv[1]}/{rank}.pt",
    )
"""


def test_processes_hear_of_each_other(start, tmp_path: Path):
    (tmp_path / "collectives.py").write_text(COLLECTIVES)
    process = start(*TORCHRUN, "3", "collectives.py", str(tmp_path), OMP_NUM_THREADS="1")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    import torch

    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["sum"].tolist() == [[6, 6], [6, 6]]
        assert found["count"] == 3
        assert found["gathered"].tolist() == [[1], [2], [2], [3], [4], [5]], "uneven shares"
        assert (found["leading"], found["bytes"], found["any"]) == (7, b"from 0", [False, True])


# --- training


def test_three_processes_train_a_model_as_one_does(toy_supervised, start, script, runs: Path):
    assert train(toy_supervised("one", *SINUSOID)) == 0
    arguments = toy_supervised("three", *SINUSOID)
    process = start(*TORCHRUN, "3", script("train"), *arguments, OMP_NUM_THREADS="1")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    found, expected = settled(runs / "three"), settled(runs / "one")
    assert len(found) == 5
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)
    scores = [json.loads((runs / n / "evaluation.json").read_text()) for n in ("three", "one")]
    assert scores[0]["tasks"] == scores[1]["tasks"]
    for row, wanted in zip(*(s["rows"] for s in scores), strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)


def test_what_one_process_refuses_is_said_once_for_all(toy, start, script, runs: Path):
    assert train(toy("taken", "--evaluation.every", "0")) == 0
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    process = start(*TORCHRUN, "2", script("train"), *toy("taken"), OMP_NUM_THREADS="1")
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    (line,) = (line for line in err.splitlines() if re.match(r"(metarl|process)\b", line))
    assert line.startswith(f"metarl train: error: {runs / 'taken'} already holds a run; choose")
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_what_all_processes_refuse_the_first_one_says(
    toy, monkeypatch: pytest.MonkeyPatch, capsys, rank: str, lines: int
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        train(toy("run", "--tasks", "0"))
    assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize("where", ["tasks", "evaluation"])
def test_fewer_tasks_than_processes_are_refused(where: str):
    settings = {"tasks": {"tasks": 2}, "evaluation": {"evaluation": PolicyEvaluationConfig(2)}}
    with pytest.raises(UserError, match="tasks is 2, fewer than the 3 processes"):
        make_learner(RLExperiment(**settings[where]), World(0, 3))


def test_a_run_belongs_to_the_launch_that_began_it(
    toy, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}

    def launch(name: str) -> int:
        for key, value in {**one, "TORCHELASTIC_RUN_ID": name}.items():
            monkeypatch.setenv(key, value)
        return train(toy("run", "--evaluation.every", "0"))

    assert launch("mine") == 0
    capsys.readouterr()
    assert launch("mine") == 0
    assert "from iteration" in capsys.readouterr().out, "started again, it goes on"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert launch("another") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert launch("none") == 2
    assert "give torchrun an --rdzv-id" in capsys.readouterr().err


def test_processes_with_other_settings_are_refused():
    class Second(World):
        def leading_bytes(self, data: bytes) -> bytes:
            return json.dumps({**json.loads(data), "seed": 3}).encode()

    with pytest.raises(UserError, match="not those of the first process: seed is 0, not 3"):
        require_same_settings(RLExperiment(), Second(1, 2))
    require_same_settings(RLExperiment(seed=3), Second(1, 2))


# --- losing a process


def children(process: subprocess.Popen) -> list[int]:
    listed = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(pid) for pid in Path(listed).read_text().split()]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_processes_train_as_one_does_also_when_the_first_is_killed(
    toy, start, script, runs: Path
):
    endless = (*CHEETAH, "--iterations", "8", "--env.horizon", "60")
    arguments = (*TORCHRUN, "2", "--max-restarts", "1", script("train"), *toy("killed", *endless))
    process = start(*arguments, OMP_NUM_THREADS="1")
    rows = runs / "killed" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") >= 3, process)
    os.kill(children(process)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert out.count("run folder:") == 2, "the first process speaks for all"
    assert re.search(r"killed, from iteration [1-9]", out)
    assert "another process is lost" in err
    assert train(toy("whole", *endless)) == 0
    assert settled(runs / "killed") == settled(runs / "whole"), "bit for bit: sums in float64"
    for name in ("evaluation.json", "episodes.npz"):
        one, several = (runs / run / name for run in ("whole", "killed"))
        assert several.read_bytes() == one.read_bytes(), name


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_process_that_hangs_is_noticed_within_the_timeout(toy, start, script, runs: Path):
    endless = (*CHEETAH, "--iterations", str(10**6), "--timeout", "2")
    process = start(*TORCHRUN, "2", script("train"), *toy("run", *endless), OMP_NUM_THREADS="1")
    rows = runs / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") >= 3, process)
    hung = children(process)[1]
    os.kill(hung, signal.SIGSTOP)
    assert "process 0: another process is lost" in process.stderr.readline()
    os.kill(hung, signal.SIGKILL)  # torchrun would, after half a minute
    process.communicate(timeout=100)
    assert process.returncode != 0


def test_a_signal_to_any_process_stops_all_after_the_iteration(toy, start, script, runs: Path):
    if sys.platform != "linux":
        pytest.skip("finds processes in /proc")
    endless = (*CHEETAH, "--iterations", str(10**6), "--checkpoint.every", "1000")
    process = start(*TORCHRUN, "2", script("train"), *toy("run", *endless), OMP_NUM_THREADS="1")
    rows = runs / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") >= 3, process)
    os.kill(children(process)[1], signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "stopped; to go on: metarl train --resume" in out
    done = len(settled(runs / "run"))
    assert [p.name for p in (runs / "run" / "checkpoints").glob("*.pt")] == [
        f"iteration-{done:06d}.pt"
    ]


# --- two machines


NETWORK = """
ip netns add $a && ip netns add $b && ip link add v1 netns $a type veth peer name v2 netns $b &&
ip -n $a addr add 10.77.0.1/24 dev v1 && ip -n $b addr add 10.77.0.2/24 dev v2 &&
ip -n $a link set v1 up && ip -n $b link set v2 up && ip -n $a link set lo up &&
ip -n $b link set lo up
"""


@pytest.fixture
def hosts():
    """Two network namespaces with a wire between them."""
    names = [f"metarl-{os.getpid()}-{side}" for side in "ab"]
    made = (
        shutil.which("ip")
        and not subprocess.run(
            ["sh", "-c", NETWORK],
            env={**os.environ, "a": names[0], "b": names[1]},
            capture_output=True,
            check=False,
        ).returncode
    )
    try:
        if not made:
            pytest.skip("network namespaces need root and iproute2")
        yield names
    finally:
        for name in names if shutil.which("ip") else []:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_hosts_train_as_one_process_and_survive_a_killed_worker(
    toy, tmp_path: Path, script, runs: Path, hosts: list[str]
):
    arguments = toy("hosts", *CHEETAH, "--iterations", "8", "--env.horizon", "60")
    processes = []
    for number, host in enumerate(hosts, start=1):
        rendezvous = (
            *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2", "--rdzv-id", "job"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29500"),
            *("--rdzv-conf", f"is_host={2 - number}", "--local-addr", f"10.77.0.{number}"),
        )
        python = (sys.executable, "-m", "torch.distributed.run", *rendezvous)
        variables = {"GLOO_SOCKET_IFNAME": f"v{number}", "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", host, *python, script("train"), *arguments],
                cwd=tmp_path,
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        rows = runs / "hosts" / "metrics.jsonl"
        written = lambda: rows.exists() and rows.read_bytes().count(b"\n") >= 3  # noqa: E731
        wait_for(written, processes[0])
        os.kill(children(processes[1])[0], signal.SIGKILL)
        out = [process.communicate(timeout=100)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], out
    finally:
        for process in processes:
            process.kill()
    assert "from iteration" in out[0]
    assert train(toy("whole", *CHEETAH, "--iterations", "8", "--env.horizon", "60")) == 0
    assert settled(runs / "hosts") == settled(runs / "whole")
