"""The shared loop: iterate, evaluate, log, checkpoint, stop, resume."""

import math
import os
import reprlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

from metarl.core.processes import ALONE, Processes
from metarl.runtime.checkpoint import CheckpointFolder, from_bytes, to_bytes
from metarl.runtime.errors import UserError, warn
from metarl.runtime.history import upgraded_state
from metarl.runtime.sinks import Media, Sinks

MANY = 10  # rejected outer steps in a row, which are said


class Scores(Protocol):
    """Result of an evaluation."""

    def metrics(self) -> dict[str, float]: ...


Result = TypeVar("Result", bound=Scores)
Evaluated = TypeVar("Evaluated", bound=Scores, covariant=True)


class Learner(Protocol[Evaluated]):
    """The part of a learner that the trainer needs.

    ``score`` says from the metrics of ``iterate`` how good the learner is, higher is better.
    """

    def iterate(self, iteration: int) -> dict[str, float]: ...
    def score(self, metrics: Mapping[str, float]) -> float: ...
    def evaluate(self, iteration: int) -> Evaluated: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StopRequest:
    """SIGINT and SIGTERM ask to stop after the current iteration; a second one stops at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread gets signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        terminal = os.isatty(2)
        if self.is_set:
            if terminal:
                _write(b"\x1b[?25h\n")  # the cursor, which the progress display hides
            _write(b"metarl: stopped now; --resume goes on from the last checkpoint\n")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.is_set = True
        gap = b"\n" if terminal else b""  # the progress display redraws its own two lines
        _write(gap + b"metarl: stopping after this iteration; again to stop now\n" + gap)


def _write(message: bytes) -> None:
    """Write to standard error as a handler of signals may: print does not reenter."""
    with suppress(OSError):  # its disk is full, say
        os.write(2, message)


class Trainer(Generic[Result]):
    """Runs a learner from iteration ``start`` to ``iterations``, and evaluates it at the end.

    Args:
        learner: what to train.
        settings: of the run, kept in every checkpoint and compared on resume.
        checkpoints: where state is kept.
        iterations: of the whole run.
        checkpoint_every, evaluate_every: in iterations; 0 evaluates only at the end.
        illustrate: makes pictures of an evaluation after so many iterations, for the sinks.
        log_every: iterations between those whose metrics the sinks get; the last one's, and those
            of an evaluation, always are.
        processes: the processes that share the tasks; only the first one writes anything.
        callbacks: called with every iteration and its metrics; their exceptions end training.
    """

    def __init__(
        self,
        learner: Learner[Result],
        settings: Mapping[str, Any],
        checkpoints: CheckpointFolder,
        iterations: int,
        checkpoint_every: int,
        evaluate_every: int = 0,
        illustrate: Callable[[int, Result], Media] = lambda iteration, scores: Media(),
        log_every: int = 1,
        processes: Processes = ALONE,
        callbacks: Sequence[Callable[[int, Mapping[str, float]], Any]] = (),
    ):
        self._learner = learner
        self._callbacks = callbacks
        self._settings = dict(settings)
        self._checkpoints = checkpoints
        self._iterations = iterations
        self._checkpoint_every = checkpoint_every
        self._evaluate_every = evaluate_every
        self._illustrate = illustrate
        self._log_every = log_every
        self._processes = processes
        self.start = 0
        self._rejections = 0  # in a row
        self.is_saved = True  # whether the newest checkpoint that was due is on disk

    def resume(self) -> None:
        """Continue from a checkpoint; from the start if the run was stopped before its first one.

        Raises:
            UserError: none is intact, or it is of other settings or beyond the run's iterations.
        """
        checkpoint = self._processes.by_leader(self._newest)
        if self._processes.size > 1:
            checkpoint = from_bytes(self._processes.leading_bytes(to_bytes(checkpoint or {})))
        if checkpoint:
            load_into(self._learner, checkpoint["state"], self._settings, checkpoint["path"])
            self.start = checkpoint["iteration"]

    def _newest(self) -> dict[str, Any]:
        """The checkpoint to go on from; empty if there is none."""
        if self._checkpoints.is_empty():
            return {}
        checkpoint, state = self._checkpoints.load()
        if checkpoint.iteration > self._iterations:
            raise UserError(
                f"the run has done {checkpoint.iteration} iterations, more than {self._iterations}"
            )
        return {"path": str(checkpoint.path), "iteration": checkpoint.iteration, "state": state}

    def run(self, open_sinks: Callable[[int], Sinks]) -> Result | None:
        """Train; returns the scores at the end, or None when a signal asked to stop before it.

        Args:
            open_sinks: opens the sinks for a session that begins at the given iteration.
        """
        scores: Result | None = None
        with StopRequest() as stop:
            sinks = open_sinks(self.start)
            try:
                for iteration in range(self.start, self._iterations):
                    scores, stopping = self._iterate(iteration, sinks, stop)
                    if stopping and iteration + 1 < self._iterations:
                        return None
                if scores is None:  # unless the last iteration's own evaluation is of the end
                    if self._iterations == 0:
                        self._save(0, -math.inf)
                    scores = self._learner.evaluate(self._iterations)
                    step = self._iterations - (self.start < self._iterations)
                    self._show(step, self._iterations, scores, sinks)
            finally:
                sinks.close()
        return scores

    def _iterate(
        self, iteration: int, sinks: Sinks, stop: StopRequest
    ) -> tuple[Result | None, bool]:
        """Run one iteration, and what is due after it.

        Returns:
            The scores, if it was evaluated, and whether all processes are to stop.
        """
        metrics = self._learner.iterate(iteration)
        self._rejections = 0 if metrics.get("outer/accepted", 1.0) else self._rejections + 1
        if self._rejections == MANY:
            warn(f"{MANY} outer steps in a row were rejected; theta stays what it is")
        scores, iterations, is_saved = None, iteration + 1, False
        if self._evaluate_every and iterations % self._evaluate_every == 0:
            scores = self._learner.evaluate(iterations)
            metrics |= scores.metrics()
        last = iterations == self._iterations
        if last or scores is not None or iterations % self._log_every == 0:
            sinks.log(iteration, metrics)
        score = self._learner.score(metrics)
        stopping = self._processes.any(stop.is_set)
        if last or stopping or iterations % self._checkpoint_every == 0:
            self._save(iterations, score)
            is_saved = True
        if scores is not None:
            self._show(iteration, iterations, scores, sinks)
            stopping = self._processes.any(stop.is_set)
        for callback in self._callbacks:
            callback(iteration, metrics)
        if stopping and not is_saved:  # asked for while pictures were drawn
            self._save(iterations, score)
        return scores, stopping

    def _show(self, iteration: int, iterations: int, scores: Result, sinks: Sinks) -> None:
        if self._processes.leads:
            sinks.show(iteration, lambda: self._illustrate(iterations, scores))

    def _save(self, iterations: int, score: float) -> None:
        if not self._processes.leads:
            return
        state = {"settings": self._settings, "learner": self._learner.state_dict()}
        try:
            self._checkpoints.save(iterations, state, score if math.isfinite(score) else -math.inf)
            self.is_saved = True
        except OSError as error:
            self.is_saved = False
            warn(f"checkpoint after iteration {iterations} not saved, training goes on: {error}")


def load_into(
    learner: Learner[Scores], state: dict[str, Any], settings: Mapping[str, Any], origin: str
) -> None:
    """Put a checkpoint's state into a learner.

    Raises:
        UserError: it was made with other settings.
    """
    try:
        state = upgraded_state(state)
        difference = first_difference(state.get("settings"), dict(settings), "settings")
        if difference:
            raise UserError(f"{origin} was made with other settings: {difference}")
        learner.load_state_dict(state["learner"])
    except UserError:
        raise
    except Exception as error:  # whatever a checkpoint that is not ours leads to
        raise UserError(f"{origin} does not fit this run: {brief(str(error))}") from error


def first_difference(value: Any, reference: Any, where: str = "") -> str:
    """Return the first difference of nested dictionaries: ``outer.max_kl is 0.01, not 0.02``."""
    if not isinstance(value, dict) or not isinstance(reference, dict):
        return "" if value == reference else f"{where} is {brief(value)}, not {brief(reference)}"
    differences = (
        first_difference(value.get(key), reference.get(key), f"{where}.{key}".lstrip("."))
        for key in {**reference, **value}
    )
    return next(filter(None, differences), "")


def brief(value: Any) -> str:
    """A value as text of bounded length, whatever a checkpoint may hold."""
    return value[:500] if isinstance(value, str) else reprlib.repr(value)
