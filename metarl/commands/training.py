"""Train a run in its folder: write its files, and print its result."""

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from metarl.core.processes import ALONE, Disconnected, Processes, StoppedElsewhere
from metarl.experiment import build, evaluations, plugins, provenance, registries
from metarl.experiment.resolution import task_file_path
from metarl.experiment.schema import Experiment, fixed_settings, plain, to_yaml
from metarl.experiment.sizes import Shapes
from metarl.experiment.trust import folders_of, signature_of
from metarl.experiment.warm_start import shapes_in
from metarl.report import tables
from metarl.runtime.console import complain, say
from metarl.runtime.errors import UserError, described, warn
from metarl.runtime.files import write_atomically
from metarl.runtime.folder import RunFolder
from metarl.runtime.launch import launched
from metarl.runtime.lock import locked
from metarl.runtime.origin import origin
from metarl.runtime.scores import Evaluation
from metarl.runtime.sinks import ConsoleSink, JsonlSink, Media, Sink, Sinks
from metarl.runtime.trackers import TensorboardSink, WandbSink
from metarl.runtime.trainer import Trainer, first_difference

COLUMNS = {
    "return/before": ("before", ".1f"),
    "return/after": ("after", ".1f"),
    "return/after_ci95": ("±", ".1f"),
    "success/after": ("success", ".2f"),
    "loss/after": ("loss", ".4f"),
    "accuracy/after": ("accuracy", ".3f"),
    "outer/kl": ("KL", ".4f"),
    "env_steps_per_second": ("env steps/s", ",.0f"),
    "seconds/iteration": ("s", ".2g"),
}
"""Metrics that the console shows: heading and format."""


class Fault(Exception):
    """A run failed, and its settings are not the reason."""


def require_same_settings(config: Experiment, processes: Processes) -> None:
    """Raise UserError where this process would train something else than the first one."""
    if processes.size == 1:
        return
    own = {**plain(config), "threads": None}
    first = json.loads(processes.leading_bytes(json.dumps(own).encode()))
    if difference := first_difference(own, first):
        raise UserError(f"the settings are not those of the first process: {difference}")


def beginning(config: Experiment, old_run: RunFolder | None) -> Experiment:
    """Return the config to make a learner of: a run with a checkpoint needs no warm start."""
    has_own = old_run is not None and not old_run.checkpoints().is_empty()
    return replace(config, init=None) if has_own else config


def stored_shapes(old_run: RunFolder | None) -> Shapes | None:
    """Return the shapes in the newest checkpoint of a run that this user did not make."""
    if old_run is None or old_run.is_own or old_run.checkpoints().is_empty():
        return None
    checkpoint, state = old_run.checkpoints().load()
    return shapes_in(state, str(checkpoint.path))


def learner_of(
    config: Experiment, old_run: RunFolder | None, processes: Processes = ALONE
) -> build.Learner:
    """Return the learner of a run that begins, or goes on from ``old_run``.

    Raises:
        UserError: see ``build.make_learner``.
    """
    return build.make_learner(beginning(config, old_run), processes, stored_shapes(old_run))


class Training:
    """A run that is about to begin, or to go on.

    Args:
        config: its settings.
        folder: the run's, which is there only if it goes on.
        learner: the learner to train.
        processes: the processes that share it; the first one writes and speaks.
        callbacks: called with every iteration and its metrics.
    """

    def __init__(
        self,
        config: Experiment,
        folder: RunFolder,
        learner: build.Learner,
        processes: Processes,
        callbacks: Sequence[Callable[[int, Mapping[str, float]], Any]] = (),
    ) -> None:
        self._config = config
        self._folder = folder
        self._learner = learner
        self._processes = processes
        self._callbacks = callbacks
        self._report_iteration: int | None = None  # iterations that the report is of

    def run(self, go_on: bool) -> int:
        """Train and evaluate; returns the exit code: 1 if the last checkpoint is not on disk.

        Args:
            go_on: with a run whose folder is there, and locked by the caller.

        Raises:
            UserError: the run cannot go on.
            Fault: an unexpected error.
        """
        if go_on:
            self._processes.by_leader(self._require_same)
            return self._run(go_on)
        if self._processes.leads:
            build.warn_of_equal_tasks(self._config)
        # Everything that can be refused has been; only now is something written.
        with ExitStack() as stack:
            self._processes.by_leader(lambda: self._create(stack))
            return self._run(go_on)

    def _run(self, go_on: bool) -> int:
        trainer = self._trainer()
        if go_on or self._processes.size > 1:  # of several, the first one knows
            trainer.resume()
        if self._processes.leads:
            self._begin(trainer, go_on)
        try:
            evaluation = trainer.run(self._open_sinks)
        except (UserError, Disconnected, StoppedElsewhere, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a family or a model of the user's own, or a fault of ours
            raise Fault(_describe(error, self._folder)) from error
        if not self._processes.leads:
            return 0
        self._end(evaluation)
        return 0 if trainer.is_saved else 1

    def _require_same(self) -> None:
        """Raise UserError where the run was begun with other data; warn of other code."""
        provenance.warn_of_changed_code(self._folder, self._config)
        provenance.require_same_data(self._folder, self._learner)

    def _create(self, stack: ExitStack) -> None:
        """Make the run's folder, locked until ``stack`` is closed."""
        self._folder.require_new()
        stack.enter_context(locked(self._folder.path))
        info = origin(
            plugins.folders(),
            plugins.packages(),
            plugins.code_of(plain(self._config)),
            build.compiles(self._config),
        )
        info["signature"] = self._sign(info)
        data = provenance.data_of(self._learner)
        RunFolder.create(self._folder.path, to_yaml(self._config), info, data)
        self._keep_task_file()

    def _sign(self, info: Mapping[str, Any]) -> str | None:
        return signature_of(plain(self._config), folders_of(info))

    def _keep_task_file(self) -> None:
        if path := task_file_path(self._config):
            try:
                self._folder.keep_task_file(path)
            except OSError as error:
                raise UserError(f"cannot copy {path}: {error.strerror}") from error

    def _trainer(self) -> Trainer[Evaluation]:
        config = self._config
        return Trainer(
            self._learner,
            fixed_settings(config),
            self._folder.checkpoints(config.checkpoint.keep),
            config.iterations,
            config.checkpoint.every,
            config.evaluation.every,
            self._illustrate,
            config.logging.every,
            self._processes,
            self._callbacks,
        )

    def _begin(self, trainer: Trainer[Evaluation], go_on: bool) -> None:
        if go_on:
            self._folder.require_not_ahead_of(trainer.start, self._config.checkpoint.every)
            self._folder.update_config(to_yaml(self._config))
            info = self._folder.info()
            self._warn_of_rounding(info.get("compiled", self._config.compile))
            if not (self._folder.is_own or self._folder.trust_code):
                # The folders that are signed now should be those of this user's parts.
                info |= {"directory": os.getcwd(), "modules": plugins.folders()}
            if "command" in info:  # else run.json is missing or damaged
                self._folder.write_info(info | {"signature": self._sign(info)})
            if self._folder.load_data():
                self._folder.write_data(provenance.data_of(self._learner))
            self._keep_task_file()
        since = f", from iteration {trainer.start}" if go_on else ""
        say(f"run folder: {self._folder.path}{since}")
        if build.compiles(self._config):
            say("compiling: the first iteration can take a minute longer")

    def _warn_of_rounding(self, was_compiled: Any) -> None:
        """Warn where the run began compiled and goes on otherwise, or the other way round."""
        if bool(was_compiled) != build.compiles(self._config):
            how = "compiled" if was_compiled else "without compiling"
            warn(f"the run began {how} and goes on otherwise: results will differ in rounding")

    def _open_sinks(self, start: int) -> Sinks:
        """Open the sinks for rows from iteration ``start`` on."""
        if not self._processes.leads:
            return Sinks({})
        config, run = self._config, self._folder
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
        for name in config.logging.sinks:
            make = registries.find_sink(name)
            factories[name] = partial(make, run.path, plain(config), start)
        return Sinks(factories)

    def _illustrate(self, iteration: int, evaluation: Evaluation) -> Media:
        """Keep an evaluation and, if that is asked for, draw the report."""
        self._report_iteration = None
        view = evaluations.keep_in(self._model(iteration), evaluation)
        if not self._config.logging.report:
            return Media(tables=tables.tracker_tables(view))
        from metarl.report.page import write_report  # slow to import, and writes font caches

        media = write_report([view], self._folder.report_file, self._config.logging.videos)
        self._report_iteration = iteration
        return media

    def _model(self, iteration: int) -> evaluations.Trained:
        return evaluations.Trained(self._folder, self._config, iteration, self._learner)

    def _end(self, evaluation: Evaluation | None) -> None:
        """Say how it went."""
        run, iterations = self._folder, self._config.iterations
        if evaluation is None:
            print(
                f"stopped; to go on: metarl train --resume {run.path} "
                f'(or make train ARGS="--resume {run.path}")'
            )
            return
        try:
            view = evaluations.keep_in(self._model(iterations), evaluation)
        except UserError as error:  # the disk is full, say: the run itself is done
            raise Fault(f"{error}; metarl evaluate {run.path} evaluates it again") from error
        flags = [row["outer/accepted"] for row in view.metrics if "outer/accepted" in row]
        if flags and not any(flags):
            say(
                f"no outer step was accepted in {len(flags)} logged iterations: the parameters "
                "are those that training began with"
            )
        tables.print_scores(view)
        print(f"written to {run.evaluation_file}")
        if self._report_iteration == iterations:
            print(f"report: {run.report_file}")


def _describe(error: Exception, run: RunFolder) -> str:
    """Return one line on an unexpected error, and keep its traceback in the run's folder."""
    text = "".join(traceback.format_exception(error))
    file = run.path / f"error{launched().rank or ''}.txt"
    try:
        write_atomically(file, text.encode())
        place_of_traceback = f"the traceback is in {file}"
    except OSError:
        for line in text.splitlines():
            complain(line)
        place_of_traceback = "the traceback is above"
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{described(error)} ({place.filename}, line {place.lineno}); {place_of_traceback}"
    if run.checkpoints().is_empty():  # to go on would be to begin again
        return message
    return f"{message}; --resume {run.path} goes on from the last checkpoint"
