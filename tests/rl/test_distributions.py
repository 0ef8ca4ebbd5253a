"""Action distributions: the Gaussian against PyTorch's, and what is no sound distribution."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as PyTorchCategorical
from torch.distributions import (
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from metarl.rl.distributions import Categorical, Gaussian, TanhGaussian, require_distribution


def gaussian(seed: int = 0, rows: int = 5, actions: int = 3) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = torch.randn(2, rows, actions, generator=generator, dtype=torch.float64)
    return Gaussian(mean, 0.5 * log_std)


def of_pytorch(distribution: Gaussian) -> Independent:
    return Independent(Normal(distribution.mean, distribution.log_std.exp()), 1)


def test_the_gaussian_is_pytorchs():
    one, other = gaussian(0), gaussian(1)
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    action = one.sample(noise)
    torch.testing.assert_close(action, one.mean + one.log_std.exp() * noise)
    torch.testing.assert_close(one.log_prob(action), of_pytorch(one).log_prob(action))
    torch.testing.assert_close(one.entropy(), of_pytorch(one).entropy())
    torch.testing.assert_close(one.kl(other), kl_divergence(of_pytorch(one), of_pytorch(other)))
    assert torch.equal(one.mode(), one.mean)
    torch.testing.assert_close(one.statistics()["std"], one.log_std.exp().mean(-1))
    assert one.noise_dim == 3


def categorical(seed: int = 0, rows: int = 5, actions: int = 4) -> Categorical:
    generator = torch.Generator().manual_seed(seed)
    return Categorical(torch.randn(rows, actions, generator=generator, dtype=torch.float64))


def test_the_categorical_is_pytorchs():
    one, other = categorical(0), categorical(1)
    theirs, their_other = (PyTorchCategorical(logits=x.logits) for x in (one, other))
    action = torch.tensor([0.0, 1.0, 2.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(one.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(one.entropy(), theirs.entropy())
    torch.testing.assert_close(one.kl(other), kl_divergence(theirs, their_other))
    assert torch.equal(one.mode(), theirs.mode.double())
    torch.testing.assert_close(one.statistics()["largest_probability"], theirs.probs.amax(-1))


def test_actions_of_a_categorical_are_as_frequent_as_they_are_probable():
    one = categorical(0, rows=1)
    noise = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    actions = Categorical(one.logits.expand(100_000, 4)).sample(noise)
    frequencies = torch.bincount(actions.long(), minlength=4) / 100_000
    assert (frequencies - one.probabilities[0]).abs().max() < 0.01
    extreme = Categorical(torch.zeros(2, 3)).sample(torch.tensor([[-40.0], [40.0]]))
    assert extreme.tolist() == [0.0, 2.0], "no noise leaves the actions"


def test_the_tanh_gaussian_is_pytorchs():
    base = gaussian(0)
    one, other = TanhGaussian(*base), TanhGaussian(*gaussian(1))
    theirs = TransformedDistribution(of_pytorch(base), TanhTransform())
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    action = one.sample(noise)
    assert action.abs().max() < 1
    torch.testing.assert_close(one.log_prob(action), theirs.log_prob(action))
    draws = torch.randn(200_000, 5, 3, generator=torch.Generator().manual_seed(3)).double()
    many = TanhGaussian(*(x.expand(200_000, 5, 3) for x in one))
    sampled = many.sample(draws)
    difference = many.log_prob(sampled) - TanhGaussian(
        *(x.expand(200_000, 5, 3) for x in other)
    ).log_prob(sampled)
    torch.testing.assert_close(one.kl(other), difference.mean(0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(one.entropy(), -many.log_prob(sampled).mean(0), rtol=0, atol=0.02)
    assert torch.isfinite(one.log_prob(torch.ones(5, 3, dtype=torch.float64))).all()


@pytest.mark.parametrize("found", [gaussian(), categorical(), TanhGaussian(*gaussian())])
def test_a_sound_distribution_is_accepted(found):
    require_distribution(found)
    require_distribution(type(found)(*(x.float() for x in found)))


class Wide(NamedTuple):
    """Samples of twice the standard deviation that its log-probabilities say."""

    mean: Tensor
    log_std: Tensor

    noise_dim = Gaussian.noise_dim
    mode, log_prob, kl = Gaussian.mode, Gaussian.log_prob, Gaussian.kl
    entropy, statistics = Gaussian.entropy, Gaussian.statistics

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + 2 * self.log_std.exp() * noise


class Summed(Wide):
    """One log-probability per action dimension."""

    sample = Gaussian.sample

    def log_prob(self, action: Tensor) -> Tensor:
        return -0.5 * (action - self.mean).square()


class Far(Wide):
    sample = Gaussian.sample

    def kl(self, other) -> Tensor:
        return 1 + 0 * self.mean.sum(-1)


class Undefined(Wide):
    """Not a number where all fields are zero, as they are in the padding."""

    sample = Gaussian.sample

    def entropy(self) -> Tensor:
        return (self.log_std / self.log_std).sum(-1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Wide, r"Wide.log_prob does not fit Wide.sample: .* log_std should be 0"),
        (Summed, r"Summed.log_prob should return one finite number per env step, got \(5, 3\)"),
        (Far, r"Far.kl of a distribution and itself should be 0"),
        (Undefined, r"Undefined.entropy should return one finite number"),
    ],
)
def test_an_unsound_distribution_is_refused(kind: type[Wide], message: str):
    with pytest.raises(ValueError, match=message):
        require_distribution(kind(*gaussian()))


@pytest.mark.parametrize("found", [torch.zeros(5, 3), (torch.zeros(5), torch.ones(5)), None])
def test_what_is_no_distribution_is_refused(found):
    with pytest.raises(ValueError, match="should return a Distribution"):
        require_distribution(found)


def test_a_broken_policy_is_refused():
    broken = gaussian()._replace(mean=torch.full((5, 3), torch.nan))
    with pytest.raises(ValueError, match=r"Gaussian.mean should be finite"):
        require_distribution(broken)
