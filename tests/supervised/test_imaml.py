"""iMAML (Rajeswaran et al. 2019) as a supervised learner; its maths is in core/test_implicit.py."""

from typing import Any

import pytest
import torch

from metarl.core.params import flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.experiment.build import make_supervised_learner
from metarl.experiment.schema import SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig
from metarl.supervised.objective import RESIDUAL, Task


def inner(**settings: Any) -> SupervisedInnerConfig:
    return SupervisedInnerConfig(**({"algorithm": "imaml", "rate": 0.05, "steps": 3} | settings))


def toy(inner: SupervisedInnerConfig, **settings: Any) -> SupervisedLearner:
    defaults: dict[str, Any] = {
        "model": ModelConfig(hidden_sizes=[6], activation="tanh"),
        "tasks": 4,
        "shots": 5,
        "queries": 3,
        "threads": 1,
        "compile": False,
        "evaluation": SupervisedEvaluationConfig(tasks=6, inner_steps=5),
    }
    return make_supervised_learner(SupervisedExperiment(inner=inner, **(defaults | settings)))


def test_a_strong_pull_has_the_meta_gradient_of_first_order():
    """H / lam is 0 then, and phi is theta."""
    gradients = []
    for config in (inner(proximal=1e9, rate=1e-9), inner(algorithm="fomaml", rate=1e-12)):
        learner = toy(config)
        meta = {"meta": flatten(learner.state_dict()["meta"]).double()}
        task = Task(tree_map(lambda x: x.double(), learner.episodes(0)))
        gradients.append(TaskMap(4).mean_and_grad(learner.task.values, meta, task)[1]["meta"])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


def test_training_and_evaluation_take_the_same_inner_steps():
    learner = toy(inner(steps=5, proximal=0.5))
    task = tree_map(lambda x: x[0], learner.episodes(0))
    meta = {"meta": learner.theta}
    judged = learner.task.judge(learner.theta, task, [0.05] * 5)
    phi = learner.task.inner.adapt(unflatten(learner.theta, learner.task.like), [task.support] * 5)
    outputs = learner.task.predictor.model(phi, task.query.inputs)
    torch.testing.assert_close(judged.outputs[-1], outputs)
    assert learner.task.values(meta, Task(task)).shape == (RESIDUAL + 1,)


def test_the_residual_is_logged_and_falls_with_the_number_of_inner_steps():
    few, many = (toy(inner(steps=steps)).iterate(0)["inner/residual"] for steps in (1, 30))
    assert 1 > few > many > 0
    assert "inner/residual" not in toy(inner(algorithm="maml")).iterate(0)


@pytest.mark.needs_compiler
def test_compiling_changes_nothing_but_rounding():
    config = inner(steps=2, cg_iterations=1)
    plain, compiled = (toy(config, compile=wanted) for wanted in (False, True))
    for iteration in range(3):
        expected, found = plain.iterate(iteration), compiled.iterate(iteration)
        for name in ("loss/after", "outer/gradient_norm", "inner/residual"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)


def test_what_needs_more_than_one_derivative_is_refused():
    with pytest.raises(UserError, match="imaml has a first derivative only: use"):
        toy(inner(), outer={"name": "trpo"})
    with pytest.raises(ValueError, match="does not differentiate through its inner steps"):
        inner(multi_step_iterations=3)
    with pytest.raises(ValueError, match="should be at least 1 for imaml"):
        inner(steps=0)
