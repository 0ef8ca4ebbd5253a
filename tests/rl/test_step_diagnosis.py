"""What an outer step gains on data that it was not made from."""

import math
from dataclasses import dataclass

import pytest
import torch

from metarl.core.outer.step import Objective, OuterStep
from metarl.core.params import flatten, unflatten
from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.learner import MetaRLLearner
from metarl.rl.step_diagnosis import diagnosis
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose

THETA = torch.zeros(3, dtype=torch.float64)
RATE = 0.1


@dataclass(frozen=True)
class Downhill(OuterStep):
    def step(self, objective, theta, state):
        return theta - RATE * objective.loss_gradient(theta)[1], state, {}


def linear(rounds) -> Objective:
    """The loss of every task is a slope [P]; the KL is half of the squared distance."""
    slope = rounds[-1].mean(0)

    def loss_and_kl(x):
        return torch.stack([slope @ x, x @ x / 2])

    return Objective(loss_and_kl, lambda x: (loss_and_kl(x), slope), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("first_task", [0, 3])
def test_a_step_is_judged_on_halves_and_on_fresh_data(first_task: int):
    numbers = torch.Generator().manual_seed(2)
    tasks, fresh = torch.randn(2, 5, 3, dtype=torch.float64, generator=numbers)
    new = -RATE * tasks.mean(0)
    found = diagnosis(Downhill(), linear, THETA, new, [tasks], [fresh], first_task)
    a, b = tasks[0::2].mean(0), tasks[1::2].mean(0)
    assert found == pytest.approx(
        {
            "improvement": RATE * float(tasks.mean(0) @ tasks.mean(0)),
            "fresh_improvement": RATE * float(tasks.mean(0) @ fresh.mean(0)),
            "fresh_kl": float(new @ new / 2),
            "cosine_of_halves": float(a @ b / (a.norm() * b.norm())),
        }
    )


def test_halves_that_go_nowhere_have_no_cosine():
    tasks = torch.zeros(4, 3, dtype=torch.float64)
    found = diagnosis(Downhill(), linear, THETA, THETA, [tasks], [tasks])
    assert math.isnan(found["cosine_of_halves"])


def learner(**settings) -> MetaRLLearner:
    toy = {
        "env": {"family": "point-navigation", "horizon": 12},
        "policy": {"name": "gaussian-mlp", "hidden_sizes": [8, 8]},
        "tasks": 4,
        "trajectories": 5,
        "threads": 1,
    }
    return make_learner(RLExperiment(**(toy | settings)))


def test_a_diagnosis_changes_nothing_and_is_of_tasks_of_its_own():
    plain, diagnosed = learner(), learner(diagnose_every=2)
    rows = []
    for iteration in range(3):
        plain.iterate(iteration)
        before = flatten(diagnosed.meta)
        rows.append(diagnosed.iterate(iteration))
        assert torch.equal(flatten(plain.meta), flatten(diagnosed.meta))
    assert ["diagnosis/improvement" in row for row in rows] == [True, False, True]
    last = rows[-1]
    assert last["env_steps"] == plain.env_steps
    gained = last["outer/loss_before"] - last["outer/loss_after"]
    assert last["diagnosis/improvement"] == pytest.approx(gained, rel=1e-5)

    after, at = flatten(diagnosed.meta), learner()
    at.meta = {name: p.clone() for name, p in unflatten(before, at.meta).items()}
    rounds, _ = at.sample(2, Purpose.DIAGNOSIS_TASKS, Purpose.DIAGNOSIS_ROLLOUT)
    usual, _ = at.sample(2)
    assert not torch.equal(rounds[0].trajectories.rewards, usual[0].trajectories.rewards)
    objective = at.objective([rounds[0].batch], rounds[1].batch, 2)
    loss, kl = (objective.loss_and_kl(after) - objective.loss_and_kl(before)).tolist()
    assert last["diagnosis/fresh_improvement"] == pytest.approx(-loss)
    assert last["diagnosis/fresh_kl"] == pytest.approx(kl)


def test_fewer_than_two_tasks_a_process_cannot_be_halved():
    with pytest.raises(UserError, match="diagnose_every needs tasks of at least 2 per process"):
        learner(tasks=1, diagnose_every=1)
