"""The learned critic: what it fits, and that its state travels."""

import numpy as np
import pytest
import torch

from metarl.commands.main import train
from metarl.core.task_map import TaskMap
from metarl.rl.baselines import LinearFeatureBaseline, Regression
from metarl.rl.critic import Critic
from metarl.runtime.folder import RunFolder


def regression(target, tasks: int = 3, tails: float = 0.0, seed: int = 0) -> Regression:
    """Observations in [-2, 2]^2 with given values; episodes of 20 env steps, some cut short."""
    generator = torch.Generator().manual_seed(seed)
    observations = 4 * torch.rand(tasks, 8, 20, 2, generator=generator) - 2
    times = torch.arange(20.0).expand(tasks, 8, 20)
    mask = (times < torch.randint(10, 21, (tasks, 8, 1), generator=generator)).float()
    final = 4 * torch.rand(tasks, 8, 2, generator=generator) - 2
    tail = torch.full((tasks, 8, 20), tails) * mask
    values, of_final = target(observations), target(final)
    targets = (values - tail * of_final[..., None]) * mask
    return Regression(observations, times, mask, targets, tail, final, mask.sum(-1))


def wavy(observations: torch.Tensor) -> torch.Tensor:
    """No quadratic function of the observation: the linear baseline cannot fit it."""
    return 50 + 10 * torch.sin(2 * observations[..., 0]) * observations[..., 1]


def error(values, data: Regression) -> float:
    residual = values.values - wavy(data.observations)
    return float((residual.square() * data.mask).sum() / data.mask.sum())


@pytest.mark.parametrize("tails", [0.0, 0.5])
def test_it_learns_over_rounds_what_no_linear_fit_can_know(tails):
    critic, task_map = Critic(steps=10, learning_rate=0.01), TaskMap()
    state = critic.init(2, seed=0)
    errors = []
    for round_ in range(60):
        data = regression(wavy, tails=tails, seed=round_)
        values, state = critic.fit(state, data, task_map)
        errors.append(error(values, data))
    linear, _ = LinearFeatureBaseline().fit((), data, task_map)
    assert np.mean(errors[-5:]) < 0.3 * error(linear, data)
    assert torch.equal(values.values, values.values * data.mask), "0 in the padding"
    torch.testing.assert_close(values.final_values, wavy(data.final_observations), atol=9, rtol=0)


def test_tasks_have_corrections_of_their_own():
    data = regression(wavy)
    shifted = data._replace(targets=data.targets + torch.tensor([0.0, 30.0, -30.0])[:, None, None])
    critic = Critic()
    values, _ = critic.fit(critic.init(2, 0), shifted, TaskMap())
    means = (values.values * data.mask).sum((1, 2)) / data.mask.sum((1, 2))
    expected = (shifted.targets * data.mask).sum((1, 2)) / data.mask.sum((1, 2))
    torch.testing.assert_close(means, expected, atol=0.5, rtol=0)


def test_an_affine_change_of_the_returns_changes_the_values_alike():
    one = regression(wavy)
    other = one._replace(targets=(7 * one.targets - 100) * one.mask)
    critic = Critic()
    found = [critic.fit(critic.init(2, 0), data, TaskMap())[0] for data in (one, other)]
    expected = (7 * found[0].values - 100) * one.mask
    torch.testing.assert_close(found[1].values, expected, atol=0.1, rtol=1e-3)


def test_its_state_is_in_the_checkpoint_and_resumes_bit_for_bit(toy, runs, assert_same_outcome):
    critic = ("--baseline.name", "critic", "--baseline.width", "4", "--checkpoint.every", "2")
    assert train(toy("whole", *critic, "--iterations", "5")) == 0
    assert train(toy("run", *critic, "--iterations", "3")) == 0
    assert train(["--resume", str(runs / "run"), "--iterations", "5"]) == 0
    assert_same_outcome(runs / "run", runs / "whole")
    state = RunFolder(runs / "run").checkpoints().load()[1]["learner"]["baseline"]
    assert state["adam"]["step"] == 5 * 2 * 5, "five iterations, two rounds, five steps"
