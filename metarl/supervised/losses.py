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
    """Loss and score of a kind of problem; functions of (outputs [S, ...], targets)."""

    loss: Callable[[Tensor, Tensor], Tensor]
    measure: str
    score: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    divergence: Callable[[Tensor, Tensor], Tensor]  # KL(reference outputs || outputs), nats


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of labels [S] that have the largest of the logits [S, N]; NaN if one is not finite."""
    share = (logits.argmax(-1) == labels).to(logits.dtype).mean()
    return torch.where(torch.isfinite(logits).all(), share, torch.nan)


def gaussian_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """KL of Gaussians of variance 1 around the outputs [S, D], mean over examples."""
    return 0.5 * (outputs - reference).square().flatten(1).sum(1).mean()


def categorical_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL of the class probabilities of logits [S, N], mean over examples."""
    logs, target = F.log_softmax(logits, -1), F.log_softmax(reference, -1)
    return F.kl_div(logs, target, reduction="batchmean", log_target=True)


REGRESSION = Criterion(F.mse_loss, "MSE", F.mse_loss, False, gaussian_divergence)
CLASSIFICATION = Criterion(F.cross_entropy, "accuracy", accuracy, True, categorical_divergence)


def apart_from_each_other(model: Model, params: Params, support: Tensor, query: Tensor) -> Tensor:
    """Return the outputs [Q, ...] of queries, each evaluated beside the support data only.

    A model with batch norm sees a whole batch: told all queries at once (transduction), it learns
    something of the task from them (Nichol et al. 2018, section 6.1).
    """

    def one(x: Tensor) -> Tensor:
        return model(params, torch.cat([support, x[None]]))[-1]

    at_once = max(1, IMAGES_AT_ONCE // (len(support) + 1))
    result: Tensor = torch.func.vmap(one, chunk_size=at_once)(query)
    return result
