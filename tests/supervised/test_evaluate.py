"""Evaluation of supervised models: what is scored, on which tasks, and what is said of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from metarl.experiment.build import make_source, make_supervised_learner
from metarl.experiment.schema import SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.runtime.scores import from_npz, to_npz
from metarl.runtime.seeding import Purpose
from metarl.supervised.evaluate import (
    HeldOutTest,
    RecordedExamples,
    SupervisedEvaluationConfig,
    mark_diverged,
    parse_test,
)
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig, make_model
from metarl.supervised.task_data import TaskRequest

GLYPHS = {"source": "glyphs", "ways": 3}


def toy(evaluation: SupervisedEvaluationConfig, **settings: Any) -> SupervisedLearner:
    defaults: dict[str, Any] = {
        "model": ModelConfig(hidden_sizes=[6]),
        "inner": SupervisedInnerConfig(rate=0.05),
        "shots": 5,
        "queries": 3,
        "compile": False,
    }
    experiment = SupervisedExperiment(evaluation=evaluation, **(defaults | settings))
    return make_supervised_learner(experiment)


def test_scores_are_those_of_gradient_steps_with_an_optimiser():
    """Adapted with torch.optim.SGD on a module, task by task."""
    rates = [0.05, 0.05, 0.01]
    config = SupervisedEvaluationConfig(
        tasks=60, inner_steps=3, inner_rates=rates, tests=["4-shot", "2-shot half-range"], queries=7
    )
    learner = toy(config)
    main = learner.evaluate(0)
    assert [main.test, *(e.test for e in main.others)] == ["4-shot", "2-shot half-range"]
    source = make_source({"source": "sinusoid"}, None)
    for found, shots, variant in ((main, 4, ""), (main.others[0], 2, "half-range")):
        what = TaskRequest(0, Purpose.EVALUATION_TASKS, 0, 60, shots, 7, variant)
        tasks, (support, query) = source.draw(what)
        np.testing.assert_array_equal(found.tasks, tasks)
        assert found.scores.shape == (4, 60)
        assert found.inner_rates == rates
        for m in (0, 31, 59):
            model = make_model(ModelConfig(hidden_sizes=[6]), (1,), 1, 0)
            model.load_state_dict(learner.state_dict()["meta"])
            for k in range(4):
                error = F.mse_loss(model(query.inputs[m]), query.targets[m])
                assert found.scores[k, m] == pytest.approx(float(error.detach()), rel=1e-4)
                if k == 3:
                    break
                optimiser = torch.optim.SGD(model.parameters(), lr=rates[k])
                optimiser.zero_grad()
                F.mse_loss(model(support.inputs[m]), support.targets[m]).backward()
                optimiser.step()


def test_accuracy_is_of_every_query_beside_the_support_data_or_of_all_at_once():
    config = SupervisedEvaluationConfig(tasks=8, inner_steps=0)
    model = ModelConfig(name="conv", filters=4)
    learner = toy(config, data=GLYPHS, model=model, shots=2, queries=2)
    module = make_model(model, (1, 28, 28), 3, 0)
    main = learner.evaluate(0)
    what = TaskRequest(0, Purpose.EVALUATION_TASKS, 0, 8, 2, 2)
    _, (support, query) = make_source(GLYPHS, None).draw(what)
    params = learner.state_dict()["meta"]
    for m in range(8):
        together = functional_call(module, params, query.inputs[m])
        apart = torch.stack(
            [
                functional_call(module, params, torch.cat([support.inputs[m], x[None]]))[-1]
                for x in query.inputs[m]
            ]
        )
        for found, logits in ((main, apart), (main.others[0], together)):
            hits = (logits.argmax(1) == query.targets[m]).double().mean()
            assert found.scores[0, m] == pytest.approx(float(hits))
        if m < 3:
            torch.testing.assert_close(torch.tensor(main.episodes.outputs[0, m]), apart)


def test_a_model_without_batch_norm_has_one_score():
    learner = toy(
        SupervisedEvaluationConfig(tasks=5, inner_steps=1), data=GLYPHS, shots=1, queries=2
    )
    assert learner.evaluate(0).others == []


def test_the_same_tasks_come_at_every_evaluation_of_every_run():
    config = SupervisedEvaluationConfig(tasks=5, inner_steps=1)
    learner = toy(config)
    first, again = learner.evaluate(0), learner.evaluate(9)
    np.testing.assert_array_equal(first.scores, again.scores)
    other = toy(config, seed=3, inner=SupervisedInnerConfig(algorithm="anil")).evaluate(0)
    np.testing.assert_array_equal(first.tasks, other.tasks)
    assert (first.scores != other.scores).all()


def test_recorded_examples_survive_their_file():
    config = SupervisedEvaluationConfig(tasks=5, inner_steps=2, queries=4)
    examples = toy(config).evaluate(0).episodes
    assert isinstance(examples, RecordedExamples)
    assert examples.outputs.shape == (3, 3, 4, 1)
    kept = from_npz(to_npz(examples), [RecordedExamples])
    for a, b in zip(kept, examples, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_candidate_rate_on_validation_tasks_is_taken():
    candidates = [1e-6, 0.05, 1e6]
    config = SupervisedEvaluationConfig(tasks=40, inner_steps=2, candidate_rates=candidates)
    found = toy(config).evaluate(0)
    assert found.inner_rates == [0.05, 0.05]
    assert max(found.validation, key=found.validation.__getitem__) == 0.05
    assert found.validation[0.05] < 0, "an error, the higher the better"
    given = SupervisedEvaluationConfig(tasks=40, inner_steps=2, inner_rates=[0.05, 0.05])
    np.testing.assert_array_equal(toy(given).evaluate(0).scores, found.scores)


def test_tasks_that_diverged_are_counted_and_left_out():
    scores = np.array([[1.0, 4.0, 2.0], [0.5, 399.0, np.nan], [0.2, 401.0, 1e32]])
    marked, diverged = mark_diverged(scores, higher_is_better=False)
    assert diverged.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(marked[1], [0.5, 399.0, np.nan])
    np.testing.assert_array_equal(marked[2], [0.2, np.nan, np.nan])
    marked, diverged = mark_diverged(np.array([[0.0, 0.2], [1.0, np.nan]]), higher_is_better=True)
    assert diverged.tolist() == [0, 1]
    marked, diverged = mark_diverged(np.array([[1.0, np.nan], [1e20, 1.0]]), higher_is_better=False)
    assert diverged.tolist() == [1, 1], "a limit that is one, whatever else is no number"
    wild = SupervisedEvaluationConfig(tasks=20, inner_steps=4, inner_rates=[1.0] * 4)
    rows = toy(wild).evaluate(0).rows()
    assert rows[0].diverged == 0
    assert rows[4].diverged > 0
    assert not rows[4].mean > 1e4


def test_few_shot_tasks_of_which_a_model_breaks_have_diverged():
    config = SupervisedEvaluationConfig(tasks=6, inner_steps=2, inner_rates=[1e30, 1e30])
    rows = toy(config, data=GLYPHS, shots=1, queries=2).evaluate(0).rows()
    assert rows[0].diverged == 0
    assert rows[2].diverged > 0


@pytest.mark.parametrize("tests", [[], ["5-shot", "5-shot"]])
def test_there_is_a_test_and_each_once(tests: list[str]):
    with pytest.raises(ValueError, match="at least one test, and each once"):
        SupervisedEvaluationConfig(tests=tests)


def test_labels_that_leak_are_told(capsys):
    learner = toy(
        SupervisedEvaluationConfig(tasks=50, inner_steps=0), data=GLYPHS, shots=1, queries=2
    )
    learner.evaluate(0)
    assert capsys.readouterr().err == ""
    leaking = replace(
        learner.task.predictor, model=lambda params, x: F.one_hot(_label_of(x), 3).float()
    )
    learner.task = replace(learner.task, predictor=leaking)
    learner.evaluate(0)
    err = capsys.readouterr().err
    assert "accuracy before adaptation is 1.000, and 0.333 is all that a guess gives" in err


def _label_of(x: torch.Tensor) -> torch.Tensor:
    """As if the inputs told it: queries are in the order of their classes."""
    return torch.arange(len(x)) // (len(x) // 3)


@pytest.mark.parametrize(
    ("name", "variants", "test"),
    [
        ("5-shot", (), HeldOutTest(5, "")),
        ("20-shot half-range", ("half-range",), HeldOutTest(20, "half-range")),
    ],
)
def test_names_of_tests(name: str, variants: tuple[str, ...], test: HeldOutTest):
    assert parse_test(name, variants) == test
    assert test.name == name


@pytest.mark.parametrize("name", ["0-shot", "shot", "5", "5-shot quarter-range", "-1-shot"])
def test_other_names_are_refused(name: str):
    with pytest.raises(UserError, match="should have K-shot or K-shot half-range, as 5-shot, got"):
        toy(SupervisedEvaluationConfig(tests=[name]))
