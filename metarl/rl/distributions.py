"""Action distributions as named tuples of tensors, so that they pass through ``vmap`` and buffers.

The sampler, the losses and the diagnostics know ``Distribution`` only. To add a kind, write a
``NamedTuple`` of tensors with these methods and let a policy return it.
"""

import math
from functools import cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    """Distribution of the actions of a batch of env steps: a ``NamedTuple`` of tensors [..., D].

    Log-probabilities, divergences and entropies are in nats and summed over the parts of an action:
    one number per env step. With zeros in all fields, which fill the padding, they must be finite.
    """

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that one action takes."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return the actions [..., *action_shape] that the noise [..., noise_dim] stands for."""

    def mode(self) -> Tensor:
        """Return the most likely actions [..., *action_shape], or those of the mean."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log pi(a | s) of actions [..., *action_shape]: [...]."""

    def kl(self, other: Self) -> Tensor:
        """Return KL(self || other): [...]."""

    def entropy(self) -> Tensor:
        """Return the entropy: [...]."""

    def statistics(self) -> dict[str, Tensor]:
        """Return statistics, each [...]; means over env steps are logged as ``policy/NAME``."""

    def _replace(self, **fields: Any) -> Self: ...
    def _asdict(self) -> dict[str, Any]: ...


class Gaussian(NamedTuple):
    """Diagonal Gaussians."""

    mean: Tensor  # [..., A]
    log_std: Tensor  # [..., A]

    @property
    def noise_dim(self) -> int:
        return self.mean.shape[-1]

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + torch.exp(self.log_std) * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * z.square() + self.log_std + HALF_LOG_TWO_PI).sum(-1)

    def kl(self, other: "Gaussian") -> Tensor:
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (other.log_std - self.log_std + 0.5 * (ratio + distance - 1)).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + HALF_LOG_TWO_PI + 0.5).sum(-1)

    def statistics(self) -> dict[str, Tensor]:
        return {"std": torch.exp(self.log_std).mean(-1)}


class TanhGaussian(NamedTuple):
    """The hyperbolic tangent of diagonal Gaussians: actions in (-1, 1)."""

    mean: Tensor  # [..., A], of the Gaussian
    log_std: Tensor  # [..., A]

    @property
    def noise_dim(self) -> int:
        return self.mean.shape[-1]

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self._gaussian.sample(noise))

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        limit = 1 - torch.finfo(action.dtype).eps  # what rounds to 1 has no finite logarithm
        before = torch.atanh(action.clamp(-limit, limit))
        return self._gaussian.log_prob(before) - _log_slope(before).sum(-1)

    def kl(self, other: "TanhGaussian") -> Tensor:
        return self._gaussian.kl(other._gaussian)  # one invertible function of both

    def entropy(self) -> Tensor:
        """The Gaussian's entropy plus the mean log slope of tanh, by Gauss-Hermite quadrature."""
        nodes, weights = (self.mean.new_tensor(x) for x in _hermite())
        at = self.mean[..., None] + torch.exp(self.log_std)[..., None] * nodes
        return self._gaussian.entropy() + (_log_slope(at) * weights).sum((-2, -1))

    def statistics(self) -> dict[str, Tensor]:
        return self._gaussian.statistics()

    @property
    def _gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.log_std)


def _log_slope(x: Tensor) -> Tensor:
    """Return log(d tanh(x) / dx), without cancellation."""
    return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@cache
def _hermite() -> tuple[list[float], list[float]]:
    """Nodes and weights of means over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    return nodes.tolist(), (weights / weights.sum()).tolist()


class Categorical(NamedTuple):
    """One of K actions; an action is its number, as a floating-point one."""

    logits: Tensor  # [..., K], up to a constant

    @property
    def noise_dim(self) -> int:
        return 1

    def sample(self, noise: Tensor) -> Tensor:
        """Invert the distribution function at the normal CDF of the noise."""
        below = self.probabilities.cumsum(-1) < torch.special.ndtr(noise)
        return below.sum(-1).clamp(max=self.logits.shape[-1] - 1).to(self.logits)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits)

    def log_prob(self, action: Tensor) -> Tensor:
        logs = torch.log_softmax(self.logits, -1)
        return logs.gather(-1, action.long()[..., None]).squeeze(-1)

    def kl(self, other: "Categorical") -> Tensor:
        one, two = (torch.log_softmax(x.logits, -1) for x in (self, other))
        return (one.exp() * (one - two)).sum(-1)

    def entropy(self) -> Tensor:
        logs = torch.log_softmax(self.logits, -1)
        return -(logs.exp() * logs).sum(-1)

    def statistics(self) -> dict[str, Tensor]:
        return {"largest_probability": self.probabilities.amax(-1)}

    @property
    def probabilities(self) -> Tensor:
        """[..., K]"""
        return torch.softmax(self.logits, -1)


METHODS = ("noise_dim", "sample", "mode", "log_prob", "kl", "entropy", "statistics")
DRAWS = 4096
STANDARD_ERRORS = 7.0  # of a mean over DRAWS samples: one sound field in 10^11 is further off


def require_distribution(output: Any) -> None:
    """Check that a policy's output, with rows [R, ...], is a sound distribution.

    Among other things, the mean of the score grad log pi(a) over its own samples is zero: where it
    is not, log-probabilities do not fit the samples, and every policy gradient would be wrong.

    Raises:
        ValueError: it lacks a method, or a method returns something that does not fit.
    """
    kind = type(output).__name__
    if not (isinstance(output, tuple) and all(hasattr(output, name) for name in METHODS)):
        raise ValueError(
            f"the policy should return a Distribution, a NamedTuple with {', '.join(METHODS)}; "
            f"got {kind}"
        )
    distribution: Any = output
    fields = distribution._asdict()
    if not fields or not all(isinstance(x, Tensor) for x in fields.values()):
        raise ValueError(f"the fields of {kind} should be tensors")
    batch = next(iter(fields.values())).shape[:1]
    for name, x in fields.items():
        if x.dim() < 1 or x.shape[:1] != batch or not torch.isfinite(x).all():
            raise ValueError(f"{kind}.{name} should be finite, one row per env step, got {x.shape}")
    for each in (distribution, type(distribution)(*(torch.zeros_like(x) for x in fields.values()))):
        action = each.mode()
        for name, x in {
            "log_prob": each.log_prob(action),
            "kl": each.kl(each),
            "entropy": each.entropy(),
        }.items():
            if x.shape != batch or not torch.isfinite(x).all():
                raise ValueError(
                    f"{kind}.{name} should return one finite number per env step, got "
                    f"{tuple(x.shape)} for {batch[0]} of them"
                )
        if each.kl(each).abs().max() > 1e-4:
            raise ValueError(f"{kind}.kl of a distribution and itself should be 0")
    _require_score_of_mean_zero(output)


def _require_score_of_mean_zero(distribution: Any) -> None:
    """Raise ValueError unless log-probabilities are those of the samples, at the first row."""
    kind = type(distribution).__name__
    leaves = [x[:1].detach().double().requires_grad_() for x in distribution]
    of_draws = type(distribution)(*(x.expand(DRAWS, *x.shape[1:]) for x in leaves))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS, of_draws.noise_dim, generator=generator, dtype=torch.float64)
    with torch.enable_grad():
        actions = of_draws.sample(noise).detach()
        log_probs = of_draws.log_prob(actions)
        if not log_probs.requires_grad:
            raise ValueError(f"{kind}.log_prob should be differentiable")

        def log_prob(*fields: Tensor) -> Tensor:
            one = type(distribution)(*(x[None] for x in fields[:-1]))
            return one.log_prob(fields[-1][None])[0]

        of_fields = tuple(range(len(leaves)))
        scores = torch.func.vmap(
            torch.func.grad(log_prob, of_fields), (*(None for _ in leaves), 0)
        )(*(x[0] for x in leaves), actions)
    for name, score in zip(distribution._fields, scores, strict=True):
        error = score.std(0) / math.sqrt(DRAWS)
        if not (score.mean(0).abs() <= STANDARD_ERRORS * error + 1e-6).all():
            raise ValueError(
                f"{kind}.log_prob does not fit {kind}.sample: the mean over samples of its "
                f"derivative with respect to {name} should be 0, got "
                f"{score.mean(0).abs().max():.3g}"
            )
