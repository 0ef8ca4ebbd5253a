"""Commands: ``metarl train``, ``evaluate``, ``report`` and ``gradcheck``."""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from annotated_types import Ge, Gt, Interval
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from metarl import __version__, build, check, results
from metarl.config import Experiment, fixed_settings, plain, to_yaml
from metarl.core.world import Disconnected, StoppedElsewhere, World
from metarl.distributed import joined, launched
from metarl.errors import UserError, leads
from metarl.evaluation import Evaluation
from metarl.files import require_writable, write_atomically
from metarl.metrics import ConsoleSink, JsonlSink, Media, Sink, Sinks
from metarl.options import EvaluateOptions, with_options
from metarl.parsing import Parser
from metarl.report import tables
from metarl.report.view import RunView, by_test
from metarl.run import RunFolder
from metarl.settings import read_config, read_settings
from metarl.tracking import TensorboardSink, WandbSink
from metarl.trainer import Trainer, first_difference

Options = TypeVar("Options")

COLUMNS = {
    "return/before": ("before", ".1f"),
    "return/after": ("after", ".1f"),
    "return/after_ci95": ("±", ".1f"),
    "loss/after": ("loss", ".4f"),
    "accuracy/after": ("accuracy", ".3f"),
    "outer/kl": ("KL", ".4f"),
    "env_steps_per_second": ("env steps/s", ",.0f"),
    "seconds/iteration": ("s", ".2g"),
}


class Fault(Exception):
    """What stopped a run, in one line."""


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
        _require_same_settings(config, world)
        learner = world.in_turn(lambda: build.make_learner(config, world))
        return _train(config, resumed, learner, world)


def _require_same_settings(config: Experiment, world: World) -> None:
    """Raises UserError where this process would train something else than the first one."""
    if world.size == 1:
        return
    mine = {**plain(config), "threads": None}
    first = json.loads(world.leading_bytes(json.dumps(mine).encode()))
    if difference := first_difference(mine, first):
        raise UserError(f"the settings are not those of the first process: {difference}")


def _train(
    config: Experiment, resumed: RunFolder | None, learner: build.Learner, world: World
) -> int:
    run = resumed or RunFolder(Path(config.folder) / str(config.name))

    def begin() -> None:
        if not resumed:
            RunFolder.create(run.path, to_yaml(config))

    # Everything that can be refused has been; only now is something written.
    world.by_leader(begin)

    reported: list[int] = []  # what the report is of

    def illustrate(iteration: int, evaluation: Evaluation) -> Media:
        reported.clear()
        view = results.keep_in(run, config, iteration, evaluation)
        if not config.logging.report:
            return Media(tables=tables.tracker_tables(view))
        from metarl.report.page import write_report  # slow to import, and writes font caches

        media = write_report([view], run.report_file, config.logging.videos)
        reported.append(iteration)
        return media

    trainer = Trainer(
        learner,
        fixed_settings(config),
        run.checkpoints(config.checkpoint.keep),
        config.iterations,
        config.checkpoint.every,
        config.evaluation.every,
        illustrate,
        config.logging.every,
        world,
    )
    if resumed or world.size > 1:  # of several, the first one knows
        trainer.resume()
    if resumed and world.leads:
        run.require_not_ahead_of(trainer.start, config.checkpoint.every)
        run.update_config(to_yaml(config))
    if world.leads:
        print(f"run folder: {run.path}" + (f", from iteration {trainer.start}" if resumed else ""))
    try:
        evaluation = trainer.run(lambda start: _open_sinks(config, run, start, world))
    except (UserError, Disconnected, StoppedElsewhere, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a family or a model of the user's own, or a fault of ours
        raise Fault(_described(error, run)) from error
    if not world.leads:
        return 0
    if evaluation is None:
        print(
            f"stopped; to go on: metarl train --resume {run.path} "
            f'(or make train ARGS="--resume {run.path}")'
        )
    else:
        try:
            view = results.keep_in(run, config, config.iterations, evaluation)
        except UserError as error:  # the disk is full, say: the run itself is done
            raise Fault(f"{error}; metarl evaluate {run.path} evaluates it again") from error
        _print_scores(view)
        print(f"written to {run.evaluation_file}")
        if reported == [config.iterations]:
            print(f"report: {run.report_file}")
    return 0 if trainer.saved else 1


def _described(error: Exception, run: RunFolder) -> str:
    """One line on an error that nobody foresaw; its traceback is kept in the run's folder."""
    text = "".join(traceback.format_exception(error))
    file = run.path / f"error{launched().rank or ''}.txt"
    try:
        write_atomically(file, text.encode())
        kept = f"the traceback is in {file}"
    except OSError:
        print(text, file=sys.stderr)
        kept = "the traceback is above"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{reason} ({place.filename}, line {place.lineno}); {kept}; "
        f"--resume {run.path} goes on from the last checkpoint"
    )


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
        _print_scores(views[-1])
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
            first of several.
    """

    videos: Annotated[int, Interval(ge=0, le=3)] = 3
    output: str | None = None


@_command
def report(argv: Sequence[str]) -> int:
    """Write figures, videos and a page about a run, or about several side by side."""
    runs, options = _runs_and_options(report, ReportOptions, argv)
    default = runs[0].report_file if len(runs) == 1 else runs[0].path / "comparison.html"
    page = Path(options.output) if options.output else default
    if page.suffix != ".html":
        raise UserError(f"the output should be a file named .html, got {page}")
    configs = [read_config(run) for run in runs]
    results.require_same_problem(runs, configs)
    require_writable(page)
    alike = [with_options(config, EvaluateOptions(), configs) for config in configs]
    views = [results.newest(run, config) for run, config in zip(runs, alike, strict=True)]
    from metarl.report.page import write_report

    try:
        write_report(views, page, options.videos)
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}") from error
    print(f"report: {page}")
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
    _print(tables.terminal_table(title, header, rows))
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


COMMANDS = {"train": train, "evaluate": evaluate, "report": report, "gradcheck": gradcheck}


def main() -> int:
    """The ``metarl`` command."""
    parser = Parser(prog="metarl", description="Meta-reinforcement learning.", version=__version__)
    parser.add_argument("command", choices=list(COMMANDS), help="see metarl COMMAND --help")
    known = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[known.command](sys.argv[2:])


# --- results


def _open_sinks(config: Experiment, run: RunFolder, start: int, world: World) -> Sinks:
    if not world.leads:
        return Sinks({})
    factories: dict[str, Callable[[], Sink]] = {
        "metrics.jsonl": lambda: JsonlSink(run.metrics_file, start),
        "console": lambda: ConsoleSink(config.iterations, start, COLUMNS),
    }
    if config.logging.wandb != "disabled":
        tracking_id = run.info().get("tracking_id", run.path.name)
        factories["wandb"] = lambda: WandbSink(
            run.path, tracking_id, run.path.name, plain(config), config.logging, start
        )
    if config.logging.tensorboard:
        factories["tensorboard"] = lambda: TensorboardSink(run.path / "tensorboard", start)
    return Sinks(factories)


def _print_scores(view: RunView) -> None:
    for test in view.tests().values():
        _print(tables.scores_table(test))


def _print(table: Table) -> None:
    """As wide as its numbers need it, also where the terminal is narrower."""
    console = Console()
    needed = Measurement.get(console, console.options.update_width(10_000), table).minimum
    Console(width=max(console.width, needed)).print(table)


def _print_comparison(views: Sequence[RunView]) -> None:
    for test, seen in by_test(views).items():
        title = f"side by side{test and f', {test}'}"
        _print(tables.terminal_table(title, *tables.comparison(seen)))
        if len(seen) < 2:
            continue
        title = (
            f"minus {seen[0].name}, paired by task, with their own 95 % intervals\n"
            "(a model that does not adapt is the same after every inner step)"
        )
        _print(tables.terminal_table(title, *tables.differences(seen)))
