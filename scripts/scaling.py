"""Predict the gain of more processes: a model of an iteration's cost, fitted here.

    python scripts/benchmark.py scaling [--tasks 1024] [--latency 5e-5 --bandwidth 1.25e9]

Two processes measure, both at once as they would in a run: iterations alone with few tasks (a
straight line gives the cost per task of sampling and of the update), sums of several sizes over
both (latency and bandwidth), and iterations together, which the model has to predict. An iteration
of M tasks and R processes takes

    sampling(M / R) + update(M / R) + sum of 2 (R - 1) (latency + bytes / (R bandwidth)),

a sum over its messages, with the cost of a ring of processes (Patarasuk and Yuan 2009).
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from benchmarks.results import peak_memory
from metarl.core.params import leaves_of_tree
from metarl.core.processes import Processes
from metarl.experiment.build import make_rl_learner
from metarl.experiment.schema import RLExperiment
from metarl.runtime.launch import joined

Tree = TypeVar("Tree")

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PARTS = ("sampling", "adaptation", "update")
BARELY = 1.5  # twice the processes should be faster by this


class Counting(Processes):
    """Counts the bytes of every message."""

    def __init__(self, processes: Processes):
        super().__init__(processes.rank, processes.size, processes.local_rank, processes.local_size)
        self.messages: list[int] = []

    def sum(self, tree: Tree) -> Tree:
        self.messages.append(sum(x.numel() * x.element_size() for x in leaves_of_tree(tree)))
        return super().sum(tree)

    def gather(self, tree: Tree) -> Tree:
        rows = sum(8 * x.numel() for x in leaves_of_tree(tree))
        self.messages += [8, self.size * rows]  # how many first, then these
        return super().gather(tree)

    def leading(self, value: torch.Tensor) -> torch.Tensor:
        self.messages.append(value.numel() * value.element_size())
        return super().leading(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="half-cheetah-velocity")
    parser.add_argument("--tasks", type=int, default=1024, help="M of the runs to predict")
    parser.add_argument("--trajectories", type=int, default=20)
    parser.add_argument("--measured-tasks", type=int, default=16, help="M of the measured runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency", type=float, help="s per message of a network; null: measured")
    parser.add_argument("--bandwidth", type=float, help="its bytes per second; null: measured")
    parser.add_argument("--json", help="also write everything to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measured_tasks < 8 or args.repeats < 1 or args.tasks < 1:
        parser.error("--measured-tasks must be at least 8, --repeats and --tasks at least 1")
    if args.worker:
        measure(args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "measured.json")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", __file__, *sys.argv[1:], "--worker", str(file)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        measurements = json.loads(file.read_text())
    report = predict(measurements, args)
    show(report)
    print(f"peak memory of a process: {measurements['peak memory, MB']:,.0f} MB")
    if args.json:
        Path(args.json).write_text(json.dumps({"measured": measurements, **report}, indent=2))
    return 0


# --- measuring, in both processes


def measure(args: argparse.Namespace) -> None:
    with joined("cpu", 600) as processes:
        sizes = [args.measured_tasks // 8, args.measured_tasks // 4, args.measured_tasks // 2]
        alone = {m: seconds(args, m, Processes(local_size=2), processes) for m in sizes}
        sums = {
            size: time_of_sums(size, processes) for size in (1, 1_000, 30_000, 100_000, 300_000)
        }
        counting = Counting(processes)
        together = seconds(args, args.measured_tasks, counting, processes)
        measurements = {
            "alone": alone,
            "sums": sums,
            "together": together,
            "messages": counting.messages[: len(counting.messages) // (args.repeats + 1)],
            "peak memory, MB": peak_memory(),
        }
        if processes.leads:
            Path(args.worker).write_text(json.dumps(measurements))


def seconds(
    args: argparse.Namespace, tasks: int, processes: Processes, both: Processes
) -> dict[str, list[float]]:
    """Return seconds of an iteration's parts and of the whole, for all repeats but the first."""
    config = RLExperiment(
        env={"family": args.family},
        policy={"name": "gaussian-mlp", "activation": "relu"},
        tasks=tasks,
        trajectories=args.trajectories,
        outer={"name": "trpo", "hvp_check_every": 0, "hvp_epsilon": 0.02},
    )
    learner = make_rl_learner(config, processes)
    times: dict[str, list[float]] = {part: [] for part in (*PARTS, "iteration")}
    for iteration in range(args.repeats + 1):
        both.any(False)  # both begin together
        metrics = learner.iterate(iteration)
        for part, values in times.items():
            values.append(metrics[f"seconds/{part}"])
    return {part: values[1:] for part, values in times.items()}


def time_of_sums(size: int, processes: Processes, times: int = 50) -> float:
    """Return the seconds of one sum of ``size`` float64 numbers."""
    x = torch.zeros(size, dtype=torch.float64)
    for _ in range(5):
        processes.sum(x)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(times):
        processes.sum(x)
    return (time.perf_counter() - began) / times


# --- the model


def predict(measurements: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the fitted model, its check against two processes, and predictions for more."""
    tasks = [int(m) for m in measurements["alone"]]
    lines = {}
    for part in PARTS:
        times = [statistics.median(measurements["alone"][str(m)][part]) for m in tasks]
        slope, constant = np.polyfit(tasks, times, 1)
        lines[part] = (float(slope), max(0.0, float(constant)))
    counts = [8.0 * int(size) for size in measurements["sums"]]
    per_byte, whole = np.polyfit(counts, list(measurements["sums"].values()), 1)
    # Two processes pass half of the bytes, twice, in each direction.
    here = max(1e-6, float(whole) / 2), 1 / float(per_byte)
    latency, bandwidth = args.latency or here[0], args.bandwidth or here[1]
    messages = measurements["messages"]

    def computing(m: float) -> float:
        return sum(slope * m + constant for slope, constant in lines.values())

    def talking(ranks: int, latency: float, bandwidth: float) -> float:
        return sum(2 * (ranks - 1) * (latency + b / (ranks * bandwidth)) for b in messages)

    prediction = computing(args.measured_tasks / 2) + talking(2, *here)
    measurement = statistics.median(measurements["together"]["iteration"])
    one = computing(args.tasks)
    rows = []
    for ranks in (r for r in RANKS if r <= args.tasks):
        communication = talking(ranks, latency, bandwidth)
        total = computing(math.ceil(args.tasks / ranks)) + communication
        row = {
            "ranks": ranks,
            "seconds": total,
            "speed-up": one / total,
            "talking": communication / total,
        }
        rows.append(row)
    return {
        "lines": lines,
        "latency": latency,
        "bandwidth": bandwidth,
        "messages": len(messages),
        "bytes": sum(messages),
        "check": {
            "predicted": prediction,
            "measured": measurement,
            "error": prediction / measurement - 1,
        },
        "tasks": args.tasks,
        "measured tasks": args.measured_tasks,
        "rows": rows,
        "pays up to": pays_up_to(rows),
    }


def pays_up_to(rows: list[dict[str, float]]) -> int:
    """Number of processes from which twice as many are hardly faster."""
    for row, following in itertools.pairwise(rows):
        doublings = math.log2(following["ranks"] / row["ranks"])
        if row["seconds"] / following["seconds"] < BARELY**doublings:
            return int(row["ranks"])
    return int(rows[-1]["ranks"])


def show(report: dict[str, Any]) -> None:
    for part, (slope, constant) in report["lines"].items():
        print(f"{part}: {1e3 * slope:.1f} ms a task + {1e3 * constant:.1f} ms")
    print(
        f"{report['messages']} messages, {report['bytes'] / 1e6:.1f} MB an iteration; "
        f"{1e6 * report['latency']:.0f} us and {report['bandwidth'] / 1e9:.2f} GB/s"
    )
    check = report["check"]
    print(
        f"2 processes: predicted {check['predicted']:.2f} s, measured {check['measured']:.2f} s "
        f"({check['error']:+.0%}), with {report['measured tasks']} tasks"
    )
    table = Table(title=f"{report['tasks']} tasks an iteration")
    for name in ("processes", "s an iteration", "speed-up", "efficiency", "talking"):
        table.add_column(name, justify="right")
    for row in report["rows"]:
        table.add_row(
            f"{row['ranks']}",
            f"{row['seconds']:.2f}",
            f"{row['speed-up']:.1f}",
            f"{row['speed-up'] / row['ranks']:.0%}",
            f"{row['talking']:.1%}",
        )
    Console().print(table)
    print(
        f"up to {report['pays up to']} processes, twice as many are {BARELY} times as fast or more"
    )


if __name__ == "__main__":
    sys.exit(main())
