"""The supervised meta-update: against numpy written by hand, finite differences, and itself."""

import dataclasses
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.core.algorithms import ALGORITHMS
from metarl.core.compile import Traced
from metarl.core.gradcheck import check_gradient
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.experiment.build import make_supervised_learner
from metarl.experiment.schema import SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig
from metarl.supervised.objective import Task
from metarl.supervised.task_data import Examples, TaskData

GLYPHS = {"source": "glyphs", "ways": 3}
CONV = ModelConfig(name="conv", filters=4)


def toy(**settings: Any) -> SupervisedLearner:
    defaults: dict[str, Any] = {
        "model": ModelConfig(hidden_sizes=[6], activation="tanh"),
        "tasks": 4,
        "shots": 5,
        "queries": 3,
        "threads": 1,
        "compile": False,
        "evaluation": SupervisedEvaluationConfig(tasks=6, inner_steps=2),
    }
    return make_supervised_learner(SupervisedExperiment(**(defaults | settings)))


def inner(algorithm: str, **settings: Any) -> SupervisedInnerConfig:
    return SupervisedInnerConfig(algorithm=algorithm, **({"rate": 0.05} | settings))  # type: ignore[arg-type]


def in_double(learner: SupervisedLearner) -> tuple[Params, TaskData]:
    """Meta-parameters (moved off the symmetric start) and training data, in float64."""
    torch.manual_seed(0)
    meta = learner.state_dict()["meta"]
    flat = torch.cat([p.reshape(-1) for p in meta.values()]).double()
    flat = flat + 0.1 * torch.rand_like(flat)
    double = tree_map(lambda x: x.double() if x.is_floating_point() else x, learner.episodes(0))
    return {"meta": flat}, double


def mean_gradient(learner: SupervisedLearner) -> tuple[Params, Tensor, TaskData]:
    """Meta-parameters by name, the meta-gradient over all tasks, and the data."""
    meta, episodes = in_double(learner)
    _, gradient = TaskMap(2).mean_and_grad(learner.task.values, meta, Task(episodes))
    return unflatten(meta["meta"], learner.task.like), gradient["meta"], episodes


class ByHand:
    """One hidden layer of tanh units, squared error, written out in numpy."""

    def __init__(self, params: Params):
        order = ("body.0.weight", "body.0.bias", "head.weight", "head.bias")
        self.p = [params[name].numpy() for name in order]

    def gradient(self, p: list[np.ndarray], batch: Examples) -> list[np.ndarray]:
        """dL/dp, backpropagated by hand."""
        x, y = (t.numpy() for t in batch)
        w1, b1, w2, b2 = p
        h = np.tanh(x @ w1.T + b1)
        e = 2 * (h @ w2.T + b2 - y) / len(x)
        dz = (e @ w2) * (1 - h**2)
        return [dz.T @ x, dz.sum(0), e.T @ h, e.sum(0)]

    def hessian_product(
        self, p: list[np.ndarray], v: list[np.ndarray], batch: Examples
    ) -> list[np.ndarray]:
        """d(dL/dp) along v: every line of ``gradient`` differentiated (Pearlmutter 1994)."""
        x, y = (t.numpy() for t in batch)
        w1, b1, w2, b2 = p
        v1, c1, v2, c2 = v
        h = np.tanh(x @ w1.T + b1)
        rh = (1 - h**2) * (x @ v1.T + c1)
        e = 2 * (h @ w2.T + b2 - y) / len(x)
        re = 2 * (rh @ w2.T + h @ v2.T + c2) / len(x)
        dh, rdh = e @ w2, re @ w2 + e @ v2
        rdz = rdh * (1 - h**2) - dh * 2 * h * rh
        return [rdz.T @ x, rdz.sum(0), re.T @ h + e.T @ rh, re.sum(0)]


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile", "anil", "boil", "meta-sgd"])
def test_the_meta_gradient_is_that_of_numpy_by_hand(algorithm: str):
    alpha = 0.05
    learner = toy(inner=inner(algorithm, rate=alpha))
    params, gradient, (support, query) = mean_gradient(learner)
    hand = ByHand(params)
    rates = [np.full_like(p, alpha) for p in hand.p]
    if algorithm == "meta-sgd":
        names = ("body.0.weight", "body.0.bias", "head.weight", "head.bias")
        rates = [params[f"rate:{name}"].numpy() for name in names]
    if algorithm == "anil":
        rates[:2] = [np.zeros_like(p) for p in rates[:2]]
    if algorithm == "boil":
        rates[2:] = [np.zeros_like(p) for p in rates[2:]]
    total: list[list[np.ndarray]] = []
    for m in range(4):
        s, q = (Examples(side.inputs[m], side.targets[m]) for side in (support, query))
        if algorithm == "reptile":
            s = Examples(*(torch.cat(pair) for pair in zip(s, q, strict=True)))
        g = hand.gradient(hand.p, s)
        phi = [p - a * x for p, a, x in zip(hand.p, rates, g, strict=True)]
        v = hand.gradient(phi, q)
        if algorithm == "reptile":
            total.append([(p - f) / alpha for p, f in zip(hand.p, phi, strict=True)])
        elif algorithm == "fomaml":
            total.append(v)
        else:
            scaled = [a * x for a, x in zip(rates, v, strict=True)]
            curved = hand.hessian_product(hand.p, scaled, s)
            outer = [x - c for x, c in zip(v, curved, strict=True)]
            if algorithm == "meta-sgd":
                outer += [-x * y for x, y in zip(v, g, strict=True)]  # of the rates
            total.append(outer)
    expected = [np.mean(parts, axis=0).ravel() for parts in zip(*total, strict=True)]
    np.testing.assert_allclose(gradient.numpy(), np.concatenate(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("algorithm", ["maml", "anil", "meta-sgd"])
@pytest.mark.parametrize("problem", ["sinusoid", "glyphs"])
def test_the_meta_gradient_through_several_steps_is_that_of_finite_differences(
    algorithm: str, problem: str
):
    images = {"data": GLYPHS, "model": ModelConfig(name="dense", hidden_sizes=[5])}
    learner = toy(
        inner=inner(algorithm, steps=3, rates=[0.05, 0.02, 0.04]),
        **(images if problem == "glyphs" else {}),
        **({"shots": 2, "queries": 2} if problem == "glyphs" else {}),
    )
    meta, episodes = in_double(learner)
    task = tree_map(lambda x: x[0], episodes)
    found = check_gradient(lambda m, t: learner.task.values(m, Task(t))[0], meta, task, entries=60)
    # A ReLU of the dense model may switch within the difference, but hardly any does.
    assert max(entry.error for entry in found) < 1e-6


def test_reptile_gives_the_displacement_of_several_steps():
    learner = toy(inner=inner("reptile", steps=3))
    params, gradient, (support, query) = mean_gradient(learner)
    hand = ByHand(params)
    moved = []
    for m in range(4):
        both = Examples(*(torch.cat([a[m], b[m]]) for a, b in zip(support, query, strict=True)))
        phi = hand.p
        for _ in range(3):
            step = hand.gradient(phi, both)
            phi = [p - 0.05 * g for p, g in zip(phi, step, strict=True)]
        moved.append(
            np.concatenate([(p - f).ravel() / 0.05 for p, f in zip(hand.p, phi, strict=True)])
        )
    np.testing.assert_allclose(gradient.numpy(), np.mean(moved, axis=0), rtol=1e-10)


def test_a_number_of_distinct_tasks_comes_again():
    learner = toy(distinct_tasks=8)
    drawn = [learner.episodes(iteration).query.inputs for iteration in range(5)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    with pytest.raises(ValueError, match="should be a multiple of tasks, got 6 and 4"):
        toy(distinct_tasks=6)


def test_reptile_without_steps_is_refused():
    with pytest.raises(ValueError, match="should be at least 1 for reptile"):
        inner("reptile", steps=0)


def test_a_rate_of_the_summed_loss_is_smaller_by_the_ways():
    """The convention of the original code: 0.1 of the sum over 3 classes is 0.3 of the mean."""
    gradients = []
    for rate, reduction in ((0.3, "mean"), (0.1, "class-sum")):
        learner = toy(
            data=GLYPHS,
            model=CONV,
            shots=2,
            inner=inner("maml", rate=rate, reduction=reduction, steps=2),
        )
        gradients.append(mean_gradient(learner)[1])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


ARRANGEMENTS = [
    {"chunk_size": 1},
    {"chunk_size": 3, "threads": 2},
    pytest.param(
        {"chunk_size": 2, "threads": 2, "compile": True}, marks=pytest.mark.needs_compiler
    ),
    # The whole update is one program.
    pytest.param({"compile": True}, marks=pytest.mark.needs_compiler),
]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_chunks_threads_and_compiling_change_nothing_but_rounding(arrangement: dict[str, Any]):
    first, other = toy(inner=inner("meta-sgd")), toy(inner=inner("meta-sgd"), **arrangement)
    for iteration in range(3):
        expected, found = first.iterate(iteration), other.iterate(iteration)
        for name in ("loss/after", "outer/gradient_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for name, p in first.state_dict()["meta"].items():
        torch.testing.assert_close(other.state_dict()["meta"][name], p, rtol=1e-3, atol=1e-4)


def test_iterations_learn_to_adapt():
    """From 3 to under 1.2 in 400 iterations; a meta-gradient without its second half ends at 2."""
    learner = toy(
        model=ModelConfig(),
        tasks=25,
        shots=10,
        queries=10,
        inner=inner("maml", rate=0.01),
        outer={"name": "adam", "learning_rate": 3e-3},
        evaluation=SupervisedEvaluationConfig(tasks=200, inner_steps=1),
    )
    for iteration in range(400):
        metrics = learner.iterate(iteration)
    before, after = learner.evaluate(400).scores.mean(1)
    assert before > 2.5
    assert after < 1.2
    assert metrics["MSE/after"] == metrics["loss/after"]
    assert learner.score(metrics) == -metrics["MSE/after"]


def test_the_oracle_needs_no_adaptation():
    learner = toy(
        model=ModelConfig(),
        tasks=50,
        queries=20,
        observe_task=True,
        inner=inner("maml", steps=0),
        outer={"name": "adam", "learning_rate": 1e-2},
        evaluation=SupervisedEvaluationConfig(tasks=100, inner_steps=0),
    )
    for iteration in range(300):
        learner.iterate(iteration)
    evaluation = learner.evaluate(300)
    assert evaluation.scores.mean() < 1.0, "who is not told cannot be better than 3"
    assert evaluation.episodes.query_inputs.shape == (3, 20, 1), "recorded as drawn"


@pytest.mark.parametrize("algorithm", get_args(get_type_hints(SupervisedInnerConfig)["algorithm"]))
def test_traced_updates_are_those_before_to_the_last_bit(algorithm: str, monkeypatch):
    metas = []
    for from_call in (3, 1000):
        monkeypatch.setattr(Traced, "from_call", from_call)
        learner = toy(inner=inner(algorithm, steps=2))
        for iteration in range(6):
            learner.iterate(iteration)
        metas.append(learner.state_dict()["meta"])
        programs = list(learner._update._programs.values())
        assert len(programs) == (from_call == 3)
        assert None not in programs
    for name, p in metas[0].items():
        assert torch.equal(p, metas[1][name])


def test_few_shot_classification_is_learned_and_judged():
    learner = toy(
        data=GLYPHS,
        model=ModelConfig(name="conv", filters=8),
        tasks=8,
        shots=1,
        queries=3,
        inner=inner("maml", rate=0.4),
        outer={"name": "adam", "learning_rate": 1e-2},
        evaluation=SupervisedEvaluationConfig(tasks=60, inner_steps=1, queries=4),
    )
    for iteration in range(40):
        metrics = learner.iterate(iteration)
    assert learner.score(metrics) == metrics["accuracy/after"]
    main = learner.evaluate(40)
    (transductive,) = main.others
    assert (main.test, transductive.test) == ("1-shot", "1-shot, transductive")
    assert (main.measure, main.scores.shape) == ("accuracy", (2, 60))
    for evaluation in (main, transductive):
        assert abs(evaluation.scores[0].mean() - 1 / 3) < 0.1
        assert evaluation.scores[1].mean() > 0.7


def test_a_loss_that_is_not_finite_stops_before_anything_changes():
    learner = toy(inner=inner("maml", rate=1e30, steps=3))
    before = learner.state_dict()
    with pytest.raises(UserError, match=r"iteration 0: the loss is (nan|inf)"):
        learner.iterate(0)
    after = learner.state_dict()
    assert after["outer"]["step"] == before["outer"]["step"] == 0
    for name, p in before["meta"].items():
        assert torch.equal(after["meta"][name], p)


@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd"])
def test_evaluations_are_of_the_average_and_updates_are_not(algorithm: str):
    plain, averaged = (
        toy(inner=inner(algorithm), outer={"name": "adam", "average_decay": decay})
        for decay in (0.0, 0.9)
    )
    weights, total = 0.0, torch.zeros(())
    for iteration in range(5):
        plain.iterate(iteration)
        averaged.iterate(iteration)
        meta = plain.state_dict()["meta"]
        assert torch.equal(flatten(meta), flatten(averaged.state_dict()["meta"]))
        weights, total = 0.9 * weights + 1, 0.9 * total + flatten(meta)
    average = averaged.outer_state.average
    torch.testing.assert_close(average, total / weights)
    scores = averaged.evaluate(5).scores
    assert not np.array_equal(scores, plain.evaluate(5).scores)
    state = plain.state_dict()
    plain.load_state_dict(state | {"meta": unflatten(average, state["meta"])})
    assert np.array_equal(scores, plain.evaluate(5).scores)


@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd"])
def test_a_loaded_learner_goes_on_as_the_saved_one(algorithm: str):
    learner, other = toy(inner=inner(algorithm)), toy(inner=inner(algorithm), seed=1)
    for iteration in range(3):
        learner.iterate(iteration)
    state = learner.state_dict()
    rates = [name for name in state["meta"] if name.startswith("rate:")]
    assert len(rates) == (4 if algorithm == "meta-sgd" else 0)
    other.load_state_dict(state)
    other._seed = learner._seed
    expected, found = learner.iterate(3), other.iterate(3)
    for name in ("loss/after", "outer/gradient_norm"):
        assert found[name] == expected[name]
    with pytest.raises(ValueError, match="the checkpoint's parameters are"):
        toy(model=ModelConfig(hidden_sizes=[7])).load_state_dict(state)
    del state["outer"]["average"]
    with pytest.raises(ValueError, match="the checkpoint's state has"):
        other.load_state_dict(state)


def test_every_setting_of_the_inner_loop_is_a_row_of_the_tables():
    hints = get_type_hints(SupervisedInnerConfig)
    assert set(get_args(hints["algorithm"])) == set(ALGORITHMS)
    assert dataclasses.replace(SupervisedInnerConfig(), rate=0.3, steps=2).alphas == [0.3, 0.3]
