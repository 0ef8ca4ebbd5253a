"""MAML++ (Antoniou et al. 2019): multi-step loss, learned rates, order of the derivative."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.core.compile import Traced
from metarl.core.gradcheck import check_gradient
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.experiment.build import make_supervised_learner
from metarl.experiment.schema import SupervisedExperiment
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig
from metarl.supervised.multi_step import multi_step_weights
from metarl.supervised.objective import Task
from metarl.supervised.task_data import TaskData

TASKS = 4


def toy(
    algorithm: str = "maml", steps: int = 3, arrangement: Any = None, **settings: Any
) -> SupervisedLearner:
    """A small learner; ``settings`` are of the inner loop, those of ``arrangement`` are not."""
    inner = SupervisedInnerConfig(algorithm=algorithm, rate=0.05, steps=steps, **settings)  # type: ignore[arg-type]
    return make_supervised_learner(
        SupervisedExperiment(
            model=ModelConfig(hidden_sizes=[6], activation="tanh"),
            inner=inner,
            tasks=TASKS,
            shots=5,
            queries=3,
            threads=1,
            evaluation=SupervisedEvaluationConfig(tasks=6, inner_steps=5),
            **{"compile": False, **(arrangement or {})},
        )
    )


def double(tree: Any) -> Any:
    return tree_map(lambda x: x.double(), tree)


def in_double(learner: SupervisedLearner) -> tuple[Params, TaskData]:
    """Meta-parameters off their symmetric start, and training data, in float64."""
    theta = flatten(learner.state_dict()["meta"]).double()
    noise = torch.rand(len(theta), generator=torch.Generator().manual_seed(0)).double()
    return {"meta": theta + 0.1 * noise}, double(learner.episodes(0))


def gradient_of(learner: SupervisedLearner, weights: Tensor | None = None) -> Tensor:
    """The meta-gradient [P] over all tasks."""
    meta, episodes = in_double(learner)
    rows: Any = () if weights is None else weights.double().expand(TASKS, -1)
    task = Task(episodes, (), rows)
    return TaskMap(2).mean_and_grad(learner.task.values, meta, task)[1]["meta"]


@pytest.mark.parametrize(
    ("progress", "others", "final"),
    [(0, 0.2, 0.2), (0.5, 0.1, 0.6), (0.9, 0.02, 0.92), (0.99, 0.006, 0.976), (1, 0.006, 0.976)],
)
def test_weights_move_from_all_inner_steps_to_the_last(progress, others, final):
    expected = torch.tensor([others] * 4 + [final])
    torch.testing.assert_close(multi_step_weights(5, progress), expected)
    assert multi_step_weights(1, progress).tolist() == [1.0]


def test_the_meta_gradient_of_weighted_losses_is_the_weighted_sum_of_meta_gradients():
    """That of the loss after k inner steps is MAML's with k inner steps."""
    weights = multi_step_weights(3, 0.4)
    parts = [w * gradient_of(toy(steps=k)) for k, w in enumerate(weights.double(), start=1)]
    torch.testing.assert_close(
        gradient_of(toy(), weights), torch.stack(parts).sum(0), rtol=1e-10, atol=1e-12
    )


def test_weight_one_on_the_last_inner_step_is_maml():
    weights = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(
        gradient_of(toy(), weights), gradient_of(toy()), rtol=1e-12, atol=1e-14
    )


def test_after_its_iterations_the_multi_step_loss_is_the_last_inner_steps_to_the_last_bit():
    plain, weighted = toy(), toy(multi_step_iterations=2)
    for iteration in range(4):
        if iteration == 2:
            plain.load_state_dict(weighted.state_dict())
        metrics = [learner.iterate(iteration) for learner in (plain, weighted)]
        same = torch.equal(plain.theta, weighted.theta)
        assert same == (iteration >= 2)
    assert metrics[0]["loss/after"] == metrics[1]["loss/after"]


def test_weights_are_no_constants_of_a_program(monkeypatch):
    thetas = []
    for from_call in (2, 1000):
        monkeypatch.setattr(Traced, "from_call", from_call)
        learner = toy(multi_step_iterations=5)
        for iteration in range(8):
            learner.iterate(iteration)
        assert len(learner._update._programs) == (2 if from_call == 2 else 0)
        thetas.append(learner.theta)
    assert torch.equal(*thetas)


def test_reptile_has_no_query_loss_to_weigh():
    with pytest.raises(ValueError, match="multi_step_iterations should be 0 for reptile"):
        toy("reptile", multi_step_iterations=5)


@pytest.mark.parametrize("arrangement", [{}, {"chunk_size": 2, "outer": {"name": "trpo"}}])
def test_first_order_updates_come_first_and_then_those_of_second_order(arrangement):
    """Each to the last bit as of FOMAML and of MAML."""
    learner = toy(first_order_iterations=2, arrangement=arrangement)
    for iteration in range(4):
        other = toy("fomaml" if iteration < 2 else "maml", arrangement=arrangement)
        other.load_state_dict(learner.state_dict())
        learner.iterate(iteration)
        other.iterate(iteration)
        assert torch.equal(learner.theta, other.theta)


@pytest.mark.needs_compiler
def test_both_orders_have_a_program_each():
    plain, compiled = (
        toy(first_order_iterations=2, arrangement={"compile": wanted}) for wanted in (False, True)
    )
    for iteration in range(4):
        expected, found = plain.iterate(iteration), compiled.iterate(iteration)
        for name in ("loss/after", "outer/gradient_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for update in (compiled._update, compiled._first_order_update):
        assert len(update._programs) == 1


def test_learned_rates_of_every_inner_step_begin_as_maml():
    learner = toy("maml++")
    rates = {n: p for n, p in learner.state_dict()["meta"].items() if n.startswith("rate:")}
    assert len(rates) == 4
    assert all(torch.equal(p, torch.full((3,), 0.05)) for p in rates.values())
    assert learner.iterate(0)["loss/after"] == toy().iterate(0)["loss/after"]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_learned_rates_is_that_of_finite_differences(weighted: bool):
    learner = toy("maml++")
    meta, episodes = in_double(learner)
    weights: Any = multi_step_weights(3, 0.4).double() if weighted else ()
    task = Task(tree_map(lambda x: x[0], episodes), (), weights)
    found = check_gradient(lambda m, t: learner.task.values(m, t)[0], meta, task, entries=60)
    assert max(entry.error for entry in found) < 1e-6
    rates = unflatten(gradient_of(learner, weights if weighted else None), learner.task.like)
    assert all((g != 0).all() for name, g in rates.items() if name.startswith("rate:"))


def test_inner_steps_beyond_the_trained_ones_take_the_last_rate():
    learner = toy("maml++")
    inner = learner.task.inner
    meta = unflatten(in_double(learner)[0]["meta"], learner.task.like)
    _, rates = inner.split(meta, [0.05] * 5)
    for name in inner.names:
        learned = meta[f"rate:{name}"]
        found = [float(rate[name]) for rate in rates]
        assert found == pytest.approx([*learned.tolist(), *[float(learned[-1])] * 2])
    assert len(learner.evaluate(0).rows()) == 6


def test_given_rates_of_inner_steps_are_refused_where_they_are_learned():
    with pytest.raises(ValueError, match=r"inner.rates should be null for maml\+\+"):
        toy("maml++", rates=[0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="should be at least 1 for maml"):
        toy("maml++", steps=0)
