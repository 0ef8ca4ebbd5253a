"""Commands: ``metarl train``, ``evaluate``, ``report``, ``keep`` and ``gradcheck``."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from annotated_types import Ge, Gt, Interval

from metarl import __version__, build, check, results
from metarl.config import Experiment
from metarl.core.world import Disconnected, StoppedElsewhere
from metarl.distributed import joined, launched
from metarl.errors import UserError, leads
from metarl.files import require_writable
from metarl.kept_runs import keep_run, newest_checkpoint
from metarl.options import EvaluateOptions, with_options
from metarl.parsing import Parser
from metarl.report import tables
from metarl.report.view import RunView, by_test
from metarl.run import RunFolder
from metarl.settings import read_config, read_settings
from metarl.training import Fault, Training, require_same_settings

Options = TypeVar("Options")


def _command(function: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Turn a UserError into one line and exit code 2, Ctrl-C into one line and its usual 130."""

    @wraps(function)
    def run(argv: Sequence[str]) -> int:
        try:
            return function(argv)
        except UserError as error:
            if leads():
                print(f"metarl {function.__name__}: error: {error}", file=sys.stderr)
            return 2
        except (Fault, torch.OutOfMemoryError) as error:
            reason = str(error).partition("\n")[0]
            print(f"metarl {function.__name__}: error: {reason}", file=sys.stderr, flush=True)
            return 1
        except StoppedElsewhere:
            return 1
        except Disconnected as error:
            where = f"metarl {function.__name__}: process {launched().rank}"
            print(f"{where}: another process is lost: {error}", file=sys.stderr, flush=True)
            return 1
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            print(f"metarl {function.__name__}: interrupted", file=sys.stderr)
            return 130

    return run


@_command
def train(argv: Sequence[str]) -> int:
    """Meta-train a policy or a model, then evaluate it on held-out tasks."""
    config, resumed = read_settings(argv)
    with joined(config.device, config.timeout) as world:
        require_same_settings(config, world)
        learner = world.in_turn(lambda: build.make_learner(config, world))
        run = resumed or RunFolder(Path(config.folder) / str(config.name))
        return Training(config, run, learner, world).run(go_on=resumed is not None)


@_command
def evaluate(argv: Sequence[str]) -> int:
    """Adapt trained policies to held-out tasks, the same for all, and score every inner step."""
    runs, options = _runs_and_options(evaluate, EvaluateOptions, _with_short_names(argv))
    configs = [read_config(run) for run in runs]
    results.require_same_problem(runs, configs)
    trained = [
        results.load(run, with_options(config, options, configs), options.checkpoint)
        for run, config in zip(runs, configs, strict=True)
    ]
    output = Path(options.output) if options.output else None
    for file in [output] if output else [run.evaluation_file for run in runs]:
        require_writable(file)
    views = []
    for one in trained:
        print(f"{one.run.path} after {one.iteration} iterations", flush=True)
        own = results.is_own(one)
        views.append(results.evaluated(one, keep=own and output is None))
        tables.print_scores(views[-1])
        if output is None:
            kept = f"written to {one.run.evaluation_file}"
            print(kept if own else "not kept, as it is not the run's own protocol; see --output")
    if len(views) > 1:
        _print_comparison(views)
    if output is not None:
        results.write(output, views)
        print(f"written to {output}")
    return 0


@dataclass(frozen=True)
class ReportOptions:
    """Options of ``metarl report``.

    Args:
        videos: held-out tasks whose adaptation is filmed; of several runs, one each.
        output: the HTML file; null: report.html in the run's folder, or comparison.html in the
            first of several. Runs of different tasks then have a page for each task.
    """

    videos: Annotated[int, Interval(ge=0, le=3)] = 3
    output: str | None = None


@_command
def report(argv: Sequence[str]) -> int:
    """Write figures, videos and a page about a run, or about several side by side."""
    runs, options = _runs_and_options(report, ReportOptions, argv)
    if options.output and Path(options.output).suffix != ".html":
        raise UserError(f"the output should be a file named .html, got {options.output}")
    configs = [read_config(run) for run in runs]
    if options.output:
        results.require_same_problem(runs, configs)
    pages = {}
    for compared, theirs in results.by_problem(runs, configs):
        first, alone = compared[0], len(compared) == 1
        page = first.report_file if alone else first.path / "comparison.html"
        pages[Path(options.output) if options.output else page] = compared, theirs
    for page in pages:
        require_writable(page)
    for page, (compared, theirs) in pages.items():
        _write_page(page, compared, theirs, options.videos)
        print(f"report: {page}")
    return 0


def _write_page(
    page: Path, runs: Sequence[RunFolder], configs: Sequence[Experiment], videos: int
) -> None:
    """Evaluate the runs alike, where that is still to do, and write their page."""
    alike = [with_options(config, EvaluateOptions(), configs) for config in configs]
    filmed = videos > 0
    views = [results.newest(run, config, filmed) for run, config in zip(runs, alike, strict=True)]
    from metarl.report.page import write_report

    try:
        write_report(views, page, videos)
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}") from error


@dataclass(frozen=True)
class KeepOptions:
    """Options of ``metarl keep``.

    Args:
        folder: kept runs are in here.
        name: folder of the kept run; null: the run's name.
    """

    folder: str = "results"
    name: str | None = None


@_command
def keep(argv: Sequence[str]) -> int:
    """Copy runs to small folders that evaluate, report and resume like any run."""
    runs, options = _runs_and_options(keep, KeepOptions, argv)
    if options.name is not None and len(runs) > 1:
        raise UserError(f"--name needs exactly one run, got {len(runs)}")
    for run in runs:  # all are whole before the first is kept
        newest_checkpoint(run, read_config(run))
    for run in runs:
        kept = keep_run(run, Path(options.folder), options.name or run.name)
        print(f"kept in {kept.path}: {kept.iterations} iterations, {kept.size / 1000:,.0f} kB")
    return 0


@dataclass(frozen=True)
class GradcheckOptions:
    """Options of ``metarl gradcheck``.

    Args:
        rate: inner rate alpha.
        inner_steps: adaptation steps; --steps is short for it.
        tolerance: largest difference allowed, as a part of the gradient's largest entry.
        entries: entries of every parameter to compare.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    inner_steps: Annotated[int, Ge(0)] = 1
    tolerance: Annotated[float, Gt(0)] = 1e-4
    entries: Annotated[int, Gt(0)] = 20


@_command
def gradcheck(argv: Sequence[str]) -> int:
    """Compare the meta-gradient of your own model and loss with finite differences, in float64."""
    parser = Parser(prog="metarl gradcheck", description=gradcheck.__doc__, allow_abbrev=False)
    defines = "; ".join(f"{name}, {meaning}" for name, meaning in check.NAMES.items())
    parser.add_argument("file", help=f"Python file that defines {defines}.")
    parser.add_class_arguments(GradcheckOptions)
    values = vars(parser.instantiate(parser.parse_settings(_with_short_names(argv))))
    path = Path(values.pop("file"))
    options = GradcheckOptions(**values)
    found = check.check_file(path, options.rate, options.inner_steps, options.entries)
    header = ["parameter", "entry", "gradient", "finite difference", "error", ""]
    rows = [
        [
            *(entry.name, str(list(entry.where)), f"{entry.gradient:.6g}"),
            *(f"{entry.finite_difference:.6g}", f"{entry.error:.1e}"),
            "ok" if entry.error <= options.tolerance else "DIFFERS",
        ]
        for entry in found
    ]
    title = "the entry of every parameter where the two differ most"
    tables.print_whole(tables.terminal_table(title, header, rows))
    return int(any(entry.error > options.tolerance for entry in found))


def _with_short_names(argv: Sequence[str]) -> list[str]:
    return [re.sub("^--steps(?==|$)", "--inner_steps", argument) for argument in argv]


def _runs_and_options(
    command: Callable[[Sequence[str]], int], schema: type[Options], argv: Sequence[str]
) -> tuple[list[RunFolder], Options]:
    """What a command about existing runs was asked for."""
    name = f"metarl {command.__name__}"
    parser = Parser(prog=name, description=command.__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders.")
    parser.add_class_arguments(schema)
    values = vars(parser.instantiate(parser.parse_settings(argv)))
    return results.open_runs(values.pop("runs")), schema(**values)


COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "keep": keep,
    "gradcheck": gradcheck,
}


def main() -> int:
    """The ``metarl`` command."""
    parser = Parser(prog="metarl", description="Meta-reinforcement learning.", version=__version__)
    parser.add_argument("command", choices=list(COMMANDS), help="see metarl COMMAND --help")
    known = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[known.command](sys.argv[2:])


# --- results


def _print_comparison(views: Sequence[RunView]) -> None:
    for test, seen in by_test(views).items():
        title = f"side by side{test and f', {test}'}"
        tables.print_whole(tables.terminal_table(title, *tables.comparison(seen)))
        if len(seen) < 2:
            continue
        title = (
            f"minus {seen[0].name}, paired by task, with their own 95 % intervals\n"
            "(a model that does not adapt is the same after every inner step)"
        )
        tables.print_whole(tables.terminal_table(title, *tables.differences(seen)))
