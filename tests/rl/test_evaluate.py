"""The evaluation protocol and the papers' baselines, on the real families at toy size."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch

from metarl.core.params import flatten
from metarl.experiment.build import make_learner
from metarl.experiment.registries import make_family
from metarl.experiment.schema import RLExperiment
from metarl.rl.evaluate import PolicyEvaluationConfig, RecordedRollouts
from metarl.rl.learner import MetaRLLearner, PolicyInnerConfig
from metarl.rl.losses import surrogate_and_kl
from metarl.rl.sampler import Stream
from metarl.runtime.scores import from_npz, paired_differences, to_npz
from metarl.runtime.seeding import Purpose, generator
from metarl_envs import BatchedEnv
from metarl_envs.registry import SIMULATED


def toy(family: str = "point-navigation", horizon: int = 10, **settings) -> MetaRLLearner:
    defaults = {
        "env": {"family": family, "horizon": horizon},
        "policy": {"name": "gaussian-mlp", "hidden_sizes": [8]},
        "tasks": 4,
        "trajectories": 10,
        "threads": 1,
        "evaluation": PolicyEvaluationConfig(tasks=5, inner_steps=2),
    }
    return make_learner(RLExperiment(**(defaults | settings)))


# --- recorded episodes


@pytest.mark.parametrize("mean_actions", [False, True])
@pytest.mark.parametrize("name", SIMULATED)
def test_recorded_episodes_are_those_that_were_scored(name: str, mean_actions: bool):
    """The family's own reward functions give, for the recorded states, the recorded returns."""
    protocol = PolicyEvaluationConfig(
        tasks=3, trajectories=4, inner_steps=1, mean_actions=mean_actions
    )
    evaluation = toy(name, evaluation=protocol).evaluate(0)
    episodes = evaluation.episodes
    assert episodes.qpos.shape[:4] == (2, 3, 4, 11)
    assert episodes.rewards.shape == (2, 3, 4, 10)
    np.testing.assert_allclose(episodes.rewards.sum(-1).mean(-1), evaluation.scores, rtol=1e-5)
    np.testing.assert_array_equal(episodes.lengths.mean(-1), evaluation.lengths)

    family = make_family({"family": name, "horizon": 10})
    moved = np.diff(family.position(episodes.qpos), axis=3)  # [2, 3, 4, 10, D]
    valid = np.arange(10) < episodes.lengths[..., None]
    assert np.abs(moved[valid]).max() > 0
    for m, task in enumerate(evaluation.tasks):
        target = family.target(task)
        end = family.position(episodes.qpos[:, m, :, 1:])
        if name == "point-navigation":
            found = -np.linalg.norm(end - target.value, axis=-1)
            expected = episodes.rewards[:, m]
            np.testing.assert_allclose(found[valid[:, m]], expected[valid[:, m]], rtol=1e-4)
        if name == "half-cheetah-velocity":
            free = dataclasses.replace(family, control_cost=0.0)
            speed = moved[:, m, ..., 0] / family.dt
            best = free.velocity_reward(speed.ravel(), np.full((speed.size, 1), task[0]))
            cost = best.reshape(speed.shape) - episodes.rewards[:, m]
            assert (cost > -1e-4).all()  # what is missing is the cost of the control
            assert (cost < family.control_cost * family.action_dim + 1e-4).all()


def test_episodes_start_where_the_environment_does_and_are_padded_by_their_last_state():
    episodes = toy("ant-direction", horizon=60, tasks=2).evaluate(0).episodes
    assert (np.abs(episodes.qpos[..., 0, :2]) <= 0.1).all()
    ended = np.argwhere(episodes.lengths < 60)
    assert len(ended), "an untrained ant falls over now and then"
    for k, m, n in ended:
        tail = episodes.qpos[k, m, n, episodes.lengths[k, m, n] :]
        assert (tail == tail[0]).all()


def test_watching_changes_no_score():
    """And neither do the two threads, which are one while somebody watches."""
    learner = toy(threads=2)
    tasks = learner.family.sample_tasks(np.random.default_rng(0), 3)
    seen = []
    stream = Stream(0, Purpose.EVALUATION_ROLLOUT)
    watched, unwatched = (
        learner.adaptation.sample_and_adapt(learner.meta, tasks, [0.1], 4, stream, watch=watch)[0]
        for watch in (lambda k, qpos: seen.append((k, qpos.shape)), None)
    )
    for one, other in zip(watched, unwatched, strict=True):
        assert torch.equal(one.trajectories.rewards, other.trajectories.rewards)
    assert {k for k, _ in seen} == {0, 1}
    assert {shape for _, shape in seen} == {(3, 4, 2)}


def test_episodes_survive_their_file_and_nothing_is_unpickled():
    episodes = toy().evaluate(0).episodes
    data = to_npz(episodes)
    for found, expected in zip(from_npz(data, [RecordedRollouts]), episodes, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert data == to_npz(episodes)
    for damaged in (b"", data[:100], b"\x80\x04N.", data.replace(b"qpos", b"qpqs")):
        with pytest.raises(ValueError, match="damaged episodes"):
            from_npz(damaged, [RecordedRollouts])


# --- the protocol's choices


def test_mean_actions_are_scored_without_noise_and_adapted_with_it():
    family = {"family": "point-navigation", "horizon": 10, "goal_tolerance": 0.0}
    noisy = toy(env=family).evaluate(0)
    mean = toy(
        env=family, evaluation=PolicyEvaluationConfig(tasks=5, inner_steps=2, mean_actions=True)
    )
    found = mean.evaluate(0)
    assert found.mean_actions
    # From one start without noise there is one episode: all are equal.
    assert (found.episodes.qpos == found.episodes.qpos[:, :, :1]).all()
    assert np.ptp(noisy.episodes.qpos, axis=2).max() > 0.1
    # Without noise nothing would be learnt, but the policies are those of the noisy protocol.
    assert (np.diff(found.scores, axis=0) != 0).all()


def test_the_best_candidate_rate_on_validation_tasks_is_taken():
    candidates = PolicyEvaluationConfig(tasks=5, inner_steps=2, candidate_rates=[1e-4, 0.2, 50.0])
    learner = toy(horizon=30, evaluation=candidates)
    evaluation = learner.evaluate(0)
    assert list(evaluation.validation) == [1e-4, 0.2, 50.0]
    best = max(evaluation.validation, key=evaluation.validation.__getitem__)
    assert evaluation.inner_rates == [best, best / 2]
    assert best == 0.2, "neither one that does nothing nor one that destroys the policy"

    # The scores are those of tasks that the evaluation does not see.
    tasks = learner.family.sample_tasks(generator(0, Purpose.VALIDATION_TASKS), 5)
    assert not np.isin(tasks, evaluation.tasks).any()
    stream = Stream(0, Purpose.VALIDATION_ROLLOUT)
    for rate, score in evaluation.validation.items():
        rounds = learner.adaptation.sample_and_adapt(
            learner.meta, tasks, [rate, rate / 2], 10, stream
        )[0]
        expected = np.mean([float(r.trajectories.returns.mean()) for r in rounds[1:]])
        assert score == pytest.approx(expected, rel=1e-5)

    # And given that rate, the evaluation is the same.
    given = toy(
        horizon=30,
        evaluation=PolicyEvaluationConfig(tasks=5, inner_steps=2, inner_rates=[0.2, 0.1]),
    )
    np.testing.assert_array_equal(given.evaluate(0).scores, evaluation.scores)


def test_rates_are_given_or_chosen_but_not_both():
    with pytest.raises(ValueError, match="candidate_rates must be null"):
        PolicyEvaluationConfig(inner_steps=1, inner_rates=[0.1], candidate_rates=[0.1])


def test_paired_differences_are_narrower_than_what_they_are_of():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 40)
    one = np.stack([difficulty + rng.normal(0, 1, 40) for _ in range(3)])
    other = np.stack([difficulty + 2 + rng.normal(0, 1, 40) for _ in range(2)])
    other[1, 7] = np.nan  # a task all of whose episodes diverged is left out
    rows = paired_differences(one, other)
    assert [row.inner_steps for row in rows] == [0, 1]
    assert rows[0].mean == pytest.approx((other[0] - one[0]).mean())
    kept = np.arange(40) != 7
    assert rows[1].mean == pytest.approx((other[1] - one[1])[kept].mean())
    assert all(row.ci95 < 1 for row in rows)
    assert all(abs(row.mean - 2) < row.ci95 for row in rows)


# --- the papers' baselines


def test_without_inner_steps_the_update_is_plain_policy_gradient_over_all_tasks():
    learner = toy(inner=PolicyInnerConfig(steps=0))
    tasks = learner.family.sample_tasks(np.random.default_rng(0), 4)
    (query,) = learner.adaptation.sample_and_adapt(
        learner.meta, tasks, [], 10, Stream(0, Purpose.TRAIN_ROLLOUT)
    )[0]
    problem = learner.objective([], query.batch)
    theta = flatten(learner.meta)
    (loss, kl), gradient = problem.loss_gradient(theta)
    assert loss == pytest.approx(0, abs=1e-6)
    assert kl == 0

    meta = {name: p.clone().requires_grad_() for name, p in learner.meta.items()}
    objectives = [
        surrogate_and_kl(
            learner.adaptation.sampler.policy, meta, type(query.batch)(*_task(query.batch, m))
        )[0]
        for m in range(4)
    ]
    torch.stack(objectives).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in meta.values()])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def _task(batch, m: int):
    return [type(x)(*(y[m] for y in x)) if isinstance(x, tuple) else x[m] for x in batch]


def test_without_inner_steps_an_iteration_samples_once_and_improves():
    learner = toy(inner=PolicyInnerConfig(steps=0), horizon=20)
    metrics = learner.iterate(0)
    assert metrics["env_steps"] <= 4 * 10 * 20
    assert metrics["return/before"] == metrics["return/after"]
    assert "inner/gradient_norm" not in metrics
    assert metrics["outer/accepted"] == 1
    assert metrics["outer/loss_after"] < metrics["outer/loss_before"]
    assert learner.evaluate(1).inner_rates == [0.1, 0.05]


@pytest.mark.parametrize("name", SIMULATED)
def test_the_oracle_sees_the_task_and_nothing_else_changes(name: str):
    family = make_family({"family": name})
    tasks = family.sample_tasks(np.random.default_rng(0), 2)
    plain, oracle = (BatchedEnv(family, 2, 3, 1, observe_task) for observe_task in (False, True))
    first, second = (
        env.reset(tasks, [np.random.default_rng(m) for m in range(2)]) for env in (plain, oracle)
    )
    action = np.random.default_rng(1).standard_normal((2, 3, family.action_dim))
    for _ in range(3):
        np.testing.assert_array_equal(second[..., : family.observation_dim], first)
        expected = np.broadcast_to(tasks[:, None], (2, 3, family.task_dim))
        np.testing.assert_array_equal(second[..., family.observation_dim :], expected)
        one, other = plain.step(action), oracle.step(action)
        np.testing.assert_array_equal(one.reward, other.reward)
        first, second = one.observation, other.observation


def test_an_oracle_learns_what_a_policy_that_is_not_told_cannot():
    """15 iterations on goals in a square: only the one that is told the goal walks there."""
    final = {}
    for told in (False, True):
        learner = toy(
            env={"family": "point-navigation", "horizon": 20, "goal_range": (-0.5, 0.5)},
            observe_task=told,
            inner=PolicyInnerConfig(steps=0),
            tasks=10,
            policy={"name": "gaussian-mlp", "hidden_sizes": [32]},
            outer={"name": "trpo", "max_kl": 0.03, "cg_iterations": 4},
            evaluation=PolicyEvaluationConfig(tasks=20, inner_steps=0),
        )
        for iteration in range(15):
            learner.iterate(iteration)
        final[told] = learner.evaluate(15).scores.mean()
    assert final[True] > final[False] + 2, final


def test_success_and_gain_are_part_of_an_evaluation():
    env = {"family": "point-navigation", "horizon": 12, "goal_tolerance": 0.2}
    evaluation = toy(env=env).evaluate(0)
    assert evaluation.success.shape == (3, 5)
    record, metrics = evaluation.record(), evaluation.metrics()
    assert record.success == evaluation.success.tolist()
    for k, row in enumerate(record.rows):
        assert row.success == pytest.approx(evaluation.success[k].mean())
        assert metrics[f"evaluation/success_{k}"] == row.success
    gain = evaluation.scores[2] - evaluation.scores[0]
    assert metrics["evaluation/gain_2"] == pytest.approx(gain.mean())
    assert metrics["evaluation/gain_ci95_2"] == pytest.approx(
        scipy.stats.sem(gain) * scipy.stats.t.ppf(0.975, 4)
    )
    assert "evaluation/gain_0" not in metrics
    silent = toy("half-cheetah-velocity").evaluate(0)
    assert silent.record().success is None
    assert not any("success" in name for name in silent.metrics())
