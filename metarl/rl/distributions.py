"""Diagonal Gaussians as plain tensors, so that they pass through ``vmap`` and into buffers.

Everything is summed over action dimensions: one number per env step.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """Action distribution of a batch of env steps."""

    mean: Tensor  # [..., A]
    log_std: Tensor  # [..., A]

    def log_prob(self, action: Tensor) -> Tensor:
        """log pi(a | s) of ``action`` [..., A], summed over A: [...]."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * z.square() + self.log_std + HALF_LOG_TWO_PI).sum(-1)

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other), summed over A: [...], in nats."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (other.log_std - self.log_std + 0.5 * (ratio + distance - 1)).sum(-1)
