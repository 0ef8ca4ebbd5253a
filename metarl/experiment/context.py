"""Networks with context parameters beside their inputs, where the algorithm has them (CAVIA)."""

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from metarl.core.algorithms import InnerConfig
from metarl.core.networks import WithContext
from metarl.runtime.errors import UserError


def wider_shape(shape: tuple[int, ...], inner: InnerConfig) -> tuple[int, ...]:
    """Return the shape of an input with the context beside it.

    Raises:
        UserError: there is a context, and the inputs are not vectors.
    """
    if not inner.context_size:
        return shape
    if len(shape) != 1:
        raise UserError(
            f"inner.algorithm {inner.algorithm} puts its context beside inputs that are vectors; "
            f"here they have shape {[*shape]}"
        )
    return (shape[0] + inner.context_size,)


def beside_context(observations: Any, inner: InnerConfig) -> Any:
    """Return the space of observations with the context beside them.

    Raises:
        UserError: there is a context, and the observations are not vectors.
    """
    if not inner.context_size:
        return observations
    wider_shape(observations.shape, inner)
    bound = np.full(inner.context_size, np.inf, observations.dtype)
    low, high = observations.low, observations.high
    return spaces.Box(
        np.concatenate([low, -bound]), np.concatenate([high, bound]), dtype=observations.dtype
    )


def with_context(network: nn.Module, inner: InnerConfig) -> nn.Module:
    """Return the network with its context; the network itself if the algorithm has none."""
    return WithContext(network, inner.context_size) if inner.context_size else network
