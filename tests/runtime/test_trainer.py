"""The shared loop, with a learner that only counts."""

import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from metarl.runtime.checkpoint import CheckpointFolder
from metarl.runtime.errors import UserError
from metarl.runtime.sinks import JsonlSink, Media, Sinks, Table, read_metrics
from metarl.runtime.trainer import StopRequest, Trainer, first_difference

SETTINGS = {"seed": 0, "outer": {"max_kl": 0.01}, "rates": [0.1], "name": None}


class CountingScores:
    def __init__(self, iteration: int):
        self.iteration = iteration

    def metrics(self) -> dict[str, float]:
        return {"evaluation/return_0": 100.0 + self.iteration}


class CountingLearner:
    """Its one parameter is the sum of the iterations done; ``at`` is called at every iteration."""

    def __init__(self, at: Callable[[int], float] = float):
        self.total = torch.zeros(())
        self.iterations: list[int] = []
        self.evaluations: list[int] = []
        self._at = at

    def iterate(self, iteration: int) -> dict[str, float]:
        self.iterations.append(iteration)
        self.total = self.total + iteration
        return {"score": self._at(iteration), "total": float(self.total)}

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["score"]

    def evaluate(self, iteration: int) -> CountingScores:
        self.evaluations.append(iteration)
        return CountingScores(iteration)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["total"].shape != self.total.shape:
            raise ValueError("wrong shape")
        self.total = state["total"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Trainer]:
    def trainer(learner: CountingLearner, iterations: int = 10, every: int = 4, **other) -> Trainer:
        other = {"settings": SETTINGS, "checkpoints": CheckpointFolder(tmp_path / "c", 9), **other}
        return Trainer(learner, iterations=iterations, checkpoint_every=every, **other)

    return trainer


@pytest.fixture
def sinks(tmp_path: Path) -> Callable[[int], Sinks]:
    return lambda start: Sinks({"jsonl": lambda: JsonlSink(tmp_path / "metrics.jsonl", start)})


def saved(tmp_path: Path) -> list[int]:
    return sorted(checkpoint.iteration for checkpoint in CheckpointFolder(tmp_path / "c").all())


def test_every_iteration_is_done_once_and_logged(tmp_path: Path, make, sinks):
    learner = CountingLearner()
    assert make(learner).run(sinks)
    assert learner.iterations == list(range(10))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["iteration"], row["total"]) for row in rows] == [
        (i, sum(range(i + 1))) for i in range(10)
    ]
    assert saved(tmp_path) == [4, 8, 10]


def test_evaluations_come_after_every_so_many_iterations(tmp_path: Path, make, sinks):
    assert make(CountingLearner(), evaluate_every=3).run(sinks)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    found = {row["iteration"]: row.get("evaluation/return_0") for row in rows}
    assert found == {i: 101.0 + i if i in (2, 5, 8) else None for i in range(10)}


def test_ten_rejected_steps_in_a_row_are_said_once(make, sinks, capsys):
    class Stuck(CountingLearner):
        def iterate(self, iteration: int) -> dict[str, float]:
            moves = float(iteration in (0, 9))  # eight are rejected, and then twelve
            return super().iterate(iteration) | {"outer/accepted": moves}

    make(Stuck(), iterations=22).run(sinks)
    assert capsys.readouterr().err.count("10 outer steps in a row were rejected") == 1


def test_the_end_is_evaluated_once_whatever_is_left_to_do(make, sinks):
    for iterations in (4, 4):  # the second time there is nothing left
        learner = CountingLearner()
        trainer = make(learner, iterations=iterations, evaluate_every=2)
        trainer.resume()
        assert trainer.run(sinks).iteration == 4
        assert learner.evaluations == ([2, 4] if trainer.start == 0 else [4])


def test_no_iterations_keep_and_evaluate_the_untrained_learner(tmp_path: Path, make, sinks):
    learner = CountingLearner()
    assert make(learner, iterations=0).run(sinks).iteration == 0
    assert learner.iterations == []
    assert saved(tmp_path) == [0]
    trainer = make(CountingLearner(), iterations=3)
    trainer.resume()
    assert (trainer.start, trainer.run(sinks).iteration) == (0, 3)


def test_evaluations_are_illustrated_for_the_sinks(make):
    shown = []

    class Showing:
        def log(self, iteration: int, metrics: object) -> None: ...
        def show(self, iteration: int, media: Media) -> None:
            shown.append((iteration, media.tables))

        def close(self) -> None: ...

    def illustrate(done: int, scores: CountingScores) -> Media:
        assert scores.iteration == done
        return Media(tables={"done": Table(["x"], [[done]])})

    trainer = make(CountingLearner(), iterations=5, evaluate_every=2, illustrate=illustrate)
    trainer.run(lambda start: Sinks({"showing": Showing}))
    assert [(i, tables["done"].rows) for i, tables in shown] == [
        (1, [[2]]),
        (3, [[4]]),
        (4, [[5]]),
    ]


def test_training_goes_on_when_pictures_cannot_be_drawn(make, sinks, capsys):
    def illustrate(done: int, scores: object) -> Media:
        drawn.append(done)
        raise OSError("the disk is full")

    drawn: list[int] = []
    learner = CountingLearner()
    assert make(learner, evaluate_every=2, illustrate=illustrate).run(sinks)
    assert learner.iterations == list(range(10))
    assert drawn == [2, 4, 6, 8, 10]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["metarl: warning: drawing pictures failed: the disk is full"] * 5


def test_a_resumed_run_does_the_rest(tmp_path: Path, make, sinks):
    make(CountingLearner(), iterations=6).run(sinks)
    learner = CountingLearner()
    trainer = make(learner, iterations=9)
    trainer.resume()
    assert trainer.start == 6
    trainer.run(sinks)
    assert learner.iterations == [6, 7, 8]
    assert float(learner.total) == sum(range(9))
    assert [r["iteration"] for r in read_metrics(tmp_path / "metrics.jsonl")] == list(range(9))


def test_a_run_that_never_saved_is_resumed_from_its_start(make):
    trainer = make(CountingLearner())
    trainer.resume()
    assert trainer.start == 0


def test_a_run_is_not_resumed_to_fewer_iterations_than_it_has_done(make, sinks):
    make(CountingLearner(), iterations=6).run(sinks)
    with pytest.raises(UserError, match="the run has done 6 iterations, more than 5"):
        make(CountingLearner(), iterations=5).resume()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**SETTINGS, "seed": 1}, "settings.seed is 0, not 1"),
        ({**SETTINGS, "outer": {"max_kl": 0.02}}, r"settings.outer.max_kl is 0.01, not 0.02"),
        ({**SETTINGS, "more": 3}, "settings.more is None, not 3"),
        ({"seed": 0}, r"settings.outer is \{'max_kl': 0.01\}, not None"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(make, sinks, settings: dict, said: str):
    make(CountingLearner(), iterations=6).run(sinks)
    learner = CountingLearner()
    with pytest.raises(UserError, match=f"000006.pt was made with other settings: {said}"):
        make(learner, settings=settings).resume()
    assert float(learner.total) == 0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"learner": None},
        {"learner": {}},
        {"learner": {"total": 3}},
        {"learner": {"total": torch.zeros(2)}},
    ],
)
def test_a_state_that_does_not_fit_the_learner_is_refused(tmp_path: Path, make, state: dict):
    CheckpointFolder(tmp_path / "c").save(3, {"settings": SETTINGS, **state}, score=0.0)
    with pytest.raises(UserError, match=r"000003\.pt does not fit this run"):
        make(CountingLearner()).resume()


def test_first_difference_names_the_innermost_key():
    assert first_difference({"a": {"b": [1], "c": None}}, {"a": {"b": [1], "c": None}}) == ""
    assert first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c is 2, not 3"
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == "b is 2, not None"
    assert first_difference(None, {"a": 1}, "settings") == "settings is None, not {'a': 1}"


def test_a_score_that_is_no_number_counts_as_the_worst(tmp_path: Path, make, sinks):
    scores = [1.0, math.nan, 0.5, math.inf]
    make(CountingLearner(scores.__getitem__), iterations=4, every=1).run(sinks)
    checkpoints = CheckpointFolder(tmp_path / "c")
    assert [c.score for c in checkpoints.all()] == [-math.inf, 0.5, -math.inf, 1.0]
    assert checkpoints.load("best")[0].iteration == 1


def test_training_goes_on_when_a_checkpoint_cannot_be_saved(tmp_path: Path, make, sinks, capsys):
    (tmp_path / "c").write_text("a file in the folder's place")
    learner = CountingLearner()
    assert make(learner).run(sinks)
    assert learner.iterations == list(range(10))
    warnings = capsys.readouterr().err.splitlines()
    assert [w.partition(" not saved")[0] for w in warnings] == [
        f"metarl: warning: checkpoint after iteration {i}" for i in (4, 8, 10)
    ]


# --- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_iteration_and_saves(tmp_path: Path, make, sinks, number, capfd):
    def at(iteration: int) -> float:
        if iteration == 5:
            os.kill(os.getpid(), number)
        return 0.0

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    learner = CountingLearner(at)
    assert not make(learner).run(sinks)
    assert learner.iterations == list(range(6))
    assert saved(tmp_path) == [4, 6]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 6
    assert capfd.readouterr().err == "metarl: stopping after this iteration; again to stop now\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_while_pictures_are_drawn_stops_and_saves(tmp_path: Path, make, sinks, capfd):
    def illustrate(done: int, scores: object) -> Media:
        os.kill(os.getpid(), signal.SIGTERM)
        return Media()

    learner = CountingLearner()
    assert make(learner, evaluate_every=2, illustrate=illustrate).run(sinks) is None
    assert learner.iterations == [0, 1]
    assert saved(tmp_path) == [2]


def test_what_was_done_is_saved_before_it_is_evaluated_at_the_end(tmp_path: Path, make, sinks):
    class Failing(CountingLearner):
        def evaluate(self, iteration: int) -> CountingScores:
            raise MemoryError

    with pytest.raises(MemoryError):
        make(Failing(), iterations=3, every=10).run(sinks)
    assert saved(tmp_path) == [3]


def test_a_signal_in_the_last_iteration_lets_the_run_be_finished(make, sinks, capfd):
    def at(iteration: int) -> float:
        if iteration == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    assert make(CountingLearner(at)).run(sinks)


def test_sinks_are_closed_and_handlers_restored_when_the_learner_fails(make):
    closed = []

    class Closing:
        def log(self, iteration: int, metrics: object) -> None: ...
        def show(self, iteration: int, media: object) -> None: ...
        def close(self) -> None:
            closed.append(True)

    def fail(iteration: int) -> float:
        raise RuntimeError("learner")

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="learner"):
        make(CountingLearner(fail)).run(lambda start: Sinks({"closing": Closing}))
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_stop_request_is_made_by_a_signal_only(capfd):
    with StopRequest() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
