"""How close to the machine's limits: physics, sampler, update, whole iterations, supervised.

    python scripts/benchmark.py [SUITE ...] [--cases half-cheetah-velocity ...] [--repeats 5]
    python scripts/benchmark.py iteration --profile        where an iteration's seconds go
    python scripts/benchmark.py size --vary tasks=10,20,40,80,400
    python scripts/benchmark.py --json new.json --markdown new.md --compare old.json
    python scripts/benchmark.py scaling [options of scripts/scaling.py]

Suites: physics, sampler, update, iteration, supervised (all five by default); size, an iteration
with each of its sizes varied alone; algorithms, an iteration of every algorithm; workers,
gymnasium's environments in worker processes; scaling, what more processes would give. Every suite
of every case runs in a process of its own, whose peak memory is shown. A limit and what is compared
with it are measured in turn, as often as --repeats says: tables show medians, ranges, and the
median of the repeats' own ratios; the JSON, on the last line and in --json, has every measurement.
With --compare a number got slower where the ranges of its repeats do not overlap and its median is
worse by more than 10 %; one that has a limit is judged by its share of it, as the machine's speed
changes too. What got slower changes no exit code.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import compare, size, tables
from benchmarks.cases import GYMNASIUM_CASES, RL_CASES, SUPERVISED_CASES, Settings
from benchmarks.results import Result, as_result, read_results
from benchmarks.suites import run
from metarl.core.compile import Traced
from metarl.core.task_map import cores
from metarl.runtime.errors import UserError
from metarl.runtime.files import require_writable

SCALING = Path(__file__).with_name("scaling.py")
SUITES = (
    "physics",
    "sampler",
    "update",
    "iteration",
    "supervised",
    "size",
    "algorithms",
    "workers",
)
BY_DEFAULT = SUITES[:5]
WIDTH = 150  # of tables, where there is no terminal


@dataclass(frozen=True)
class Job:
    """The work of one process."""

    suite: str
    case: str
    settings: Settings


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["scaling"]:
        return subprocess.run([sys.executable, SCALING, *words[1:]], check=False).returncode
    if words[:1] == ["--job"]:
        Traced.from_call = 1  # as in a long run, and not in the middle of a measurement
        job = json.loads(words[1])
        print(json.dumps(asdict(run(job["suite"], job["case"], Settings(**job["settings"])))))
        return 0
    args, jobs, before = read_arguments(words)
    results = measure(jobs)
    all_results = list(results.values())
    sizes = size_tables(results, args)
    for table in sizes:
        console().print(table)
    if args.compare:
        changes = compare.changes_between(before, all_results)
        console().print(compare.table_of(changes))
        print(compare.summary(changes))
    report = report_of(all_results)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    if args.markdown:
        wholes = [tables.table_of(result) for result in all_results if result.suite != "size"]
        args.markdown.write_text(tables.as_markdown([*wholes, *sizes]))
    print(json.dumps(report))
    return int(len(results) < len(jobs))


def read_arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[Job], list[Result]]:
    """Return the arguments, their jobs, and the earlier results; exit where a word is wrong."""
    parser = make_parser()
    args = parser.parse_args(words)
    try:
        before = read_results(args.compare) if args.compare else []
        jobs = jobs_of(args)
        for file in filter(None, (args.json, args.markdown)):
            require_writable(file)
        if args.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no CUDA GPU here")
    except UserError as error:
        parser.error(str(error))
    return args, jobs, before


def report_of(results: Sequence[Result]) -> dict[str, Any]:
    """Return the report to write; ``read_results`` needs the results only."""
    return {
        "machine": f"{platform.processor() or platform.machine()}, {cores()} cores",
        "versions": {name: version(name) for name in ("metarl", "torch", "mujoco")},
        "results": [asdict(result) for result in results],
    }


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("suites", nargs="*", metavar="SUITE", type=suite, default=BY_DEFAULT, help="see above")
    cases = [*RL_CASES, *GYMNASIUM_CASES, *SUPERVISED_CASES]
    add("--cases", nargs="+", choices=cases, metavar="CASE", help=f"some of {', '.join(cases)}")
    add("--repeats", type=count, default=5, help="measurements of a number")
    add("--seconds", type=positive, default=2.0, help="of a supervised measurement")
    add("--threads", type=natural, default=0, help="0: one per core")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="of adaptation and update")
    add("--chunk-size", type=count, help="tasks per vectorised call of the update")
    add("--eager", action="store_true", help="compile nothing of policies, as in short runs")
    add("--tasks", type=count, help="M, in place of the case's own; likewise:")
    add("--trajectories", type=count, help="N")
    add("--horizon", type=count, help="T, env steps")
    add("--width", type=count, help="units of every hidden layer of a policy")
    add("--vary", nargs="+", type=variation, metavar="SIZE=A,B,...", help="of the suite size")
    add("--profile", action="store_true", help="also where its seconds go, on one thread")
    add("--json", type=Path, metavar="FILE", help="write every measurement to it")
    add("--markdown", type=Path, metavar="FILE", help="write the tables to it")
    add("--compare", type=Path, metavar="OLD.json", help="say what got slower since")
    return parser


# --- what is to be done


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Return a job per suite, case and point of the suite size.

    Raises:
        UserError: there is nothing to do.
    """
    settings = settings_of(args)
    jobs = []
    for suite in args.suites:
        for case in cases_of(suite, args):
            if suite == "size":
                jobs += [job for what in plan(case, args).values() for job in what.values()]
            else:
                jobs.append(Job(suite, case, settings))
            if suite == "iteration" and args.profile:
                jobs.append(Job("budget", case, replace(settings, threads=1)))
    if not jobs:
        raise UserError(f"{', '.join(args.suites)}: no case among {', '.join(args.cases)}")
    if args.profile and "iteration" not in args.suites:
        raise UserError("--profile is of the suite iteration")
    if args.vary and "size" not in args.suites:
        raise UserError("--vary is of the suite size")
    return list(dict.fromkeys(jobs))


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})


def cases_of(suite: str, args: argparse.Namespace) -> list[str]:
    """Return the requested cases of the suite's kind."""
    of_suite: dict[str, Collection[str]] = {
        "supervised": SUPERVISED_CASES,
        "workers": GYMNASIUM_CASES,
    }
    all_of_them = of_suite.get(suite, RL_CASES)
    is_long = suite in ("size", "algorithms")
    by_default = ["half-cheetah-velocity"] if is_long else all_of_them
    return [case for case in args.cases or by_default if case in all_of_them]


def plan(case: str, args: argparse.Namespace) -> dict[str, dict[int, Job]]:
    """Return the jobs of the suite size by setting and value."""
    settings = settings_of(args)
    return {
        what: {
            value: Job("size", case, at)
            for value, at in size.points(case, settings, what, values).items()
        }
        for what, values in dict(args.vary or size.SIZES).items()
    }


# --- doing it


def measure(jobs: Sequence[Job]) -> dict[Job, Result]:
    """Results of the jobs that did not fail, each shown as soon as it is there."""
    results = {}
    for job in jobs:
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job))]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if process.returncode:
            print(f"benchmark.py: {job.suite} of {job.case} failed, see above", file=sys.stderr)
            continue
        results[job] = result = as_result(json.loads(process.stdout.splitlines()[-1]))
        console().print(tables.table_of(result))
    return results


def size_tables(results: dict[Job, Result], args: argparse.Namespace) -> list[Table]:
    """Return the tables of cost against size, where that suite was asked for."""
    return [
        size.table_of(case, what, {at: results[job] for at, job in jobs.items() if job in results})
        for case in (cases_of("size", args) if "size" in args.suites else [])
        for what, jobs in plan(case, args).items()
    ]


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


# --- words of the command line


def suite(word: str) -> str:
    if word == "scaling":
        raise argparse.ArgumentTypeError("scaling stands first, and alone with its own options")
    if word not in SUITES:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(SUITES)}, scaling")
    return word


def count(word: str) -> int:
    return at_least(1, word)


def natural(word: str) -> int:
    return at_least(0, word)


def at_least(least: int, word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9 or int(word) < least:
        raise argparse.ArgumentTypeError(f"should be a number of at least {least}, got {word!r}")
    return int(word)


def positive(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"should be positive, got {word!r}")
    return value


def variation(word: str) -> tuple[str, list[int]]:
    what, _, values = word.partition("=")
    if what not in size.SIZES:
        raise argparse.ArgumentTypeError(f"{what!r} is none of {', '.join(size.SIZES)}")
    return what, [count(value) for value in values.split(",")]


if __name__ == "__main__":
    sys.exit(main())
