"""Several processes under torchrun do what one does, and survive the loss of one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest
import torch

from metarl.commands.main import train
from metarl.commands.training import require_same_settings
from metarl.core.compile import Compiled, Traced
from metarl.core.processes import Processes
from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.runtime.errors import UserError

CHEETAH = (
    *("--env.family", "half-cheetah-velocity", "--threads", "1"),
    *("--tasks", "5", "--evaluation.tasks", "4"),
)
OUTER = (
    *("--outer.name", "promp", "--exploration", "0.5", "--inner.loss", "loaded-dice"),
    *("--baseline.name", "critic", "--tasks", "5", "--evaluation.tasks", "4"),
    *("--iterations", "3"),
)
POLE = (
    *("--env.family", "cartpole", "--env.horizon", "40", "--policy.name", "categorical-mlp"),
    *("--tasks", "7", "--evaluation.tasks", "4", "--iterations", "3"),
    *("--outer.memory", "direction", "--outer.average_decay", "0.9", "--outer.fit_length", "true"),
    *("--diagnose_every", "2"),
)
SINUSOID = (
    *("--iterations", "5", "--tasks", "7", "--evaluation.tasks", "5", "--logging.every", "1"),
    *("--compile", "true"),
)


# --- sharing


@pytest.mark.parametrize(("tasks", "size"), [(1, 1), (7, 2), (40, 3), (5, 5), (4096, 512)])
def test_shares_are_all_tasks_in_order_and_even(tasks: int, size: int):
    shares = [Processes(rank, size).share(tasks) for rank in range(size)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert {len(share) for share in shares} <= {tasks // size, tasks // size + 1}


# --- three processes, which are started only once


THREE = """
import json, sys, torch
from metarl.commands.main import train
from metarl.core.compile import Compiled, Traced
from metarl.runtime.launch import joined

Compiled._finish = Traced._finish  # a compiler would take seconds
collectives, *commands = sys.argv[1:]
with joined("cpu", 30) as processes:
    rank = processes.rank
    rows = torch.arange(2 * rank, dtype=torch.float64)[:, None] + rank
    total, (count,) = processes.sum((torch.full((2, 2), 1.0 + rank), (torch.tensor(rank),)))
    said = processes.leading_bytes(b"from 0" if processes.leads else b"")
    torch.save(
        {
            "sum": total, "count": count, "gathered": processes.gather({"rows": rows})["rows"],
            "leading": processes.leading(torch.tensor(7 + rank)), "bytes": said,
            "any": [processes.any(False), processes.any(rank == 1)],
        },
        f"{collectives}/{rank}.pt",
    )
for command in commands:
    if code := train(json.loads(command)):
        sys.exit(code)
"""


class Three(NamedTuple):
    """What three processes did: talk to each other, train, and train into a run that there is."""

    folder: Path
    code: int
    err: str
    taken: dict[Path, bytes]  # its files before


def promp(toy_settings: list[str]) -> list[str]:
    """Settings of a run without those of the trust region."""
    at = toy_settings.index("--outer.cg_iterations")
    return [*toy_settings[:at], *toy_settings[at + 2 :], *OUTER]


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def three(
    tmp_path_factory: pytest.TempPathFactory,
    starting_in,
    toy_settings: list[str],
    toy_supervised_settings: list[str],
) -> Three:
    folder = tmp_path_factory.mktemp("three")
    (folder / "three.py").write_text(THREE)
    model = [*toy_supervised_settings, *SINUSOID]
    trained = {
        "model": model,
        "promp": promp(toy_settings),
        "pole": [*toy_settings, *POLE],
        "taken": model,
    }
    commands = [[*c, "--folder", str(folder), "--name", name] for name, c in trained.items()]
    assert train([*commands[-1], "--iterations", "1", "--compile", "false"]) == 0
    before = files(folder / "taken")
    with starting_in(folder) as start:
        words = (str(folder), *map(json.dumps, commands))
        process = start(
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"),
            *("three.py", *words),
            OMP_NUM_THREADS="1",
        )
        _, err = process.communicate()
    return Three(folder, process.returncode, err, before)


def test_processes_hear_of_each_other(three: Three):
    for rank in range(3):
        found = torch.load(three.folder / f"{rank}.pt", weights_only=True)
        assert found["sum"].tolist() == [[6, 6], [6, 6]]
        assert found["count"] == 3
        assert found["gathered"].tolist() == [[1], [2], [2], [3], [4], [5]], "uneven shares"
        assert (found["leading"], found["bytes"], found["any"]) == (7, b"from 0", [False, True])


def test_three_processes_train_a_model_as_one_does(
    three: Three, settled, toy_supervised, runs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Compiled, "_finish", Traced._finish)
    assert train(toy_supervised("one", *SINUSOID)) == 0
    found, expected = settled(three.folder / "model"), settled(runs / "one")
    assert len(found) == 5, three.err
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)
    scores = [
        json.loads((run / "evaluation.json").read_text())
        for run in (three.folder / "model", runs / "one")
    ]
    assert scores[0]["tasks"] == scores[1]["tasks"]
    for row, wanted in zip(*(s["rows"] for s in scores), strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)


def test_three_processes_train_as_one_with_promp_dice_exploration_and_a_critic(
    three: Three, toy_settings: list[str], assert_same_outcome, runs: Path
):
    def arguments(name: str) -> list[str]:
        return [*promp(toy_settings), "--folder", str(runs), "--name", name]

    assert train(arguments("whole")) == 0
    assert_same_outcome(three.folder / "promp", runs / "whole")  # bit for bit
    assert train([*arguments("parts"), "--iterations", "2"]) == 0
    assert train(["--resume", str(runs / "parts"), "--iterations", "3"]) == 0
    assert_same_outcome(runs / "parts", runs / "whole")


def test_three_processes_train_as_one_where_episodes_end_early_and_the_outer_step_remembers(
    three: Three, toy, assert_same_outcome, runs: Path
):
    """Tasks of one process may have more env steps than those of the others."""
    assert train(toy("whole", *POLE)) == 0
    assert_same_outcome(three.folder / "pole", runs / "whole")
    assert train(toy("parts", *POLE, "--iterations", "2")) == 0
    assert train(["--resume", str(runs / "parts"), "--iterations", "3"]) == 0
    assert_same_outcome(runs / "parts", runs / "whole")


def test_what_one_process_refuses_is_said_once_for_all(three: Three):
    assert three.code != 0
    (line,) = (line for line in three.err.splitlines() if re.match(r"(metarl|process)\b", line))
    taken = three.folder / "taken"
    assert line.startswith(f"metarl train: error: {taken} already holds a run; choose")
    assert files(taken) == three.taken


# --- what is refused, and by whom


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_what_all_processes_refuse_the_first_one_says(
    toy, monkeypatch: pytest.MonkeyPatch, capsys, rank: str, lines: int
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", rank)
    assert train(toy("run", "--tasks", "0")) == 2
    assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize("where", ["tasks", "evaluation"])
def test_fewer_tasks_than_processes_are_refused(where: str):
    settings = {"tasks": {"tasks": 2}, "evaluation": {"evaluation": PolicyEvaluationConfig(2)}}
    with pytest.raises(UserError, match="tasks is 2, fewer than the 3 processes"):
        make_learner(RLExperiment(**settings[where]), Processes(0, 3))


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
    class Second(Processes):
        def leading_bytes(self, data: bytes) -> bytes:
            return json.dumps({**json.loads(data), "seed": 3}).encode()

    with pytest.raises(UserError, match="not those of the first process: seed is 0, not 3"):
        require_same_settings(RLExperiment(), Second(1, 2))
    require_same_settings(RLExperiment(seed=3), Second(1, 2))


# --- losing a process


def children(process: subprocess.Popen) -> list[int]:
    listed = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(pid) for pid in Path(listed).read_text().split()]


def rows(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n")


def until(stream: TextIO, text: str) -> None:
    assert any(text in line for line in stream), f"{text} was not said"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_processes_train_as_one_does_through_a_kill_a_hang_and_a_signal(
    toy, start_torchrun, script, wait_for_rows, assert_same_outcome, runs: Path
):
    arguments = (*CHEETAH, "--evaluation.every", "1", "--checkpoint.every", "4")
    endless = toy("run", *arguments, "--iterations", str(10**6), "--timeout", "5")
    many = ("--max-restarts", "99")  # a slow machine may take longer than the timeout
    launch = ("--standalone", "--nproc-per-node", "2", *many, script("train"))
    process = start_torchrun(*launch, *endless)
    run = runs / "run"
    wait_for_rows(process, run, 5)
    os.kill(children(process)[0], signal.SIGKILL)
    until(process.stderr, "process 1: another process is lost")
    wait_for_rows(process, run, rows(run) + 2)

    hung = children(process)[1]
    os.kill(hung, signal.SIGSTOP)
    until(process.stderr, "process 0: another process is lost")  # within the timeout
    os.kill(hung, signal.SIGKILL)  # torchrun would, after half a minute
    wait_for_rows(process, run, rows(run) + 2)

    os.kill(children(process)[1], signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 0, err
    resumed = len(re.findall(r"run, from iteration [1-9]", out))
    assert resumed >= 2
    assert out.count("run folder:") == 1 + resumed, "the first process speaks for all"
    assert "stopped; to go on: metarl train --resume" in out
    assert train(toy("whole", *arguments, "--iterations", str(rows(run)))) == 0
    assert_same_outcome(run, runs / "whole")  # bit for bit: sums are in float64
    assert (run / "episodes.npz").read_bytes() == (runs / "whole/episodes.npz").read_bytes()


def holds_files(process: int) -> bool:
    """Whether a process runs, or has ended and threads of it still do."""
    folder = Path(f"/proc/{process}")
    try:
        is_over = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not is_over or len([*(folder / "task").iterdir()]) > 1
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_processes_end_with_their_torchrun(toy, start_torchrun, script, wait_for_rows, runs: Path):
    endless = toy("run", "--iterations", str(10**6), "--checkpoint.every", "2")
    process = start_torchrun("--standalone", "--nproc-per-node", "1", script("train"), *endless)
    wait_for_rows(process, runs / "run", 3)
    (worker,) = children(process)
    process.kill()
    while holds_files(worker):
        time.sleep(0.002)
    iterations = str(rows(runs / "run") + 1)
    assert train(["--resume", str(runs / "run"), "--iterations", iterations]) == 0


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


ON_A_HOST = """
import ctypes
from torch.distributed.run import main
with open(f"/run/netns/{host}") as namespace:
    assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
os.environ |= variables
main(["--run-path", "--start-method", "fork", *arguments])
"""


def test_two_hosts_train_as_one_process_and_survive_a_killed_worker(
    toy, start_program, script, wait_for_rows, settled, runs: Path, hosts: list[str]
):
    settings = ("--checkpoint.every", "2", "--evaluation.every", "0")
    endless = toy("hosts", *settings, "--iterations", str(10**6))
    run, processes = runs / "hosts", []
    for number, host in enumerate(hosts, start=1):
        rendezvous = (
            *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "9", "--rdzv-id", "job"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29500"),
            *("--rdzv-conf", f"is_host={2 - number}", "--local-addr", f"10.77.0.{number}"),
        )
        arguments = [*rendezvous, script("train"), *endless]
        variables = {"GLOO_SOCKET_IFNAME": f"v{number}"}
        processes.append(
            start_program(ON_A_HOST, host=host, variables=variables, arguments=arguments)
        )
    wait_for_rows(processes[0], run, 3)
    os.kill(children(processes[1])[0], signal.SIGKILL)
    until(processes[0].stderr, "process 0: another process is lost")
    wait_for_rows(processes[0], run, rows(run) + 2)
    os.kill(children(processes[1])[0], signal.SIGTERM)
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert re.search(r"hosts, from iteration [1-9]", said[0][0])
    assert train(toy("whole", *settings, "--iterations", str(rows(run)))) == 0
    assert settled(run) == settled(runs / "whole")
