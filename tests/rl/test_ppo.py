"""PPO and ProMP, in float64: identities, and an independent computation of the loss."""

import numpy as np
import pytest
import torch

from metarl.core.outer.step import Objective
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.experiment.settings import parse
from metarl.rl.learner import MetaRLLearner, PolicyInnerConfig
from metarl.rl.objective import AdaptedTask
from metarl.rl.ppo import PPO, ProMP
from metarl.rl.sampler import Stream
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose


def double(tree):
    return tree_map(lambda x: x.double(), tree)


def problem(steps: int = 1, **settings) -> tuple[MetaRLLearner, Objective, torch.Tensor]:
    """A learner, its objective on real trajectories in float64, and the theta that sampled."""
    learner = make_learner(
        RLExperiment(
            **{
                "env": {"family": "point-navigation", "horizon": 12},
                "policy": {"name": "gaussian-mlp", "hidden_sizes": [8]},
                "tasks": 4,
                "trajectories": 5,
                "threads": 1,
                "inner": PolicyInnerConfig(loss="lvc", rate=0.3, steps=steps),
                "outer": {"name": "promp"},
                **settings,
            }
        )
    )
    tasks = learner.family.sample_tasks(np.random.default_rng(0), 4)
    rounds, _ = learner.adaptation.sample_and_adapt(
        learner.meta, tasks, [0.3] * steps, 5, Stream(0, Purpose.TRAIN_ROLLOUT)
    )
    # The stored numbers of float64 policies, so that ratios are exactly 1.
    policy, theta = learner.network, double(learner.meta)
    phi = {name: p.expand(4, *p.shape) for name, p in theta.items()}
    batches = []
    for sampled in rounds:
        batch = double(sampled.batch)
        new = torch.func.vmap(policy)(phi, batch.observations)
        batch = batch._replace(sampling=new, log_probs=new.log_prob(batch.actions) * batch.mask)
        batches.append(batch)
        if len(batches) <= steps:
            phi = torch.func.vmap(
                lambda p, b: learner.adaptation.inner.step(p, dict.fromkeys(p, 0.3), b)
            )(phi, batch)
    learner.meta = theta
    return learner, learner.objective(batches[:-1], batches[-1]), flatten(theta)


@pytest.mark.parametrize("step", [PPO(), ProMP(kl_penalty=0.1)])
def test_the_first_gradient_is_that_of_the_surrogate(step: PPO) -> None:
    """Ratios are 1, nothing is clipped, and the KL of theta from itself has no gradient."""
    _, objective, theta = problem()
    _, expected = objective.loss_gradient(theta)
    values, found = objective.gradient_of(step.loss, theta)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert values[1] == 0
    assert float(values[2]) == pytest.approx(0.0, abs=1e-12)


def test_the_loss_is_the_papers() -> None:
    """At another theta, against NumPy."""
    learner, _, theta = problem()
    policy = learner.network
    rng = np.random.default_rng(0)
    moved = theta + 0.2 * torch.from_numpy(rng.normal(size=len(theta)))
    of: Params = unflatten(moved, learner.meta)
    before: Params = unflatten(theta, learner.meta)
    n = 30
    observations = torch.from_numpy(rng.normal(size=(n, 2)))
    sampling = policy(before, observations)
    actions = sampling.sample(torch.from_numpy(rng.normal(size=(n, 2))))
    advantages = torch.from_numpy(rng.normal(size=n))
    mask = torch.ones(n, dtype=torch.float64)
    mask[25:] = 0
    rounds, _ = learner.adaptation.sample_and_adapt(
        {k: p.float() for k, p in learner.meta.items()},
        np.zeros((1, 2)),
        [0.3],
        2,
        Stream(0, Purpose.TRAIN_ROLLOUT),
    )
    like = tree_map(lambda x: x[0, :1].expand(n, *x.shape[2:]), double(rounds[0].batch))
    batch = like._replace(
        observations=observations,
        actions=actions,
        advantages=advantages,
        sampling=sampling,
        log_probs=sampling.log_prob(actions) * mask,
        mask=mask,
    )
    step = ProMP(clip=0.1, kl_penalty=0.7)
    loss, clipped, support_kl = step.loss(AdaptedTask(policy, of, of, [batch], batch)).tolist()
    ratio = np.exp((policy(of, observations).log_prob(actions) - batch.log_probs).detach().numpy())
    a, valid = advantages.numpy(), mask.numpy() == 1
    gain = np.minimum(ratio * a, np.clip(ratio, 0.9, 1.1) * a)[valid].mean()
    kl = torch.distributions.kl_divergence(
        *(
            torch.distributions.Normal(d.mean, d.log_std.exp())
            for d in (sampling, policy(of, observations))
        )
    )
    kl = float(kl.sum(-1).detach()[valid].mean())
    assert support_kl == pytest.approx(kl)
    assert loss == pytest.approx(0.7 * kl - gain)
    outside = ((ratio < 0.9) | (ratio > 1.1))[valid].mean()
    assert clipped == pytest.approx(outside)
    assert 0 < outside < 1


def test_epochs_are_those_of_pytorchs_adam() -> None:
    _, objective, theta = problem()
    step = ProMP(learning_rate=0.02, epochs=4, kl_penalty=0.3, clip=0.05)
    found, state, stats = step.step(objective, theta, step.init(theta))
    reference = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Adam([reference], lr=0.02)
    for _ in range(4):
        values, reference.grad = objective.gradient_of(step.loss, reference.detach())
        optimizer.step()
    torch.testing.assert_close(found, reference.detach(), rtol=1e-9, atol=1e-12)
    assert state.step == 4
    assert float(stats["clipped"]) == float(values[1]) > 0
    assert float(stats["kl"]) == float(objective.loss_and_kl(found)[1]) > 0
    assert float(stats["loss_after"]) < 0


def test_without_inner_steps_it_is_ppo() -> None:
    _, objective, theta = problem(steps=0)
    plain, promp = PPO(), ProMP(kl_penalty=5.0)
    (one, _, stats), (other, _, _) = (
        s.step(objective, theta, s.init(theta)) for s in (plain, promp)
    )
    assert torch.equal(one, other)
    assert float(stats["support_kl"]) == 0


def test_proximal_steps_are_for_policies() -> None:
    data = {"data": {"source": "sinusoid"}, "outer": {"name": "promp"}}
    with pytest.raises(UserError, match=r"outer.name promp is for policies"):
        make_learner(parse([data]))


def test_exploration_credits_the_policy_before_adaptation() -> None:
    """E-MAML's term, against the score function written out."""
    learner, plain, theta = problem()
    explorer, objective, _ = problem(exploration=0.8)
    assert torch.equal(flatten(explorer.meta), theta)
    data = explorer.adaptation  # the same trajectories in both
    assert data is not learner.adaptation
    before, after = (o.loss_and_kl(theta) for o in (plain, objective))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    extra = objective.loss_gradient(theta)[1] - plain.loss_gradient(theta)[1]

    tasks = learner.family.sample_tasks(np.random.default_rng(0), 4)
    single = {name: p.float() for name, p in learner.meta.items()}
    rounds, _ = learner.adaptation.sample_and_adapt(
        single, tasks, [0.3], 5, Stream(0, Purpose.TRAIN_ROLLOUT)
    )
    support, query = (double(r.batch) for r in rounds)
    valid = query.mask == 1
    rewards = (query.rewards - query.rewards[valid].mean()) / query.rewards[valid].std(correction=0)
    expected = torch.zeros_like(theta)
    for m in range(4):
        credit = rewards[m][valid[m]].mean()
        leaves = {name: p.clone().requires_grad_() for name, p in learner.meta.items()}
        log_probs = learner.network(leaves, support.observations[m]).log_prob(support.actions[m])
        score = (log_probs * support.mask[m]).sum() / support.mask[m].sum()
        gradient = torch.autograd.grad(score, list(leaves.values()))
        expected -= 0.8 * credit / 4 * torch.cat([g.flatten() for g in gradient])
    torch.testing.assert_close(extra, expected, rtol=1e-5, atol=1e-7)
    own, _ = objective.gradient_of(PPO().loss, theta), None
    torch.testing.assert_close(own[1] - plain.gradient_of(PPO().loss, theta)[1], extra)


def test_the_schedule_counts_iterations_and_not_epochs() -> None:
    step = PPO(epochs=5, schedule="linear", schedule_iterations=10)
    for of in (int, torch.tensor):
        factors = [float(step.factor(of(done))) for done in (0, 4, 5, 25, 49, 50)]
        assert factors == pytest.approx([1.0, 1.0, 0.9, 0.5, 0.1, 0.0])
