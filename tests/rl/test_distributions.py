"""Action distributions: the Gaussian against PyTorch's, and what is no sound distribution."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from metarl.rl.distributions import Gaussian, require_distribution


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


def test_a_sound_distribution_is_accepted():
    require_distribution(gaussian())


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
