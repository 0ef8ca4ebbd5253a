"""The inner loop: gradient steps of one task (Finn et al. 2017, algorithm 1, line 6)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from metarl.core.gradients import InnerGradient, exact
from metarl.core.params import Params

LossFn: TypeAlias = Callable[[Params, Any], Tensor]
"""``loss_fn(params, batch) -> scalar`` for ONE task: all that the core knows of a problem."""

Rates: TypeAlias = Mapping[str, float | Tensor]
"""Inner rate alpha by parameter name: a number, or a tensor that broadcasts against the parameter
(a learned one takes part in the meta-gradient). A parameter without an entry is not adapted."""


def inner_path(
    loss_fn: LossFn,
    params: Params,
    rates: Sequence[Rates],
    batches: Sequence[Any],
    gradient: InnerGradient = exact,
) -> Iterator[Params]:
    """Yield the parameters of one task after every inner step, phi_1 to phi_n.

    phi_0 = theta;  phi_{k+1} = phi_k - alpha_k * grad L(phi_k; batch_k)

    Args:
        loss_fn: the inner loss L of one task.
        params: meta-parameters theta; the phi are differentiable with respect to them.
        rates: alpha_k, one entry per inner step.
        batches: support data, one per inner step.
        gradient: how ``grad L`` is taken, and so what d phi / d theta is: one of
            ``metarl.core.gradients``.

    Raises:
        ValueError: ``rates`` and ``batches`` differ in length.
        KeyError: a rate names a parameter that does not exist.
    """
    for rate, batch in zip(rates, batches, strict=True):
        gradients = gradient(partial(_loss_of, loss_fn, batch), params, rate)
        new = {name: params[name] - rate[name] * gradients[name] for name in rate}
        # Keeps the order of theta, which flatten and unflatten rely on.
        params = {name: new.get(name, p) for name, p in params.items()}
        yield params


def adapt(
    loss_fn: LossFn,
    params: Params,
    rates: Sequence[Rates],
    batches: Sequence[Any],
    gradient: InnerGradient = exact,
) -> Params:
    """Return the adapted parameters phi of one task, the last of ``inner_path``."""
    return last(params, inner_path(loss_fn, params, rates, batches, gradient))


def last(params: Params, path: Iterable[Params]) -> Params:
    """Return the end of a path that begins at ``params``; the others are dropped on the way."""
    end = deque(path, maxlen=1)
    return end[0] if end else params


def _loss_of(loss_fn: LossFn, batch: Any, params: Params) -> Tensor:
    return loss_fn(params, batch)
