"""Commands: ``metarl train``, ``metarl evaluate``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from rich import box
from rich.console import Console
from rich.table import Table

from metarl import __version__, build
from metarl.checkpoint import write_atomically
from metarl.config import (
    Config,
    Parser,
    config_parser,
    find_config,
    fixed_settings,
    plain,
    require_mapping,
    to_yaml,
)
from metarl.errors import UserError
from metarl.evaluation import Evaluation, PublishedConfig
from metarl.metrics import ConsoleSink, JsonlSink, Sink, Sinks, TensorboardSink, WandbSink
from metarl.run import RunFolder
from metarl.trainer import Trainer, first_difference, load_into

COLUMNS = {
    "return/before": ("before", ".1f"),
    "return/after": ("after", ".1f"),
    "return/after_ci95": ("±", ".1f"),
    "outer/kl": ("KL", ".4f"),
    "env_steps_per_second": ("env steps/s", ",.0f"),
    "seconds/iteration": ("s", ".2f"),
}


def _command(function: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Turn a UserError into one line and exit code 2, Ctrl-C into one line and its usual 130."""

    @wraps(function)
    def run(argv: Sequence[str]) -> int:
        try:
            return function(argv)
        except UserError as error:
            print(f"metarl {function.__name__}: error: {error}", file=sys.stderr)
            return 2
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            print(f"metarl {function.__name__}: interrupted", file=sys.stderr)
            return 130

    return run


@_command
def train(argv: Sequence[str]) -> int:
    """Meta-train a policy, then evaluate it on held-out tasks."""
    config, resumed = _read_settings(argv)
    learner = build.make_learner(config)
    # Everything that can be refused has been; only now is something written.
    path = Path(config.folder) / str(config.name)
    run = resumed or RunFolder.create(path, to_yaml(config))
    trainer = Trainer(
        learner,
        fixed_settings(config),
        run.checkpoints(config.checkpoint.keep),
        config.iterations,
        config.checkpoint.every,
        config.evaluation.every,
    )
    if resumed:
        trainer.resume()
        run.require_not_ahead_of(trainer.start, config.checkpoint.every)
        run.update_config(to_yaml(config))
    print(f"run folder: {run.path}" + (f", from iteration {trainer.start}" if resumed else ""))
    if not trainer.run(lambda start: _open_sinks(config, run, start)):
        print(
            f"stopped; to go on: metarl train --resume {run.path} "
            f'(or make train ARGS="--resume {run.path}")'
        )
    else:
        _show(learner.evaluate(config.iterations), config, config.iterations, run.evaluation_file)
    return 0 if trainer.saved else 1


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``metarl evaluate``; what is not given is as in the run's config.

    Args:
        checkpoint: last, best, or a number of iterations.
        tasks: number of held-out tasks.
        trajectories: trajectories per task and inner step.
        inner_steps: adaptation steps.
        inner_rates: inner rate of every inner step.
        seed: of the held-out tasks and their noise.
        threads: CPU threads, 0 for one per core.
        device: where adaptation runs; null: where training ran.
        output: JSON file; null: evaluation.json in the run folder.
    """

    checkpoint: str = "last"
    tasks: Annotated[int, Gt(0)] | None = None
    trajectories: Annotated[int, Gt(0)] | None = None
    inner_steps: Annotated[int, Ge(0)] | None = None
    inner_rates: list[Annotated[float, Gt(0)]] | None = None
    seed: Annotated[int, Ge(0)] | None = None
    threads: Annotated[int, Ge(0)] = 0
    device: Literal["cpu", "cuda"] | None = None
    output: str | None = None


@_command
def evaluate(argv: Sequence[str]) -> int:
    """Adapt a trained policy to held-out tasks and score it after every inner step."""
    parser = Parser(prog="metarl evaluate", description=evaluate.__doc__, allow_abbrev=False)
    parser.add_argument("run", help="run folder.")
    parser.add_class_arguments(EvaluateOptions)
    values = vars(parser.instantiate(parser.parse_settings(argv)))
    run = RunFolder.open(Path(values.pop("run")))
    options = EvaluateOptions(**values)
    config = _read_config(run)
    protocol = ("tasks", "trajectories", "inner_steps", "inner_rates", "seed")
    given = {n: getattr(options, n) for n in protocol if getattr(options, n) is not None}
    config = _checked(
        lambda: replace(
            config,
            threads=options.threads,
            device=options.device or config.device,
            evaluation=replace(config.evaluation, **given),
        )
    )
    learner = build.make_learner(config)
    checkpoint, state = run.checkpoints().load(options.checkpoint)
    load_into(learner, state, fixed_settings(config), str(checkpoint.path))
    output = Path(options.output) if options.output else run.evaluation_file
    _require_writable(output)
    print(f"{run.path} after {checkpoint.iteration} iterations")
    _show(learner.evaluate(checkpoint.iteration), config, checkpoint.iteration, output)
    return 0


COMMANDS = {"train": train, "evaluate": evaluate}


def main() -> int:
    """The ``metarl`` command."""
    parser = Parser(prog="metarl", description="Meta-reinforcement learning.", version=__version__)
    parser.add_argument("command", choices=list(COMMANDS), help="see metarl COMMAND --help")
    known = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[known.command](sys.argv[2:])


# --- settings


def _read_settings(argv: Sequence[str]) -> tuple[Config, RunFolder | None]:
    """The resolved config, and the run to resume if one was named."""
    parser = config_parser("metarl train")
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--resume")
    early.add_argument("--config", action="append", default=[])
    try:
        known, overrides = early.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    files = [find_config(name) for name in known.config]
    run = None if known.resume is None else RunFolder.open(Path(known.resume))
    if run is not None:
        files.insert(0, run.config_file)
    config = _parse(parser, files, overrides, None if run is None else _read_config(run))
    if run is None:
        stem = files[-1].stem if files else config.env["family"]
        default = f"{stem}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        return replace(config, name=config.name or default), None
    run.require_writable()
    return config, run


def _read_config(run: RunFolder) -> Config:
    return _parse(config_parser("metarl"), [run.config_file], [])


def _parse(
    parser: Parser,
    files: Sequence[Path],
    overrides: Sequence[str],
    resumed: Config | None = None,
) -> Config:
    for path in files:
        require_mapping(path)
    arguments = [a for path in files for a in ("--config", str(path))]
    namespace = parser.parse_settings([*arguments, *overrides])
    if "resume" in namespace:
        raise UserError("resume is no setting for a file; say --resume on the command line")
    family = namespace.env.get("family")
    if resumed and family != resumed.env["family"]:
        raise UserError(f"the run to resume is of {resumed.env['family']}, not {family}")

    def make() -> Config:
        values = vars(parser.instantiate(namespace))
        values = {k: v for k, v in values.items() if k not in ("config", "resume")}
        return build.resolve(Config(**values))

    config = _checked(make)
    difference = first_difference(_kept(resumed or config), _kept(config))
    if difference:
        raise UserError(f"a resumed run keeps its settings: {difference}; start a new run instead")
    return config


def _kept(config: Config) -> dict[str, Any]:
    """What ``--resume`` may not change: the experiment, and where its run is kept."""
    return {**fixed_settings(config), "folder": config.folder, "name": config.name}


def _checked(make: Callable[[], Config]) -> Config:
    """Settings that contradict each other raise ValueError when they are put together."""
    try:
        return make()
    except ValueError as error:
        raise UserError(str(error)) from error


# --- results


def _open_sinks(config: Config, run: RunFolder, start: int) -> Sinks:
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


def _show(evaluation: Evaluation, config: Config, iteration: int, output: Path) -> None:
    """Print the table and write the JSON."""
    Console().print(_table(evaluation, config.evaluation.published))
    result = {
        **evaluation.to_json(),
        "family": config.env["family"],
        "iteration": iteration,
        "seed": config.seed,
        "evaluation_seed": config.evaluation.seed,
        "published": plain(config.evaluation.published),
    }
    try:
        write_atomically(output, json.dumps(result, indent=2).encode())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    print(f"written to {output}")


def _require_writable(output: Path) -> None:
    """Raises UserError when ``output`` cannot be written; better before the work than after it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise UserError(f"cannot write {output}")


def _table(evaluation: Evaluation, published: PublishedConfig) -> Table:
    table = Table(
        title=f"{len(evaluation.tasks)} held-out tasks, {evaluation.trajectories} trajectories "
        "per task and inner step;\nmean return with 95 % interval",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,  # this and no edges: to fit 80 columns
        pad_edge=False,
        show_edge=False,
    )
    for name in ("inner steps", "rate", "return", "median", "length", "diverged"):
        table.add_column(name, justify="right", no_wrap=True)
    if published.returns:
        table.add_column(published.source, justify="right")
    for row in evaluation.rows():
        k = int(row["inner_steps"])
        cells = [
            str(k),
            f"{evaluation.inner_rates[k - 1]:g}" if k else "",
            f"{row['return']:.2f} ± {row['ci95']:.2f}",
            f"{row['median']:.2f}",
            f"{row['length']:.1f}",
            f"{row['diverged']:.0f}",
        ]
        if published.returns:
            cells.append(f"{published.returns[k]:.2f}" if k < len(published.returns) else "")
        table.add_row(*cells)
    return table
