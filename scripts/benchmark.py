"""How close to the machine's limits: physics, sampler, meta-gradient, whole iterations.

    python scripts/benchmark.py [--cases half-cheetah-velocity ...] [--repeats 5] [--json out.json]
    python scripts/benchmark.py --cases supervised
    python scripts/benchmark.py --scaling [options of scripts/scaling.py]

Every case runs in a process of its own; its peak memory is that of whole iterations. A limit and
what is compared with it are measured in turn, ``repeats`` times; the tables show medians, the JSON
on the last line every measurement.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from envs import BatchedEnv
from metarl.build import make_family, make_rl_learner, make_supervised_learner
from metarl.config import PolicyConfig, RLExperiment, SupervisedExperiment
from metarl.core.outer import TaskMap, cores
from metarl.core.params import flatten, tree_map
from metarl.core.trust_region import Problem, trust_region_step
from metarl.rl.diagnostics import Sampled
from metarl.rl.learner import MetaRLLearner, OuterConfig
from metarl.rl.sampler import Stream
from metarl.seeding import Purpose
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig

SCALING = Path(__file__).with_name("scaling.py")
STREAM = Stream(0, Purpose.TRAIN_ROLLOUT)


@dataclass(frozen=True)
class Case:
    """A family at a published size."""

    family: str
    tasks: int
    trajectories: int
    activation: str


CASES = {
    case.family: case
    for case in (
        Case("point-navigation", 20, 20, "tanh"),
        Case("half-cheetah-velocity", 40, 20, "relu"),
        Case("ant-direction", 40, 20, "relu"),
    )
}


OMNIGLOT = SupervisedExperiment(
    data={"source": "glyphs", "ways": 5},  # 28 by 28 pixels too
    model=ModelConfig(name="conv"),
    tasks=32,
    shots=1,
    queries=1,
    chunk_size=16,
)
SUPERVISED = {
    "sinusoid": SupervisedExperiment(),
    "omniglot-5way-1shot": OMNIGLOT,
}


def main() -> int:
    if "--scaling" in sys.argv:
        others = [argument for argument in sys.argv[1:] if argument != "--scaling"]
        return subprocess.run([sys.executable, SCALING, *others], check=False).returncode
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*CASES, *SUPERVISED, "supervised"]
    parser.add_argument("--cases", nargs="+", choices=names, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5, help="measurements per number")
    parser.add_argument("--seconds", type=float, default=2, help="of a supervised measurement")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="what more processes would give; see --scaling --help",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--chunk-size", type=int, help="tasks per vectorised call of the update")
    parser.add_argument("--json", help="also write every measurement to this file")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 0 or (args.chunk_size or 1) < 1:
        parser.error("--repeats and --chunk-size must be at least 1, --threads at least 0")
    if args.in_process:
        name = args.cases[0]
        result = run_case(CASES[name], args) if name in CASES else run_supervised_case(name, args)
        print(json.dumps(result))
        return 0
    if args.json and not os.access(Path(args.json).absolute().parent, os.W_OK):
        parser.error(f"cannot write {args.json}")
    results = []
    cases = [c for name in args.cases for c in (SUPERVISED if name == "supervised" else [name])]
    for name in cases:
        command = [sys.executable, __file__, "--in-process", "--cases", name]
        command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
        command += ["--device", args.device, "--seconds", str(args.seconds)]
        command += ["--chunk-size", str(args.chunk_size)] if args.chunk_size else []
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        results.append(json.loads(output.splitlines()[-1]))
        show(results[-1])
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {cores()} cores",
        "torch": torch.__version__,
        "cases": results,
    }
    print(json.dumps(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2))
    return 0


def run_case(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one case; lists of one number per repeat."""
    threads = args.threads or cores()
    config = RLExperiment(
        env={"family": case.family},
        policy=PolicyConfig(activation=case.activation),  # type: ignore[arg-type]
        tasks=case.tasks,
        trajectories=case.trajectories,
        threads=threads,
        device=args.device,
        chunk_size=args.chunk_size,
        outer=OuterConfig(hvp_check_every=0),
    )
    learner = make_rl_learner(config)
    family = make_family(config.env)
    tasks = family.sample_tasks(np.random.default_rng(0), case.tasks)
    numbers: dict[str, list[float]] = {}

    def record(name: str, value: float) -> None:
        numbers.setdefault(name, []).append(value)

    learner.iterate(0)
    for iteration in range(1, args.repeats + 1):
        metrics = learner.iterate(iteration)
        for part in ("sampling", "adaptation", "update", "iteration"):
            record(f"{part}, s", metrics[f"seconds/{part}"])
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    phi = learner.theta_of_every_task(case.tasks)
    limit = physics_limit(config)
    for _ in range(args.repeats):
        if limit is not None:
            record("physics limit, env steps/s", limit())
        record("sampler, env steps/s", sampler_speed(learner, phi, tasks, case.trajectories))
        record("evaluation, env steps/s", evaluation_speed(learner))

    rounds = learner.adapt_and_sample(tasks, config.inner.alphas, case.trajectories, STREAM)
    # The counter does not see other threads.
    flop = flop_per_call(make_rl_learner(replace(config, threads=1)), *rounds)
    problem = learner.outer_problem([rounds[0].batch], rounds[1].batch)
    theta = flatten(learner.meta)
    problem.loss_gradient(theta)
    for _ in range(args.repeats):
        record("matrix peak, GFLOP/s", matrix_peak(threads, args.device))
        seconds = timed(partial(problem.loss_gradient, theta))
        record("meta-gradient, s", seconds)
        record("meta-gradient, GFLOP/s", flop["loss_gradient"] / seconds / 1e9)
        calls, counted = count_calls(problem)
        seconds = timed(partial(trust_region_step, counted, theta, config.outer))
        total = sum(flop[name] * number for name, number in calls.items())
        record("TRPO update, s", seconds)
        record("TRPO update, GFLOP/s", total / seconds / 1e9)
    return {
        "case": f"{case.family}, M {case.tasks}, N {case.trajectories}, {case.activation}",
        "threads": threads,
        "device": args.device,
        "peak memory, MB": peak_memory,
        "numbers": numbers,
    }


def run_supervised_case(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Whole iterations of the trainer's learner: data, meta-gradient, Adam; eager and compiled."""
    threads = args.threads or cores()
    base = replace(SUPERVISED[name], threads=threads, device=args.device)
    numbers: dict[str, list[float]] = {}
    eager = args.chunk_size or base.chunk_size
    arrangements = {"eager": replace(base, compile=False, chunk_size=eager)}
    if args.device == "cpu":
        # A program for one task runs on every thread; a tiny network does best in one program.
        chunk_size = 1 if base.model.name == "conv" else base.tasks
        arrangements["compiled"] = replace(base, compile=True, chunk_size=chunk_size)
    learners = {kind: make_supervised_learner(config) for kind, config in arrangements.items()}
    flop = flop_of_task(make_supervised_learner(replace(base, compile=False, chunk_size=1)))
    for kind, learner in learners.items():
        began = time.perf_counter()
        learner.iterate(0)
        numbers[f"{kind}, first iteration, s"] = [time.perf_counter() - began]
    for _ in range(args.repeats):
        peak = matrix_peak(threads, args.device)
        numbers.setdefault("matrix peak, GFLOP/s", []).append(peak)
        for kind, learner in learners.items():
            rate = iterations_per_second(learner, args.seconds)
            numbers.setdefault(f"{kind}, iterations/s", []).append(rate)
            numbers.setdefault(f"{kind}, tasks/s", []).append(rate * base.tasks)
            used = rate * base.tasks * flop / 1e9
            numbers.setdefault(f"{kind}, GFLOP/s", []).append(used)
    return {
        "case": f"{name}, M {base.tasks}, {flop / 1e6:.1f} MFLOP a task",
        "threads": threads,
        "device": args.device,
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "numbers": numbers,
    }


def iterations_per_second(learner: SupervisedLearner, seconds: float) -> float:
    """Of as many iterations as so many seconds allow."""
    learner.iterate(0)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += 1
        learner.iterate(done)
    return done / (time.perf_counter() - began)


def flop_of_task(learner: SupervisedLearner) -> int:
    """Floating-point operations of one task's meta-gradient."""
    task_map = TaskMap()  # the counter does not see other threads
    meta, episodes = learner.training_data(0)
    first = tree_map(itemgetter(slice(1)), episodes)
    with FlopCounterMode(display=False) as counter:
        task_map.mean_and_grad(learner.objective, meta, first)
    return int(counter.get_total_flops())


def physics_limit(config: RLExperiment) -> Callable[[], float] | None:
    """Env steps per second of the bare simulator under random controls; None without physics."""
    family = make_family(config.env)
    sims = config.tasks * config.trajectories
    simulator = BatchedEnv(family, config.tasks, config.trajectories, config.threads).simulator
    batch = getattr(simulator, "batch", None)
    if batch is None:
        return None
    rng = np.random.default_rng(0)
    low, high = family.control_range
    controls = rng.uniform(low, high, (family.horizon, sims, family.action_dim))
    ctrl = batch.bind("ctrl")

    def measure() -> float:
        simulator.reset(np.arange(sims), family.initial_state(rng, sims))
        began = time.perf_counter()
        for control in controls:
            ctrl[:] = control
            batch.step(nstep=family.frame_skip)  # type: ignore[attr-defined]
        return sims * family.horizon / (time.perf_counter() - began)

    return measure


def sampler_speed(learner: MetaRLLearner, phi: Any, tasks: Any, trajectories: int) -> float:
    """Env steps per second of the training sampler, from call to finished trajectories."""
    began = time.perf_counter()
    sampled = learner.sampler.collect(phi, tasks, trajectories, STREAM)
    return float(sampled.mask.sum()) / (time.perf_counter() - began)


def evaluation_speed(learner: MetaRLLearner) -> float:
    """Env steps per second of a whole evaluation: sampling, adaptation, statistics."""
    began = time.perf_counter()
    evaluation = learner.evaluate(0)
    env_steps = evaluation.trajectories * evaluation.lengths.sum()
    return float(env_steps) / (time.perf_counter() - began)


def flop_per_call(learner: MetaRLLearner, support: Sampled, query: Sampled) -> dict[str, int]:
    """Floating-point operations of the outer problem's functions: one task's times the tasks."""
    first = [tree_map(itemgetter(slice(1)), s.batch) for s in (support, query)]
    problem, theta = learner.outer_problem(first[:1], first[1]), flatten(learner.meta)
    counts = {}
    for name in ("loss_and_kl", "loss_gradient", "kl_gradient"):
        with FlopCounterMode(display=False) as counter:
            getattr(problem, name)(theta)
        counts[name] = int(counter.get_total_flops() * len(query.batch.mask))
    return counts


def count_calls(problem: Problem) -> tuple[Counter[str], Problem]:
    """The same problem, counting the calls of its functions by name."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return function(*args)

        return call

    return calls, Problem(*(counted(n, f) for n, f in problem._asdict().items()))


def matrix_peak(threads: int, device: str, size: int = 2048, products: int = 6) -> float:
    """GFLOP/s of float32 matrix products, one product per thread at a time."""
    a, b = torch.randn(2, size, size, device=device)

    def multiply(_: int) -> None:
        for _ in range(products):
            a @ b

    workers = threads if device == "cpu" else 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(multiply, range(workers)))  # warm
        seconds = timed(lambda: list(pool.map(multiply, range(workers))))
    return workers * products * 2 * size**3 / seconds / 1e9


def timed(action: Callable[[], Any]) -> float:
    """Seconds that ``action`` takes, with all that it started on a GPU."""
    synchronize()
    began = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['case']}; {result['threads']} threads, {result['device']}")
    for name in ("", "median", "range", "of the limit"):
        table.add_column(name, justify="left" if not name else "right")
    median = {name: statistics.median(values) for name, values in result["numbers"].items()}
    limits = {
        "sampler, env steps/s": "physics limit, env steps/s",
        "evaluation, env steps/s": "sampler, env steps/s",
        "meta-gradient, GFLOP/s": "matrix peak, GFLOP/s",
        "TRPO update, GFLOP/s": "matrix peak, GFLOP/s",
        "eager, GFLOP/s": "matrix peak, GFLOP/s",
        "compiled, GFLOP/s": "matrix peak, GFLOP/s",
    }
    for name, values in result["numbers"].items():
        limit = median.get(limits.get(name, ""))
        share = f"{median[name] / limit:.0%}" if limit else ""
        digits = ",.0f" if median[name] > 100 else ".3f"
        spread = f"{format(min(values), digits)} - {format(max(values), digits)}"
        table.add_row(name, format(median[name], digits), spread, share)
    table.add_row("peak memory, MB", f"{result['peak memory, MB']:,.0f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
