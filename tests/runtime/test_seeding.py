"""Derived randomness: repeatable, and independent between uses."""

import itertools

import numpy as np
import pytest
import torch

from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.runtime.seeding import Purpose, generator, torch_seed
from metarl_envs import FAMILIES
from metarl_envs.point import PointNavigation


def test_old_runs_can_be_repeated():
    """Golden first values: a change of them changes every run ever made."""
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "PARAMETERS": 0,
        "TRAIN_TASKS": 1,
        "TRAIN_ROLLOUT": 2,
        "EVALUATION_TASKS": 3,
        "EVALUATION_ROLLOUT": 4,
        "VALIDATION_TASKS": 5,
        "VALIDATION_ROLLOUT": 6,
        "MEAN_ACTION_ROLLOUT": 7,
        "IMAGE_SPLIT": 8,
        "GLYPHS": 9,
        "DIAGNOSIS_TASKS": 10,
        "DIAGNOSIS_ROLLOUT": 11,
    }
    rng = generator(0, Purpose.PARAMETERS)
    assert rng.integers(10**6, size=3).tolist() == [802237, 942937, 5483]
    rng = generator(7, Purpose.TRAIN_ROLLOUT, iteration=3, task=2, inner_step=1)
    assert rng.integers(10**6, size=3).tolist() == [155957, 93377, 560545]
    assert torch_seed(3, Purpose.PARAMETERS) == 2496626842308934689


def test_equal_arguments_give_equal_numbers_each_time():
    for arguments in ((0, Purpose.TRAIN_TASKS), (5, Purpose.TRAIN_ROLLOUT, 1, 2, 3)):
        first, second = generator(*arguments), generator(*arguments)
        assert first is not second
        first_numbers = first.standard_normal(100)
        assert np.array_equal(first_numbers, second.standard_normal(100))
        assert not np.array_equal(first_numbers, first.standard_normal(100))


def test_every_use_has_its_own_stream():
    uses = list(itertools.product(range(3), Purpose, range(4), range(4), range(3)))
    streams = {generator(*use).bytes(16) for use in uses}
    assert len(streams) == len(uses)
    # Neither do arguments run into each other, nor seeds that differ in the high bits only.
    assert len({generator(s, Purpose.TRAIN_TASKS).bytes(16) for s in (0, 2**32, 2**64)}) == 3


def test_streams_of_neighbours_are_uncorrelated():
    """Correlations of independent streams of n numbers have a standard deviation of 1 / sqrt(n)."""
    n = 4000
    uses = list(itertools.product((0, 1), [Purpose.TRAIN_ROLLOUT], (0, 1), range(5)))
    numbers = np.stack([generator(*use).standard_normal(n) for use in uses])
    correlations = np.corrcoef(numbers)[np.triu_indices(len(uses), k=1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(n)
    firsts = np.array([generator(0, Purpose.TRAIN_ROLLOUT, i).standard_normal() for i in range(n)])
    assert abs(firsts.mean()) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 5 / np.sqrt(n)


def test_every_iteration_has_tasks_of_its_own_and_evaluation_always_the_same(monkeypatch):
    drawn = []

    class Recorded(PointNavigation):
        def sample_tasks(self, rng, n):
            drawn.append(super().sample_tasks(rng, n))
            return drawn[-1]

    monkeypatch.setitem(FAMILIES, "recorded", Recorded)
    config = RLExperiment(
        env={"family": "recorded", "horizon": 3},
        policy={"name": "gaussian-mlp", "hidden_sizes": [4]},
        tasks=5,
        trajectories=2,
        evaluation=PolicyEvaluationConfig(tasks=5),
    )
    learner = make_learner(config)
    for iteration in (0, 1, 1):
        learner.iterate(iteration)
        learner.evaluate(iteration)
    first, held_out, second, held_out_again, second_again, _ = drawn
    assert len(np.unique(np.concatenate([first, second, held_out]), axis=0)) == 3 * 5
    assert np.array_equal(second, second_again)
    assert np.array_equal(held_out, held_out_again)


@pytest.mark.parametrize("position", range(4))
def test_negative_arguments_are_refused(position: int):
    arguments = [0, 0, 0, 0]
    arguments[position] = -1
    seed, iteration, task, inner_step = arguments
    with pytest.raises(ValueError, match="non-negative"):
        generator(seed, Purpose.TRAIN_TASKS, iteration, task, inner_step)


def test_a_torch_seed_is_one_that_torch_takes():
    seeds = {torch_seed(seed, purpose) for seed in range(50) for purpose in Purpose}
    assert len(seeds) == 50 * len(Purpose)
    for seed in seeds:
        assert torch.Generator().manual_seed(seed).initial_seed() == seed
