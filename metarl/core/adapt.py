"""The inner loop: gradient steps of one task (Finn et al. 2017, algorithm 1, line 6)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from metarl.core import differences
from metarl.core.params import Params

LossFn: TypeAlias = Callable[[Params, Any], Tensor]
"""``loss_fn(params, batch) -> scalar`` for ONE task: all that the core knows of a problem."""

Rates: TypeAlias = Mapping[str, float | Tensor]
"""Inner rate alpha by parameter name: a number, or a tensor that broadcasts against the parameter
(a learned one takes part in the meta-gradient). A parameter without an entry is not adapted."""


def adapt(
    loss_fn: LossFn,
    params: Params,
    rates: Sequence[Rates],
    batches: Sequence[Any],
    first_order: bool = False,
    hessian_epsilon: float | None = None,
) -> Params:
    """Adapted parameters phi of one task.

    phi_0 = theta;  phi_{k+1} = phi_k - alpha_k * grad L(phi_k; batch_k)

    Args:
        loss_fn: the inner loss L of one task.
        params: meta-parameters theta; the result is differentiable with respect to them.
        rates: alpha_k, one entry per inner step.
        batches: support data, one per inner step.
        first_order: treat the gradients as constants (FOMAML): d phi / d theta is the identity.
        hessian_epsilon: take d phi / d theta, which has the Hessian of L in it, by finite
            differences of this length in parameter space (the result is differentiable once, with
            respect to ``params`` and ``rates`` only); None: exactly.

    Raises:
        ValueError: ``rates`` and ``batches`` differ in length.
        KeyError: a rate names a parameter that does not exist.
    """
    if first_order:
        hessian_epsilon = None  # nothing is differentiated
    for rate, batch in zip(rates, batches, strict=True):
        # Differences need the gradient of all parameters, as each may change that of any other.
        names = rate if hessian_epsilon is None else params
        fixed = {name: p for name, p in params.items() if name not in names}
        moving = {name: params[name] for name in names}

        def loss(moving: Params, fixed: Params = fixed, batch: Any = batch) -> Tensor:
            return loss_fn(fixed | moving, batch)

        if hessian_epsilon is None:
            gradient = torch.func.grad(loss)(moving)
        else:
            gradient = differences.gradient(loss, moving, hessian_epsilon)
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        stepped = {name: params[name] - rate[name] * gradient[name] for name in rate}
        # Keeps the order of theta, which flatten and unflatten rely on.
        params = {name: stepped.get(name, p) for name, p in params.items()}
    return params
