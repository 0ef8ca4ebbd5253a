"""The multi-step loss of MAML++ (Antoniou et al. 2019, section 4)."""

import torch
from torch import Tensor

SMALLEST = 0.03
"""Part of their first weight that the inner steps before the last keep (the authors' code)."""


def multi_step_weights(steps: int, progress: float) -> Tensor:
    """Return the weights w [n] of the query losses after n inner steps; their sum is 1.

    w_k = max(1 - progress, .03) / n for k < n, and w_n is what is left: 1 / n at first.

    Args:
        steps: n, at least 1.
        progress: part of the iterations of the multi-step loss that are done, 0 to 1.
    """
    weights = torch.full((steps,), max(1 - progress, SMALLEST) / steps)
    weights[-1] = 1 - weights[:-1].sum()
    return weights
