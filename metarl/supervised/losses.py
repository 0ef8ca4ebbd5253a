"""Losses and scores of ONE task."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.core.params import Params

IMAGES_AT_ONCE = 256  # which bounds the memory

Model = Callable[[Params, Tensor], Tensor]
"""A model as a function of its parameters and inputs."""


class Criterion(NamedTuple):
    """What a kind of problem minimises and reports; functions of (outputs [S, ...], targets)."""

    loss: Callable[[Tensor, Tensor], Tensor]
    measure: str
    score: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of labels [S] that have the largest of the logits [S, N]; NaN if one is not finite."""
    share = (logits.argmax(-1) == labels).to(logits.dtype).mean()
    return torch.where(torch.isfinite(logits).all(), share, torch.nan)


REGRESSION = Criterion(F.mse_loss, "MSE", F.mse_loss, higher_is_better=False)
CLASSIFICATION = Criterion(F.cross_entropy, "accuracy", accuracy, higher_is_better=True)


def apart_from_each_other(model: Model, params: Params, support: Tensor, query: Tensor) -> Tensor:
    """Outputs [Q, ...] for queries of which each is seen beside the support data only.

    A model with batch norm sees a whole batch: told all queries at once (transduction), it learns
    something of the task from them (Nichol et al. 2018, section 6.1).
    """

    def one(x: Tensor) -> Tensor:
        return model(params, torch.cat([support, x[None]]))[-1]

    at_once = max(1, IMAGES_AT_ONCE // (len(support) + 1))
    result: Tensor = torch.func.vmap(one, chunk_size=at_once)(query)
    return result
