"""Regression families of a user's own: what is drawn of them, and what is refused."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from metarl.commands.main import train
from metarl.experiment.build import make_supervised_learner
from metarl.experiment.registries import SOURCES
from metarl.experiment.schema import SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose
from metarl.supervised import RegressionFamily
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.regression import BLOCK, block_size
from metarl.supervised.task_data import TaskRequest

TRAIN = TaskRequest(seed=0, purpose=Purpose.TRAIN_TASKS, iteration=3, tasks=40, shots=5, queries=7)


@dataclass(frozen=True, kw_only=True)
class Planes(RegressionFamily):
    """Two linear functions of three inputs."""

    steepest: float = 2.0
    corners: list[float] | None = None
    task_fields = tuple("abcdef")
    input_shape = (3,)
    outputs = 2

    def sample_tasks(self, rng, n):
        return rng.uniform(-self.steepest, self.steepest, (n, 6))

    def targets(self, tasks, inputs):
        return inputs @ tasks.reshape(-1, 3, 2)


@pytest.mark.parametrize("purpose", [Purpose.TRAIN_TASKS, Purpose.EVALUATION_TASKS])
def test_targets_are_those_of_the_task(purpose: Purpose):
    iteration = 3 if purpose == Purpose.TRAIN_TASKS else 0
    family = Planes(x_range=(0.0, 1.0), corners=[1.0])  # with a field that cannot be hashed
    tasks, episodes = family.draw(TRAIN._replace(purpose=purpose, iteration=iteration))
    assert (tasks.shape, tasks.dtype) == ((40, 6), np.float32)
    for batch, examples in zip(episodes, (5, 7), strict=True):
        assert batch.inputs.shape == (40, examples, 3)
        assert batch.inputs.dtype == batch.targets.dtype == torch.float32
        assert 0 <= batch.inputs.min() < 0.1 < 0.9 < batch.inputs.max() < 1
        for m in (0, 39):
            slopes = torch.from_numpy(tasks[m]).reshape(3, 2)
            torch.testing.assert_close(batch.targets[m], batch.inputs[m] @ slopes)


def test_equal_requests_give_equal_data_and_iterations_differ_across_blocks():
    size = block_size((3,), Purpose.TRAIN_TASKS)
    assert 1 < size < BLOCK
    iterations = (0, 1, size - 1, size, 2 * size)
    drawn = [Planes().draw(TRAIN._replace(iteration=i)) for i in iterations]
    again = [Planes().draw(TRAIN._replace(iteration=i)) for i in iterations[::-1]]
    for one, other in zip(drawn, again[::-1], strict=True):
        np.testing.assert_array_equal(one.tasks, other.tasks)
        assert torch.equal(one.episodes.query.targets, other.episodes.query.targets)
    assert len({float(batch.tasks[0, 0]) for batch in drawn}) == len(iterations)
    part = Planes().draw(TRAIN._replace(share=range(10, 15)))
    whole = Planes().draw(TRAIN)
    np.testing.assert_array_equal(part.tasks, whole.tasks[10:15])
    assert torch.equal(part.episodes.support.inputs, whole.episodes.support.inputs[10:15])


def test_noise_is_on_the_support_targets_only():
    (_, quiet), (_, noisy) = (Planes(noise=noise).draw(TRAIN) for noise in (0.0, 0.3))
    assert torch.equal(quiet.query.targets, noisy.query.targets)
    difference = noisy.support.targets - quiet.support.targets
    assert float(difference.std()) == pytest.approx(0.3, rel=0.15)


def test_a_model_of_two_outputs_learns_two_functions(monkeypatch: pytest.MonkeyPatch):
    """Adaptation lowers the error of both; the loss is their mean."""
    monkeypatch.setitem(SOURCES, "planes", Planes)
    experiment = SupervisedExperiment(
        data={"source": "planes", "x_range": [-1.0, 1.0]},
        shots=10,
        compile=False,
        threads=1,
        evaluation=SupervisedEvaluationConfig(tasks=20, inner_steps=3, inner_rates=[0.1] * 3),
    )
    learner = make_supervised_learner(experiment)
    metrics = learner.iterate(0)
    assert metrics["MSE/after"] > 0
    found = learner.evaluate(0)
    assert found.episodes.outputs.shape == (4, 3, 10, 2)
    error = (found.episodes.outputs[:, 0] - found.episodes.query_targets[0]) ** 2
    np.testing.assert_allclose(error.mean((1, 2)), found.scores[:, 0], rtol=1e-5)
    assert found.scores[3].mean() < found.scores[0].mean()


@dataclass(frozen=True)
class Narrow(Planes):
    def sample_tasks(self, rng, n):
        return rng.uniform(size=(n, 5))


@dataclass(frozen=True)
class Flat(Planes):
    def targets(self, tasks, inputs):
        return super().targets(tasks, inputs)[..., 0]


@dataclass(frozen=True)
class Infinite(Planes):
    def targets(self, tasks, inputs):
        return super().targets(tasks, inputs) / 0.0


@dataclass(frozen=True)
class Single(Planes):
    def sample_inputs(self, rng, n, examples, variant=""):
        return np.zeros((n, examples))


@dataclass(frozen=True)
class Complex(Planes):
    def targets(self, tasks, inputs):
        return super().targets(tasks, inputs) + 1j


@dataclass(frozen=True)
class Ragged(Planes):
    def targets(self, tasks, inputs):
        return [[0.0], [0.0, 1.0]]


@dataclass(frozen=True)
class Failing(Planes):
    def targets(self, tasks, inputs):
        raise KeyError("slope")


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("family", "said"),
    [
        (Narrow, "Narrow.sample_tasks should return [n, task_dim], here [1320, 6], got [1320, 5]"),
        (Flat, "targets should return [n, examples, outputs], here [1320, 5, 2], got [1320, 5]"),
        (Infinite, "Infinite.targets gave numbers that are not finite"),
        (Single, "Single.sample_inputs should return [n, examples, *input_shape], here [1320, 5, "),
        (Complex, "Complex.targets should return real numbers, got complex"),
        (
            Ragged,
            "Ragged.targets should return [n, examples, outputs], here [1320, 5, 2], got a list",
        ),
        (Failing, "Failing: KeyError: 'slope'"),
    ],
)
def test_what_a_family_does_wrong_is_said_before_training(family, said: str):
    with pytest.raises(UserError) as error:
        family().require(TRAIN)
    assert said in str(error.value)


MINE = """
from dataclasses import dataclass

from metarl.supervised import RegressionFamily


@dataclass(frozen=True)
class Nameless(RegressionFamily):
    def sample_tasks(self, rng, n): ...
    def targets(self, tasks, inputs): ...


@dataclass(frozen=True)
class Aimless(RegressionFamily):
    task_fields = ("slope",)
    def sample_tasks(self, rng, n): ...


@dataclass(frozen=True)
class Void(Aimless):
    def targets(self, tasks, inputs): ...
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nameless", "it should define task_fields, got Nameless"),
        ("Aimless", "it should define targets, got Aimless"),
        ("Void", "Void.sample_tasks should return [n, task_dim], here [600, 1], got []"),
        ("Void --data.x_range [1,0]", "data.x_range should be [low, high], got [1.0, 0.0]"),
        ("Void --data.ways 5", "data.ways is not a setting"),
    ],
)
def test_a_family_that_will_not_do_is_refused(refused, workplace, monkeypatch, name: str, said):
    (workplace / "mine_regression.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mine_regression", raising=False)
    words = ["--data.source", *f"mine_regression:{name}".split()]
    assert said in refused(train, *words, "--name", "run", "--logging.wandb", "disabled")
