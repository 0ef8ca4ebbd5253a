"""Sampling, losses and the learner, on the real families at toy size."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import get_args, get_type_hints

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from metarl.core.adapt import adapt
from metarl.core.algorithms import ALGORITHMS
from metarl.core.compile import Program, Traced
from metarl.core.networks import ACTIVATIONS
from metarl.core.outer.curvature import finite_difference_hvp, relative_difference
from metarl.core.params import Params, flatten, tree_map, unflatten
from metarl.core.task_map import TaskMap
from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.adaptation import of_every_task
from metarl.rl.baselines import LinearFeatureBaseline, Regression
from metarl.rl.diagnostics import Outcome, Sampled, return_metrics, sampling_metrics
from metarl.rl.distributions import Gaussian
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.rl.learner import MetaRLLearner, PolicyInnerConfig
from metarl.rl.losses import (
    INNER_LOSSES,
    Policy,
    Transitions,
    lvc_loss,
    mean_kl,
    reinforce_loss,
    surrogate_and_kl,
)
from metarl.rl.objective import AdaptedTask, for_curvature
from metarl.rl.policies import GaussianMLP
from metarl.rl.rollout import (
    AdvantageConfig,
    Trajectories,
    make_batch,
    pack,
)
from metarl.rl.sampler import Sampler, Stream
from metarl.runtime.seeding import Purpose, generator
from metarl_envs import BatchedEnv
from metarl_envs.registry import SIMULATED

STREAM = Stream(0, Purpose.TRAIN_ROLLOUT)


def toy_learner(family: str = "point-navigation", horizon: int = 12, **settings) -> MetaRLLearner:
    defaults = {
        "env": {"family": family, "horizon": horizon},
        "policy": {"name": "gaussian-mlp", "hidden_sizes": [8, 8]},
        "tasks": 4,
        "trajectories": 5,
        "threads": 1,
        "outer": {"name": "trpo", "curvature_fraction": 1},
        "evaluation": PolicyEvaluationConfig(tasks=6, trajectories=4),
    }
    return make_learner(RLExperiment(**(defaults | settings)))


def sampled(learner: MetaRLLearner, tasks: int = 4, trajectories: int = 5):
    config = learner.config
    rows = learner.family.sample_tasks(np.random.default_rng(0), tasks)
    return learner.adaptation.sample_and_adapt(
        learner.meta, rows, config.inner.alphas, trajectories, STREAM
    )[0]


def theta_of(learner: MetaRLLearner, tasks: int) -> Params:
    """theta of every task, [M, ...]."""
    theta, _ = learner.adaptation.inner.split(learner.meta, [])
    return of_every_task(theta, tasks)


def policy_of(learner: MetaRLLearner) -> Policy:
    return learner.adaptation.sampler.policy


def outcome_of(trajectories: Trajectories) -> Outcome:
    zeros = torch.zeros(len(trajectories.mask))
    return Sampled({}, trajectories, trajectories, zeros).outcome()


def made(program: Program) -> int:
    """How many programs there are of a function, one for each shape."""
    assert None not in program._programs.values()
    return len(program._programs)


def double(tree):
    return tree_map(lambda x: x.double(), tree)


def task(tree, index: int):
    return tree_map(lambda x: x[index], tree)


# --- sampler


@pytest.mark.parametrize("family", SIMULATED)
def test_every_task_gets_exactly_n_trajectories_of_its_own_policy(family: str) -> None:
    learner = toy_learner(family)
    support, _ = sampled(learner)
    trajectories: Trajectories = support.trajectories
    assert trajectories.mask.shape == (4, 5, 12)
    assert (trajectories.lengths >= 1).all()
    # an episode is one block of valid env steps from the start
    assert (trajectories.mask.diff(dim=-1) <= 0).all()
    for x in trajectories._replace(success=torch.zeros(4, 5)):  # it is NaN where not defined
        for leaf in x if isinstance(x, tuple) else (x,):
            assert torch.isfinite(leaf).all()
    padding = trajectories.mask == 0
    assert (trajectories.rewards[padding] == 0).all()
    ended_early = trajectories.lengths < 12
    terminated = (trajectories.discounts * trajectories.mask + (1 - trajectories.mask) == 0).any(-1)
    assert torch.equal(terminated & ended_early, ended_early), "only termination ends it early"


@pytest.mark.parametrize("trajectories", [3, 4])
def test_trajectories_do_not_depend_on_the_other_tasks_on_threads_or_on_tracing(
    trajectories: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = toy_learner("half-cheetah-velocity")
    family, policy = learner.family, policy_of(learner)
    tasks = family.sample_tasks(np.random.default_rng(0), 3)
    phi = {n: torch.stack([p, 2 * p, 3 * p]) for n, p in learner.meta.items()}

    def collect(count: int, threads: int) -> Trajectories:
        sampler = Sampler(partial(BatchedEnv, family), policy, 12, threads)
        return sampler.collect(task_slice(phi, count), tasks[:count], trajectories, STREAM)

    def task_slice(params: Params, count: int) -> Params:
        return {n: p[:count] for n, p in params.items()}

    everything = collect(3, 1)
    assert torch.equal(everything.rewards, collect(3, 2).rewards)
    assert torch.equal(everything.rewards[:2], collect(2, 1).rewards)
    assert torch.equal(everything.rewards[:1], collect(1, 1).rewards)
    assert not torch.allclose(everything.rewards[0], everything.rewards[1])
    monkeypatch.setattr(Traced, "from_call", 3)
    for count, threads in ((3, 1), (3, 2), (1, 1)):
        assert torch.equal(everything.rewards[:count], collect(count, threads).rewards)


@pytest.mark.needs_compiler
def test_compiled_policies_act_alike_whatever_other_tasks_and_threads_there_are() -> None:
    settings = {"name": "gaussian-mlp", "hidden_sizes": [20, 20], "activation": "tanh"}
    learner = toy_learner("half-cheetah-velocity", policy=settings)
    family = learner.family
    tasks = family.sample_tasks(np.random.default_rng(0), 3)
    theta = theta_of(learner, 3)
    phi = {n: p * torch.arange(1, 4).reshape(3, *[1] * (p.dim() - 1)) for n, p in theta.items()}
    make_env = partial(BatchedEnv, family)
    alone, halves = (
        Sampler(make_env, policy_of(learner), 12, threads, compiled=True) for threads in (1, 2)
    )

    def collect(sampler: Sampler, count: int) -> Trajectories:
        of_tasks = {n: p[:count] for n, p in phi.items()}
        return sampler.collect(of_tasks, tasks[:count], 3, STREAM)

    everything = collect(alone, 3)
    assert torch.equal(everything.actions, collect(halves, 3).actions)
    assert torch.equal(everything.actions[:1], collect(alone, 1).actions)
    # Physics amplifies the last bits: only the first env steps stay the same.
    traced = collect(Sampler(make_env, policy_of(learner), 12), 3)
    first = everything.actions[:, :, :3], traced.actions[:, :, :3]
    torch.testing.assert_close(*first, rtol=1e-3, atol=1e-3)
    assert made(alone.act) == made(halves.act) == 2


def test_streams_are_repeatable_and_differ() -> None:
    learner = toy_learner()
    phi = theta_of(learner, 2)
    tasks = np.zeros((2, 2)) + 0.3

    def rewards(stream: Stream) -> Tensor:
        return learner.adaptation.sampler.collect(phi, tasks, 3, stream).rewards

    base = rewards(STREAM)
    assert torch.equal(base, rewards(STREAM))
    for other in (
        STREAM._replace(seed=1),
        STREAM._replace(iteration=1),
        STREAM._replace(inner_step=1),
        STREAM._replace(purpose=Purpose.EVALUATION_ROLLOUT),
    ):
        assert not torch.equal(base, rewards(other))
    assert not torch.equal(base[0], base[1]), "tasks draw different noise"


def test_actions_follow_the_sampling_distribution() -> None:
    learner = toy_learner(policy={"name": "gaussian-mlp", "hidden_sizes": [8], "init_std": 0.3})
    trajectories = learner.adaptation.sampler.collect(
        theta_of(learner, 2), np.full((2, 2), 0.4), 200, STREAM
    )
    z = (trajectories.actions - trajectories.sampling.mean) / 0.3
    z = z[trajectories.mask.bool()]
    assert abs(float(z.mean())) < 4 / np.sqrt(z.numel())
    assert float(z.std()) == pytest.approx(1, abs=0.02)


# --- batches


def test_advantages_are_standardised_per_task_over_valid_env_steps() -> None:
    learner = toy_learner("ant-direction", horizon=60)
    support, _ = sampled(learner)
    for m in range(4):
        valid = support.batch.advantages[m][support.batch.mask[m].bool()]
        assert float(valid.mean()) == pytest.approx(0, abs=1e-5)
        assert float(valid.std(unbiased=False)) == pytest.approx(1, abs=1e-4)


def padded(trajectories: Trajectories, extra: int) -> Trajectories:
    def pad(x: Tensor) -> Tensor:  # the time axis is the third
        return torch.cat([x, torch.zeros_like(x[:, :, :1]).expand(-1, -1, extra, *x.shape[3:])], 2)

    return Trajectories(*(tree_map(pad, field) for field in trajectories[:7]), *trajectories[7:])


def test_padding_changes_nothing() -> None:
    """Advantages, losses and gradients of a batch with 7 more columns of padding are the same."""
    learner = toy_learner("ant-direction", horizon=60)
    _, query = sampled(learner)
    trajectories = double(query.trajectories)
    assert (trajectories.mask == 0).any(), "episodes of different lengths"
    config = AdvantageConfig(bootstrap=True, gae_lambda=0.9)
    fitted = LinearFeatureBaseline(), (), learner.adaptation.task_map
    plain, explained, _ = make_batch(trajectories, config, *fitted)
    more, explained_more, _ = make_batch(padded(trajectories, 7), config, *fitted)
    assert (plain.mask.sum(1) == trajectories.lengths.sum(1)).all(), "every env step"
    torch.testing.assert_close(more, plain)
    torch.testing.assert_close(explained, explained_more)
    params = double(learner.meta)
    for loss in (reinforce_loss, lvc_loss, mean_kl):
        values = []
        for batch in (plain, more):
            leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
            value = loss(policy_of(learner), leaves, task(batch, 1))
            grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
            values.append((value, torch.cat([g.flatten() for g in grads])))
        torch.testing.assert_close(values[0], values[1])


def constant_world(terminated: bool) -> Trajectories:
    """One task, two episodes of four env steps with reward -1 that never leave one state."""
    ones, zeros = torch.ones(1, 2, 4).double(), torch.zeros(1, 2, 4, 1).double()
    discounts = ones.clone()
    discounts[..., -1] = 0 if terminated else 1
    return Trajectories(
        observations=zeros,
        actions=zeros,
        sampling=Gaussian(zeros, zeros),
        log_probs=zeros[..., 0],
        rewards=-ones,
        discounts=discounts,
        mask=ones,
        final_observations=zeros[:, :, 0],
        diverged=zeros[:, :, 0, 0],
        success=zeros[:, :, 0, 0],
    )


def test_bootstrap_lets_an_episode_that_was_cut_off_go_on() -> None:
    """gamma = 1/2, reward -1 for ever: V = -2 in every state, and no action has an advantage."""
    tails = torch.tensor([[[0.0625, 0.125, 0.25, 0.5]] * 2]).double()
    returns = torch.tensor([[[-1.875, -1.75, -1.5, -1.0]] * 2]).double()
    world, times = constant_world(False), torch.zeros(1, 2, 4)
    data = Regression(
        world.observations,
        times,
        world.mask,
        returns,
        tails,
        world.final_observations,
        times[..., 0],
    )
    (values, final), _ = LinearFeatureBaseline(ridge=1e-9).fit((), data, TaskMap())
    torch.testing.assert_close(values, torch.full((1, 2, 4), -2.0).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(final, torch.full((1, 2), -2.0).double(), atol=1e-5, rtol=0)


def test_a_terminated_episode_does_not_go_on() -> None:
    """Returns to go of -(4, 3, 2, 1) with discount 1, whatever the value of the last state."""
    config = AdvantageConfig(discount=1.0, bootstrap=True)
    advantages = make_batch(constant_world(True), config, LinearFeatureBaseline(), (), TaskMap())[
        0
    ].advantages[0, :4]
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5]).double() / 1.25**0.5
    torch.testing.assert_close(advantages, expected, atol=1e-6, rtol=0)


# --- divergence


def test_a_diverged_episode_counts_for_nothing() -> None:
    """Its return, cut short, would be the best of all where rewards are negative."""

    class Breaking(BatchedEnv):
        def step(self, action):
            step = super().step(action)
            first = np.zeros(self.shape, dtype=bool)
            first[0, 0] = self._episode_steps.max() == 3
            return step._replace(diverged=step.diverged | first)

    learner = toy_learner("half-cheetah-velocity")
    family = learner.family
    sampler = Sampler(partial(Breaking, family), policy_of(learner), family.horizon)
    phi, tasks = theta_of(learner, 2), np.ones((2, 1))
    broken = sampler.collect(phi, tasks, 3, STREAM)
    whole = learner.adaptation.sampler.collect(phi, tasks, 3, STREAM)
    assert broken.diverged.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert broken.mask[0, 0].sum() == 0
    assert torch.isnan(broken.returns[0, 0])
    assert torch.equal(broken.returns[0, 1:], whole.returns[0, 1:])
    metrics = return_metrics(outcome_of(broken), "after")
    kept = torch.stack([whole.returns[0, 1:].mean(), whole.returns[1].mean()])
    assert metrics["return/after"] == pytest.approx(float(kept.mean()))


def test_packing_keeps_every_env_step_in_order() -> None:
    learner = toy_learner("ant-direction", horizon=60)
    support, _ = sampled(learner)
    mask = support.trajectories.mask
    assert support.batch.mask.shape[1] == int(mask.sum((1, 2)).max()) < 5 * 60
    for m in range(4):
        kept = support.batch.observations[m][support.batch.mask[m].bool()]
        assert torch.equal(kept, support.trajectories.observations[m][mask[m].bool()])


# --- losses


SUPERVISED_ONLY = {"reptile", "maml++", "imaml"}


def pairs(algorithms: Iterable[str]) -> list[tuple[str, str]]:
    """Every algorithm with one inner loss, and every inner loss with one algorithm."""
    with_dice = [(algorithm, "dice") for algorithm in algorithms]
    return [*with_dice, *(("maml", loss) for loss in INNER_LOSSES if loss != "dice")]


@pytest.mark.parametrize(
    ("algorithm", "loss"), pairs(name for name in ALGORITHMS if name not in SUPERVISED_ONLY)
)
@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.05]])
def test_ratio_is_one_and_kl_zero_at_the_sampling_policy(algorithm, loss, rates) -> None:
    inner = PolicyInnerConfig(algorithm=algorithm, loss=loss, steps=len(rates), rates=rates)
    learner = toy_learner("half-cheetah-velocity", inner=inner)
    *support, query = sampled(learner)
    problem = learner.objective([s.batch for s in support], query.batch)
    (surrogate, kl), gradient = problem.loss_gradient(flatten(learner.meta))
    assert abs(kl) < 1e-10
    assert abs(surrogate) < 1e-6, "the mean of standardised advantages at ratio one"
    kl_gradient = learner.outer.kl_gradient(problem)(flatten(learner.meta))
    assert float(kl_gradient.norm()) < 1e-3 * float(gradient.norm())
    new = policy_of(learner)(task(query.phi, 0), query.batch.observations[0])
    ratio = torch.exp(new.log_prob(query.batch.actions[0]) - query.batch.log_probs[0])
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_kl_is_from_the_sampling_to_the_new_policy() -> None:
    learner = toy_learner()
    support, _ = sampled(learner)
    batch: Transitions = task(double(support.batch), 0)
    params = double(learner.meta)
    params["log_std"] = params["log_std"] - 0.7
    params["head.bias"] = params["head.bias"] + 0.3
    new = policy_of(learner)(params, batch.observations)
    old, new = (Independent(Normal(g.mean, g.log_std.exp()), 1) for g in (batch.sampling, new))
    valid = batch.mask.bool()
    expected = kl_divergence(old, new)[valid].mean()
    assert not torch.allclose(expected, kl_divergence(new, old)[valid].mean(), rtol=0.1)
    torch.testing.assert_close(mean_kl(policy_of(learner), params, batch), expected)
    surrogate, kl = surrogate_and_kl(policy_of(learner), params, batch)
    torch.testing.assert_close(kl, expected)
    ratio = (new.log_prob(batch.actions) - old.log_prob(batch.actions)).exp()
    torch.testing.assert_close(surrogate, -(ratio * batch.advantages)[valid].mean())


def test_padding_cannot_overflow_the_ratio() -> None:
    learner = toy_learner("ant-direction", horizon=60)
    support, _ = sampled(learner)
    batch: Transitions = task(support.batch, int(support.batch.mask.sum(1).argmin()))
    assert (batch.mask == 0).any()
    narrow = learner.meta | {"log_std": torch.full((8,), -50.0)}
    batch = batch._replace(
        actions=policy_of(learner)(
            narrow, batch.observations
        ).mean,  # keeps the ratio of the others
        log_probs=torch.zeros_like(batch.log_probs),
    )
    batch = batch._replace(
        log_probs=policy_of(learner)(narrow, batch.observations).log_prob(batch.actions)
        * batch.mask
    )
    for loss in (lvc_loss, surrogate_and_kl):
        assert torch.isfinite(loss(policy_of(learner), narrow, batch)).all()


def test_surrogate_gradient_is_the_policy_gradient_at_the_sampling_policy() -> None:
    learner = toy_learner()
    support, _ = sampled(learner)
    batch: Transitions = task(double(support.batch), 0)
    theta = double(learner.meta)
    batch = batch._replace(
        log_probs=policy_of(learner)(theta, batch.observations).log_prob(batch.actions)
    )

    def gradient(loss) -> Tensor:
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        value = loss(policy_of(learner), leaves, batch)
        value = value[0] if value.ndim else value
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(leaves.values()))])

    torch.testing.assert_close(gradient(surrogate_and_kl), gradient(reinforce_loss))
    torch.testing.assert_close(gradient(lvc_loss), gradient(reinforce_loss))


def test_lvc_differs_from_reinforce_in_the_meta_gradient_only() -> None:
    problems = {}
    for loss in ("reinforce", "lvc"):
        learner = toy_learner(inner=PolicyInnerConfig(loss=loss))
        support, query = sampled(learner)
        problem = learner.objective([support.batch], query.batch)
        problems[loss] = (query.phi, problem.loss_gradient(flatten(learner.meta))[1])
    for name, p in problems["lvc"][0].items():
        torch.testing.assert_close(p, problems["reinforce"][0][name], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(problems["lvc"][1], problems["reinforce"][1], rtol=1e-2)


@pytest.mark.parametrize("loss", INNER_LOSSES)
def test_lvc_estimates_the_known_meta_gradient_of_a_gaussian_bandit(loss: str) -> None:
    """Actions from N(theta, 1), reward -(a - g)^2 / 2, one inner step, real samples.

    In expectation phi = theta - alpha (theta - g), and the gradient of the return of phi is
    (1 - alpha)^2 (theta - g). REINFORCE's inner loss forgets that its data came from theta and
    gives another factor for d phi / d theta, by far.
    """
    theta, goal, alpha, n = 0.8, -0.4, 0.3, 400_000
    generator = torch.Generator().manual_seed(0)

    def policy(params: Params, observations: Tensor) -> Gaussian:
        mean = params["mean"].expand(*observations.shape[:-1], 1)
        return Gaussian(mean, torch.zeros_like(mean))

    def batch_of(mean: float) -> Transitions:
        z = torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
        sampling = Gaussian(torch.full_like(z, mean), torch.zeros_like(z))
        rewards = -((mean + z - goal) ** 2)[..., 0] / 2
        ones = torch.ones_like(rewards)
        return Transitions(
            *(z, mean + z, rewards, sampling, sampling.log_prob(mean + z), ones),
            *(ones, ones, rewards, ones),
        )

    support, query = batch_of(theta), batch_of(theta - alpha * (theta - goal))
    leaf = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    inner = partial(INNER_LOSSES[loss], policy)
    phi = adapt(inner, {"mean": leaf}, [{"mean": alpha}], [support])
    (gradient,) = torch.autograd.grad(surrogate_and_kl(policy, phi, query)[0], leaf)
    exact = (1 - alpha) ** 2 * (theta - goal)
    assert (abs(float(gradient) - exact) < 0.02) == (loss != "reinforce")


# --- the outer problem


INNER_HESSIANS = ["finite-difference", "exact"]
DIFFERENTIABLE_TWICE = [n for n, a in ALGORITHMS.items() if not (a.first_order or a.implicit)]


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "anil", "boil", "meta-sgd"])
@pytest.mark.parametrize(
    ("steps", "inner_hessian"), [(1, "exact"), (2, "exact"), (2, "finite-difference")]
)
def test_outer_gradient_equals_finite_differences_in_float64(
    algorithm: str, steps: int, inner_hessian: str
) -> None:
    """Through sampling data, the inner loss, adapt, the surrogate and the mean over tasks."""
    learner = toy_learner(
        inner=PolicyInnerConfig(algorithm=algorithm, steps=steps, rate=0.5),
        outer={
            "name": "trpo",
            "curvature_fraction": 1,
            "inner_hessian": inner_hessian,
            "hvp_epsilon": 1e-7,
        },
    )
    *support, query = sampled(learner)
    learner.meta = double(learner.meta)
    problem = learner.objective([double(s.batch) for s in support], double(query.batch))
    theta = flatten(learner.meta)
    # away from the sampling policy, so that the KL's gradient is not zero
    theta = theta + 0.05 * torch.randn(len(theta), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(5, len(theta), generator=torch.Generator().manual_seed(1)).double()
    epsilon = 1e-6
    gradients = (problem.loss_gradient(theta)[1], learner.outer.kl_gradient(problem)(theta))
    for v in direction:
        high, low = (
            problem.loss_and_kl(theta + epsilon * v),
            problem.loss_and_kl(theta - epsilon * v),
        )
        for index, gradient in enumerate(gradients):
            numerical = float(high[index] - low[index]) / (2 * epsilon)
            agrees = float(gradient @ v) == pytest.approx(numerical, rel=1e-5, abs=1e-8)
            assert agrees == (algorithm != "fomaml"), "FOMAML alone drops the second-order term"


@pytest.mark.parametrize(("algorithm", "loss"), pairs(DIFFERENTIABLE_TWICE))
@pytest.mark.parametrize("inner_hessian", INNER_HESSIANS)
def test_both_hvps_agree_and_are_symmetric(algorithm: str, loss: str, inner_hessian: str) -> None:
    inner = PolicyInnerConfig(algorithm=algorithm, loss=loss, rate=0.5)
    outer = {
        "name": "trpo",
        "curvature_fraction": 1,
        "inner_hessian": inner_hessian,
        "hvp_epsilon": 1e-6,
    }
    learner = toy_learner("half-cheetah-velocity", inner=inner, outer=outer)
    support, query = sampled(learner)
    learner.meta = double(learner.meta)
    problem = learner.objective([double(support.batch)], double(query.batch))
    theta = flatten(learner.meta)
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, len(theta), generator=generator).double()
    product = finite_difference_hvp(
        learner.outer.kl_gradient(problem), theta, epsilon=1e-5, symmetric=True
    )
    assert relative_difference(product(v), problem.kl_hvp(theta, v)) < 1e-4
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-3)


def test_the_gradient_of_an_own_loss_is_that_of_the_same_surrogate() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(algorithm="meta-sgd", steps=2))
    *support, query = sampled(learner)
    objective, theta = (
        learner.objective([s.batch for s in support], query.batch),
        flatten(learner.meta),
    )

    def own(task: AdaptedTask) -> Tensor:
        return surrogate_and_kl(task.policy, task.phi, task.query)

    expected, found = objective.loss_gradient(theta), objective.gradient_of(own, theta)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_fomaml_uses_the_exact_product() -> None:
    """Finite differences of its gradient are no Hessian; the exact product is one."""
    learner = toy_learner(inner=PolicyInnerConfig(algorithm="fomaml", rate=0.5))
    support, query = sampled(learner)
    problem = learner.objective([support.batch], query.batch)
    theta = flatten(learner.meta)
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, len(theta), generator=generator)
    uhv, vhu = u @ problem.kl_hvp(theta, v), v @ problem.kl_hvp(theta, u)
    assert float(uhv) == pytest.approx(float(vhu), rel=1e-3)
    metrics = learner.iterate(0)
    assert metrics["outer/accepted"] == 1
    assert "outer/hvp_error" not in metrics


@pytest.mark.parametrize("symmetric", [False, True])
def test_finite_difference_hvp_equals_the_exact_one_and_the_dense_hessian(symmetric: bool) -> None:
    learner = toy_learner(policy={"name": "gaussian-mlp", "hidden_sizes": [4]})
    support, query = sampled(learner)
    learner.meta = double(learner.meta)
    data = (double(support.batch), double(query.batch))
    theta = flatten(learner.meta)
    # the KL's gradient is exactly zero where the sampling distribution is recomputed in float64
    phi = [learner.adaptation.inner.adapt(learner.meta, [task(data[0], m)]) for m in range(4)]
    dists = [policy_of(learner)(p, data[1].observations[m]) for m, p in enumerate(phi)]
    exact_sampling = type(dists[0])(
        torch.stack([d.mean for d in dists]), torch.stack([d.log_std for d in dists])
    )
    problem = learner.objective([data[0]], data[1]._replace(sampling=exact_sampling))

    def mean_kl_of(vector: Tensor) -> Tensor:
        meta = unflatten(vector, learner.meta)
        batch = data[1]._replace(sampling=exact_sampling)
        kls = [
            mean_kl(
                policy_of(learner),
                learner.adaptation.inner.adapt(meta, [task(data[0], m)]),
                task(batch, m),
            )
            for m in range(4)
        ]
        return torch.stack(kls).mean()

    hessian = torch.autograd.functional.hessian(mean_kl_of, theta)
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(problem.kl_hvp(theta, v), hessian @ v)
    approximate = finite_difference_hvp(problem.kl_gradient, theta, 1e-5, symmetric=symmetric)
    assert relative_difference(approximate(v), hessian @ v) < 1e-3


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "anil", "meta-sgd"])
def test_inner_hessian_is_of_the_curvature_products_alone(algorithm: str) -> None:
    """Seen with a difference so coarse that it shows."""
    problems, gradients = [], []
    for inner_hessian in INNER_HESSIANS:
        learner = toy_learner(
            inner=PolicyInnerConfig(algorithm=algorithm, rate=0.5),
            outer={
                "name": "trpo",
                "curvature_fraction": 1,
                "inner_hessian": inner_hessian,
                "hvp_epsilon": 0.1,
            },
        )
        support, query = sampled(learner)
        problems.append(learner.objective([support.batch], query.batch))
        gradients.append(learner.outer.kl_gradient(problems[-1]))
    theta = flatten(learner.meta)
    theta = theta + 0.05 * torch.randn(len(theta), generator=torch.Generator().manual_seed(0))
    coarse, exact = problems
    assert torch.equal(coarse.loss_and_kl(theta), exact.loss_and_kl(theta))
    assert torch.equal(coarse.loss_gradient(theta)[1], exact.loss_gradient(theta)[1])
    assert torch.equal(coarse.kl_hvp(theta, theta), exact.kl_hvp(theta, theta))
    difference = relative_difference(*(gradient(theta) for gradient in gradients))
    assert (difference > 1e-4) == (algorithm in ("maml", "meta-sgd"))
    assert (difference == 0) == (algorithm in ("fomaml", "anil"))


def test_loop_vmap_and_threads_agree() -> None:
    results = []
    for settings in (
        {"threads": 1},
        {"chunk_size": 1, "threads": 2},
        {"chunk_size": 2, "threads": 1},
        {"chunk_size": 4, "threads": 2},
    ):
        outer = {"name": "trpo", "curvature_fraction": 0.1}
        learner = toy_learner("hopper-params", horizon=60, outer=outer, **settings)
        state = learner.state_dict()
        metrics = learner.iterate(0)
        results.append((flatten(learner.meta), metrics["outer/kl"]))
        learner.load_state_dict(state)
        learner.iterate(0)
        assert torch.equal(flatten(learner.meta), results[-1][0])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.needs_compiler
def test_training_is_compiled_and_evaluations_are_not() -> None:
    """On a family whose episodes end early, so that programs see padded data."""
    settings = {"horizon": 60, "outer": {"name": "trpo", "curvature_fraction": 0.1}}
    plain, compiled = (
        toy_learner("ant-direction", **settings, threads=threads, compile=threads == 2)
        for threads in (1, 2)
    )
    state = plain.state_dict()

    results = []
    support, query = sampled(plain)
    (rate,) = plain.adaptation.inner.split(plain.meta, [0.1])[1]
    for learner in (plain, compiled):
        phi = learner.adaptation.step(theta_of(learner, 4), rate, support.batch)
        objective = learner.objective([support.batch], query.batch)
        theta, _, stats = learner.outer.step(objective, flatten(learner.meta), ())
        results.append((phi, theta, stats["kl"]))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)

    metas = []
    for _ in range(2):
        compiled.load_state_dict(state)
        compiled.iterate(0)
        metas.append(flatten(compiled.meta))
    assert torch.equal(*metas)
    kinds = [kind for kind, _ in compiled.adaptation.task_map._programs]
    assert sorted(kinds) == ["gradient", "gradient", "map", "mean"]
    programs = [compiled.adaptation.sampler.act, *compiled.adaptation.task_map._programs.values()]
    numbers = [made(program) for program in programs]
    assert min(numbers) > 0

    plain.load_state_dict(compiled.state_dict())
    assert np.array_equal(plain.evaluate(1).scores, compiled.evaluate(1).scores)
    assert [made(program) for program in programs] == numbers
    assert not plain.adaptation.task_map._programs


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    ("algorithm", "loss", "chunk_size"),
    [("anil", "reinforce", 1), ("meta-sgd", "lvc", 1), ("meta-sgd", "reinforce", 2)],
)
def test_compiled_inner_steps_are_those_before(algorithm: str, loss: str, chunk_size: int) -> None:
    config = PolicyInnerConfig(algorithm=algorithm, loss=loss, steps=2)
    learner = toy_learner(inner=config, compile=True, chunk_size=chunk_size)
    support = sampled(learner)[0].batch
    phi = expected = theta_of(learner, 4)
    plain = learner.evaluator.adaptation
    for rate in learner.adaptation.inner.split(learner.meta, config.alphas)[1]:
        phi = learner.adaptation.step(phi, rate, support)
        expected = plain.step(expected, rate, support)
    (program,) = learner.adaptation.task_map._programs.values()
    assert made(program) == 1, "theta and phi have one layout"
    for name, p in expected.items():
        torch.testing.assert_close(phi[name], p, rtol=1e-4, atol=1e-5)
        assert torch.equal(p, theta_of(learner, 4)[name]) == (
            name not in learner.adaptation.inner.names
        )


@pytest.mark.parametrize(("steps", "size"), [(1, 8), (8, 8), (9, 16), (57, 60), (60, 60)])
def test_programs_are_for_few_sizes(steps: int, size: int) -> None:
    """60 env steps in 8 sizes: multiples of 8, and all."""
    learner = toy_learner()
    support, query = sampled(learner)
    long = tree_map(lambda x: x.reshape(4, 5, 12, *x.shape[2:]), query.batch)
    some = (torch.arange(60) < steps).reshape(5, 12).expand(4, 5, 12).float()
    tight, wide = (pack(long._replace(mask=some), buckets) for buckets in (None, 8))
    assert tight.mask.shape == (4, steps)
    assert wide.mask.shape == (4, size)
    assert wide.observations.shape == (4, size, 2)
    assert (wide.mask[:, steps:] == 0).all()
    theta = flatten(learner.meta)
    values = [learner.objective([support.batch], b).loss_and_kl(theta) for b in (tight, wide)]
    torch.testing.assert_close(*values, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.01, 0.07, 0.1, 0.4, 0.56, 0.99])
def test_curvature_comes_from_env_steps_spread_over_all(fraction: float) -> None:
    """One of every stretch of 1 / fraction, and over trajectories at all moments alike."""
    learner = toy_learner(
        outer={"name": "trpo", "curvature_fraction": fraction}, trajectories=40, horizon=10
    )
    _, query = sampled(learner, trajectories=40)
    numbered = query.batch._replace(mask=torch.arange(400.0).expand(4, -1))
    kept = for_curvature(numbered, fraction).mask[0]
    assert abs(len(kept) - 400 * fraction) <= 1
    longer = tree_map(lambda x: torch.cat([x, x[:, :7]], 1), numbered)
    longer = longer._replace(mask=torch.arange(407.0).expand(4, -1))
    of_longer = for_curvature(longer, fraction).mask[0]
    assert torch.equal(of_longer[of_longer < 400], kept), "whatever the other tasks' lengths"
    stretch = torch.arange(len(kept)).double() / fraction
    assert (kept >= stretch.floor() - 1e-9).all()
    assert (kept <= stretch + 1 / fraction).all()
    if fraction == 0.1:
        moments = torch.bincount((kept % 10).long(), minlength=10)
        assert moments.min() >= 3
        assert moments.max() <= 5
    theta = flatten(learner.meta)
    support, query = sampled(learner)
    problem = learner.objective([support.batch], query.batch)
    cut = for_curvature(query.batch, fraction)
    expected = toy_learner().objective([support.batch], cut)
    torch.testing.assert_close(problem.kl_gradient(theta, fraction), expected.kl_gradient(theta))


# --- iterating


def test_iterations_and_inner_steps_draw_their_own_tasks_and_noise() -> None:
    learner = toy_learner("half-cheetah-velocity", inner=PolicyInnerConfig(steps=2))
    seen, streams = [], []
    collect = learner.adaptation.sampler.collect

    def recording(phi, tasks, trajectories, stream, **other):
        seen.append(tasks.copy())
        streams.append(stream)
        return collect(phi, tasks, trajectories, stream, **other)

    learner.adaptation.sampler.collect = recording  # type: ignore[method-assign]
    for iteration in (0, 1):
        learner.iterate(iteration)
    assert all(np.array_equal(seen[0], tasks) for tasks in seen[:3]), "one set per iteration"
    assert not np.array_equal(seen[0], seen[3])
    assert len(set(streams)) == 6


def test_metrics_say_what_was_sampled() -> None:
    learner = toy_learner(
        "half-cheetah-velocity",
        policy={"name": "gaussian-mlp", "hidden_sizes": [8], "init_std": 0.5},
    )
    *support, query = sampled(learner)
    metrics = sampling_metrics([r.outcome() for r in (*support, query)])
    for name, trajectories in (("before", support[0].trajectories), ("after", query.trajectories)):
        returns = trajectories.rewards.sum(-1).double().numpy()
        assert metrics[f"return/{name}"] == pytest.approx(returns.mean())
        assert metrics[f"return/{name}_std"] == pytest.approx(returns.std())
        low, high = scipy.stats.t.interval(
            0.95, 3, loc=returns.mean(), scale=scipy.stats.sem(returns.mean(1))
        )
        assert metrics[f"return/{name}_ci95"] == pytest.approx((high - low) / 2)
    assert metrics["policy/std"] == pytest.approx(0.5)
    assert metrics["return/before"] != metrics["return/after"]
    full = toy_learner("half-cheetah-velocity").iterate(0)
    assert full["env_steps"] == 2 * 4 * 5 * 12, "support and query"


def test_inner_gradient_norm_is_that_of_the_inner_loss() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(rate=0.37))
    rounds = sampled(learner)
    norms = []
    for m in range(4):
        leaves = {n: p.clone().requires_grad_() for n, p in learner.meta.items()}
        value = learner.adaptation.inner.loss(leaves, task(rounds[0].batch, m))
        grads = torch.autograd.grad(value, list(leaves.values()))
        norms.append(torch.cat([g.flatten() for g in grads]).norm())
    measured = learner._inner_metrics(rounds)["inner/gradient_norm"]
    assert measured == pytest.approx(float(torch.stack(norms).mean()), rel=1e-3)


def test_metrics_of_the_inner_step_are_of_the_rates_that_it_was_taken_with() -> None:
    """Meta-SGD's rates change in the update that follows."""
    learner = toy_learner(inner=PolicyInnerConfig(algorithm="meta-sgd"))
    again = toy_learner(inner=PolicyInnerConfig(algorithm="meta-sgd"))
    tasks = again.family.sample_tasks(generator(0, Purpose.TRAIN_TASKS, 0), 4)
    alphas = again.config.inner.alphas
    rounds, _ = again.adaptation.sample_and_adapt(again.meta, tasks, alphas, 5, STREAM)
    metrics = learner.iterate(0)
    assert metrics["outer/accepted"] == 1
    assert metrics["inner/gradient_norm"] == again._inner_metrics(rounds)["inner/gradient_norm"]


def test_evaluation_starts_from_the_trained_rate() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(rates=[0.5], rate=0.1))
    assert learner.evaluate(0).inner_rates == [0.5, 0.25, 0.25]


def test_choices_of_the_config_are_the_rows_of_the_tables() -> None:
    hints = get_type_hints(PolicyInnerConfig)
    assert set(get_args(hints["algorithm"])) == set(ALGORITHMS) - SUPERVISED_ONLY
    assert set(get_args(get_type_hints(GaussianMLP.__init__)["activation"])) == set(ACTIVATIONS)


def test_update_stays_in_the_trust_region_and_improves_the_surrogate() -> None:
    learner = toy_learner(tasks=8, trajectories=10)
    before = flatten(learner.meta)
    metrics = learner.iterate(0)
    assert metrics["outer/accepted"] == 1
    assert metrics["outer/kl"] <= 0.01
    assert metrics["outer/loss_after"] < metrics["outer/loss_before"]
    assert not torch.equal(flatten(learner.meta), before)


def test_iterations_depend_on_nothing_but_state_and_settings() -> None:
    a, b = toy_learner(), toy_learner()
    for iteration in range(3):
        a.iterate(iteration)
    b.iterate(0)
    b.evaluate(1)  # evaluation leaves no trace
    other = toy_learner()
    other.load_state_dict(b.state_dict())
    for iteration in (1, 2):
        other.iterate(iteration)
    assert torch.equal(flatten(a.meta), flatten(other.meta))
    assert a.env_steps == other.env_steps


def test_state_of_another_policy_is_refused() -> None:
    state = toy_learner(policy={"name": "gaussian-mlp", "hidden_sizes": [9]}).state_dict()
    with pytest.raises(ValueError, match="expected"):
        toy_learner().load_state_dict(state)


def test_a_nan_policy_does_not_move_theta_and_is_counted() -> None:
    learner = toy_learner()
    learner.meta["head.bias"] = torch.full_like(learner.meta["head.bias"], torch.nan)
    metrics = learner.iterate(0)
    assert metrics["outer/accepted"] == 0
    assert metrics["outer/rejected_total"] == 1
    assert metrics["episodes/diverged"] == 2 * 4 * 5
    assert np.isnan(metrics["return/after"]), "not 0, which would be the best return of all"
    assert torch.isnan(learner.meta["head.bias"]).all()
    assert torch.isfinite(learner.meta["head.weight"]).all()


def test_evaluation_rounds_use_fresh_trajectories_and_halved_rates() -> None:
    learner = toy_learner()
    evaluation = learner.evaluate(0)
    assert evaluation.inner_rates == [0.1, 0.05, 0.05]
    assert evaluation.scores.shape == (4, 6)
    assert len(np.unique(evaluation.scores[:, 0])) == 4
    again = learner.evaluate(7)
    np.testing.assert_array_equal(evaluation.scores, again.scores)


def test_meta_training_beats_a_broken_gradient_by_far() -> None:
    """Point navigation, 15 small iterations: adaptation gains what an untrained policy cannot."""
    learner = toy_learner(
        horizon=30,
        policy={"name": "gaussian-mlp", "hidden_sizes": [32, 32]},
        tasks=10,
        trajectories=10,
        threads=2,
        inner=PolicyInnerConfig(rate=0.1),
        outer={"name": "trpo", "max_kl": 0.03, "cg_iterations": 4},
        evaluation=PolicyEvaluationConfig(tasks=20, trajectories=10, inner_steps=1),
    )
    first = learner.evaluate(0).scores.mean(1)
    for iteration in range(15):
        learner.iterate(iteration)
    last = learner.evaluate(15).scores.mean(1)
    assert last[1] - last[0] > 3 * abs(first[1] - first[0]), (first, last)
    assert last[1] > first[1] + 2, (first, last)


def test_config_of_rates_must_match_the_steps() -> None:
    with pytest.raises(ValueError, match="2 entries for 1 inner steps"):
        PolicyInnerConfig(rates=[0.1, 0.2])
    assert PolicyInnerConfig(rates=[0.1, 0.2], steps=2).alphas == [0.1, 0.2]
    assert dataclasses.replace(PolicyInnerConfig(), rate=0.3, steps=2).alphas == [0.3, 0.3]


def test_adapting_on_own_data_improves_the_surrogate() -> None:
    learner = toy_learner()
    support, _ = sampled(learner)
    batch = task(support.batch, 0)
    rates = [dict.fromkeys(learner.meta, 0.05)]
    phi = adapt(learner.adaptation.inner.loss, learner.meta, rates, [batch])
    assert surrogate_and_kl(policy_of(learner), phi, batch)[0] < -1e-4


def test_inner_kl_is_that_of_the_adapted_policy_from_the_sampling_one() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(rate=0.5))
    support, query = rounds = sampled(learner)
    policy = learner.adaptation.sampler.policy
    expected = []
    for m in range(4):
        batch = task(support.batch, m)
        adapted = policy({n: p[m] for n, p in query.phi.items()}, batch.observations)
        some = slice(None, None, 10)
        kl = kl_divergence(*map(normal, (batch.sampling, adapted)))
        expected.append((kl * batch.mask)[some].sum() / batch.mask[some].sum())
    measured = learner._inner_metrics(rounds)["inner/kl"]
    assert measured == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)
    assert measured > 0


def normal(gaussian: Gaussian) -> Independent:
    return Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 1)


def test_learned_rates_are_logged_by_parameter() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(algorithm="meta-sgd", rate=0.3))
    metrics = learner._inner_metrics(sampled(learner))
    rates = {name: value for name, value in metrics.items() if name.startswith("inner/rate/")}
    names = [name for name in learner.meta if ":" not in name]
    assert rates == {f"inner/rate/{name}": pytest.approx(0.3) for name in names}


def test_gain_and_returns_between_are_of_the_means_of_tasks() -> None:
    learner = toy_learner(inner=PolicyInnerConfig(rate=0.3, steps=2))
    rounds = sampled(learner)
    means = np.array([r.trajectories.returns.double().mean(1).numpy() for r in rounds])
    metrics = sampling_metrics([r.outcome() for r in rounds])
    gain = means[2] - means[0]
    assert metrics["return/gain"] == pytest.approx(gain.mean(), abs=1e-6)
    interval = scipy.stats.sem(gain) * scipy.stats.t.ppf(0.975, 3)
    assert metrics["return/gain_ci95"] == pytest.approx(interval, rel=1e-4)
    for k in range(3):
        assert metrics[f"return/after_{k}"] == pytest.approx(means[k].mean(), abs=1e-5)


def test_an_episode_succeeds_if_one_of_its_env_steps_does() -> None:
    learner = toy_learner(
        "point-navigation", env={"family": "point-navigation", "horizon": 12, "goal_tolerance": 0.2}
    )
    support, query = sampled(learner)
    for trajectories in (support.trajectories, query.trajectories):
        solved = (trajectories.discounts == 0) & (trajectories.mask == 1)
        assert torch.equal(trajectories.success, solved.any(-1).to(torch.float32))
    metrics = sampling_metrics([support.outcome(), query.outcome()])
    expected = float(support.trajectories.success.mean())
    assert 0 < expected < 1
    assert metrics["success/before"] == pytest.approx(expected)
    assert "success/before" not in sampling_metrics(
        [r.outcome() for r in sampled(toy_learner("half-cheetah-velocity"))]
    )
