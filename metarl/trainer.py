"""The shared loop: iterate, evaluate, log, checkpoint, stop, resume."""

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

from metarl.checkpoint import CheckpointFolder
from metarl.errors import UserError, warn
from metarl.metrics import Sinks


class Scores(Protocol):
    """Result of an evaluation."""

    def metrics(self) -> dict[str, float]: ...


class Learner(Protocol):
    """What the trainer knows of a learner.

    ``score`` names the metric of ``iterate`` that says how good the learner is, higher is better.
    """

    score: str

    def iterate(self, iteration: int) -> dict[str, float]: ...
    def evaluate(self, iteration: int) -> Scores: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StopRequest:
    """SIGINT and SIGTERM ask to stop after the current iteration; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        # Not print(): a signal may arrive in the middle of one, and it does not reenter.
        os.write(sys.stderr.fileno(), b"metarl: stopping after this iteration; again to stop now\n")


class Trainer:
    """Runs a learner from iteration ``start`` to ``iterations``.

    Args:
        learner: what to train.
        settings: of the run, kept in every checkpoint and compared on resume.
        checkpoints: where state is kept.
        iterations: of the whole run.
        checkpoint_every, evaluate_every: in iterations; 0 evaluates never.
    """

    def __init__(
        self,
        learner: Learner,
        settings: Mapping[str, Any],
        checkpoints: CheckpointFolder,
        iterations: int,
        checkpoint_every: int,
        evaluate_every: int = 0,
    ):
        self._learner = learner
        self._settings = dict(settings)
        self._checkpoints = checkpoints
        self._iterations = iterations
        self._checkpoint_every = checkpoint_every
        self._evaluate_every = evaluate_every
        self.start = 0

    def resume(self, which: str = "last") -> None:
        """Continue from a checkpoint.

        Raises:
            UserError: there is none that is intact and of these settings.
        """
        checkpoint, state = self._checkpoints.load(which)
        load_into(self._learner, state, self._settings, str(checkpoint.path))
        self.start = checkpoint.iteration

    def run(self, open_sinks: Callable[[int], Sinks]) -> bool:
        """Train; returns whether all iterations were done (else a signal asked to stop).

        Args:
            open_sinks: opens the sinks for a session that begins at the given iteration.
        """
        sinks = open_sinks(self.start)
        try:
            with StopRequest() as stop:
                for iteration in range(self.start, self._iterations):
                    metrics = self._learner.iterate(iteration)
                    done = iteration + 1
                    if self._evaluate_every and done % self._evaluate_every == 0:
                        metrics |= self._learner.evaluate(done).metrics()
                    sinks.log(iteration, metrics)
                    last = done == self._iterations or stop.requested
                    if last or done % self._checkpoint_every == 0:
                        self._save(done, metrics[self._learner.score])
                    if stop.requested:
                        return done == self._iterations
        finally:
            sinks.close()
        return True

    def _save(self, done: int, score: float) -> None:
        state = {"settings": self._settings, "learner": self._learner.state_dict()}
        try:
            self._checkpoints.save(done, state, score if math.isfinite(score) else -math.inf)
        except OSError as error:
            warn(f"checkpoint after iteration {done} not saved, training goes on: {error}")


def load_into(
    learner: Learner, state: dict[str, Any], settings: Mapping[str, Any], origin: str
) -> None:
    """Put a checkpoint's state into a learner.

    Raises:
        UserError: it was made with other settings.
    """
    saved = state.get("settings")
    for key, value in settings.items():
        if not isinstance(saved, dict) or saved.get(key) != value:
            found = saved.get(key) if isinstance(saved, dict) else None
            raise UserError(f"{origin} was made with {key}={found}, this run has {key}={value}")
    try:
        learner.load_state_dict(state["learner"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{origin} does not fit this run: {error}") from error
