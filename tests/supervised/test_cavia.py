"""CAVIA (Zintgraf et al. 2019): the context adapts alone, outer steps move the network alone."""

from typing import Any

import pytest
import torch

from metarl.core.gradcheck import check_gradient
from metarl.core.networks import WithContext
from metarl.core.params import Functional, flatten, parameters_of, tree_map, unflatten
from metarl.experiment.build import make_rl_learner, make_supervised_learner
from metarl.experiment.schema import RLExperiment, SupervisedExperiment
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.rl.learner import PolicyInnerConfig
from metarl.runtime.errors import UserError
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig
from metarl.supervised.objective import Task


def toy(**settings: Any) -> SupervisedLearner:
    defaults: dict[str, Any] = {
        "model": ModelConfig(hidden_sizes=[6], activation="tanh"),
        "inner": SupervisedInnerConfig(algorithm="cavia", rate=1.0, steps=2, context=3),
        "tasks": 4,
        "shots": 5,
        "queries": 3,
        "threads": 1,
        "compile": False,
        "evaluation": SupervisedEvaluationConfig(tasks=6, inner_steps=2),
    }
    return make_supervised_learner(SupervisedExperiment(**(defaults | settings)))


def test_the_context_is_beside_every_input():
    module = WithContext(torch.nn.Linear(5, 2).double(), 3).double()
    theta, x, context = parameters_of(module), torch.randn(7, 2).double(), torch.randn(3).double()
    assert torch.equal(theta["context"], torch.zeros(3).double())
    found = Functional(module)(theta | {"context": context}, x)
    expected = module.network(torch.cat([x, context.repeat(7, 1)], 1))
    torch.testing.assert_close(found, expected)


def test_the_network_is_bit_identical_in_the_inner_loop():
    learner = toy()
    meta, task = learner.evaluated_meta, tree_map(lambda x: x[0], learner.episodes(0))
    phi = learner.task.inner.adapt(meta, [task.support] * 2)
    assert (phi["context"] != 0).all()
    network = [name for name in phi if name != "context"]
    assert all(name.startswith("network.") for name in network)
    assert all(torch.equal(phi[name], meta[name]) for name in network)


def test_the_meta_gradient_is_that_of_finite_differences_and_0_for_the_context():
    learner = toy()
    theta = flatten(learner.state_dict()["meta"]).double()
    meta = {
        "meta": theta + 0.1 * torch.rand(len(theta), generator=torch.Generator().manual_seed(0))
    }
    task = Task(tree_map(lambda x: x[0].double(), learner.episodes(0)))

    def loss(meta: Any, task: Any) -> Any:
        return learner.task.values(meta, task)[0]

    assert max(e.error for e in check_gradient(loss, meta, task, entries=60)) < 1e-6
    gradient = torch.func.grad(loss)(meta, task)["meta"]
    by_name = unflatten(gradient, learner.task.like)
    assert not by_name.pop("context").any()
    assert all(g.any() for g in by_name.values())


@pytest.mark.parametrize("outer", ["adam", "trpo"])
def test_the_context_of_theta_stays_0_over_training(outer: str):
    learner = toy(outer={"name": outer})
    before = learner.state_dict()["meta"]
    for iteration in range(5):
        learner.iterate(iteration)
    after = learner.state_dict()["meta"]
    assert not after["context"].any()
    assert not torch.equal(after["network.head.weight"], before["network.head.weight"])
    first, *_, last = learner.evaluate(5).rows()
    assert first.mean != last.mean


def test_policies_have_contexts_too():
    learner = make_rl_learner(
        RLExperiment(
            env={"family": "point-navigation", "horizon": 10},
            policy={"name": "gaussian-mlp", "hidden_sizes": [8]},
            inner=PolicyInnerConfig(algorithm="cavia", rate=1.0, context=4),
            tasks=3,
            trajectories=4,
            threads=1,
            compile=False,
            evaluation=PolicyEvaluationConfig(tasks=2, inner_steps=1),
        )
    )
    before = learner.meta
    theta, phi = (r.phi for r in learner.sample(0)[0])
    assert phi["context"].any()
    assert all(torch.equal(theta[name], phi[name]) for name in theta if name != "context")
    for iteration in range(2):
        assert learner.iterate(iteration)["outer/accepted"] == 1
    assert not learner.meta["context"].any()
    assert not torch.equal(learner.meta["network.head.weight"], before["network.head.weight"])


def test_images_have_no_place_for_a_context():
    with pytest.raises(
        UserError, match=r"beside inputs that are vectors; here they have shape \[1"
    ):
        toy(data={"source": "glyphs", "ways": 3}, model=ModelConfig(name="conv", filters=4))
