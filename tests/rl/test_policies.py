"""Distributions and the policy network, with torch.distributions as the judge."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Independent, Normal, kl_divergence

from metarl.core.params import Functional, parameters_of
from metarl.rl.distributions import Gaussian
from metarl.rl.policies import CategoricalCNN, CategoricalMLP, GaussianMLP, TanhGaussianMLP


def reference(gaussian: Gaussian) -> Independent:
    return Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 1)


def test_log_prob_and_kl_equal_torch_distributions() -> None:
    torch.manual_seed(0)
    a, b = (Gaussian(torch.randn(7, 3).double(), torch.randn(7, 3).double()) for _ in range(2))
    action = torch.randn(7, 3).double()
    torch.testing.assert_close(a.log_prob(action), reference(a).log_prob(action))
    torch.testing.assert_close(a.kl(b), kl_divergence(reference(a), reference(b)))
    assert torch.equal(a.kl(a), torch.zeros(7).double())


def seeded(seed: int, **settings) -> GaussianMLP:
    torch.manual_seed(seed)
    return GaussianMLP(VECTOR, CONTROL, **settings)


def test_policy_starts_with_the_given_std_and_weights_of_the_seed() -> None:
    policy, same, other = (seeded(s, hidden_sizes=[8, 8], init_std=0.5) for s in (1, 1, 2))
    gaussian = policy(torch.randn(5, 6, 4))
    assert gaussian.mean.shape == gaussian.log_std.shape == (5, 6, 2)
    torch.testing.assert_close(gaussian.log_std.exp(), torch.full((5, 6, 2), 0.5))
    assert torch.equal(policy.head.weight, same.head.weight)
    assert not torch.equal(policy.head.weight, other.head.weight)
    assert all(p.abs().sum() == 0 for n, p in policy.named_parameters() if n.endswith("bias"))


def test_std_is_clamped_inside_the_forward_pass() -> None:
    module = seeded(0, min_std=1e-3)
    params = parameters_of(module) | {"log_std": torch.full((2,), -50.0)}
    gaussian = Functional(module)(params, torch.randn(3, 4))
    torch.testing.assert_close(gaussian.log_std, torch.full((3, 2), math.log(1e-3)))


VECTOR, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 1, (7, 5, 3))
CONTROL, CHOICE = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)


@pytest.mark.parametrize(
    ("make", "observations", "actions"),
    [
        (GaussianMLP, VECTOR, CONTROL),
        (TanhGaussianMLP, VECTOR, CONTROL),
        (CategoricalMLP, VECTOR, CHOICE),
        (CategoricalCNN, IMAGE, CHOICE),
    ],
)
def test_a_policy_treats_every_observation_on_its_own(make, observations, actions) -> None:
    module = make(observations, actions).double()
    batch = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, *observations.shape)))
    of_all = module(batch)
    noise = torch.zeros(2, 6, of_all.noise_dim).double()
    assert of_all.sample(noise).shape == (2, 6, *actions.shape)
    one = module(batch[1, 4])
    for field, whole in zip(one, of_all, strict=True):
        torch.testing.assert_close(field, whole[1, 4])


@pytest.mark.parametrize(
    ("make", "observations", "actions", "said"),
    [
        (GaussianMLP, VECTOR, CHOICE, r"got Discrete\(3\); use categorical-mlp"),
        (GaussianMLP, IMAGE, CONTROL, "for vectors of numbers"),
        (CategoricalMLP, VECTOR, CONTROL, "for discrete actions, got .*; use gaussian-mlp"),
        (CategoricalCNN, VECTOR, CHOICE, "for images"),
    ],
)
def test_a_policy_of_other_spaces_is_refused(make, observations, actions, said) -> None:
    with pytest.raises(ValueError, match=said):
        make(observations, actions)
