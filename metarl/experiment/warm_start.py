"""Warm start: the parameters of a trained run as the initial ones of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metarl.core.algorithms import split_rates
from metarl.core.params import Params
from metarl.experiment.sizes import Shapes
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import upgraded_state


def initial_parameters(init: str | None, own: Params) -> Params:
    """Return the parameters that training begins with.

    Args:
        init: folder of a run, whose newest checkpoint is read; None: ``own``.
        own: the network's parameters by name.

    Raises:
        UserError: there is no such run, or its parameters have other names or shapes.
    """
    if init is None:
        return own
    checkpoint, state = RunFolder.open(Path(init)).checkpoints().load()
    found = parameters_in(state, f"init: {checkpoint.path}")
    theirs = _shapes(found)
    for name in {**own, **theirs}:
        if name not in theirs:
            raise UserError(f"init: {init} has no parameter {name}")
        if name not in own:
            raise UserError(f"init: {init} has a parameter {name}, which this network has not")
        if theirs[name] != [*own[name].shape]:
            raise UserError(
                f"init: {name} of {init} has shape {theirs[name]}, not {[*own[name].shape]}"
            )
    return {name: found[name].to(p) for name, p in own.items()}


def shapes_in(state: Mapping[str, Any], origin: str) -> Shapes:
    """Return the shapes of the network's parameters in the state of a checkpoint.

    Raises:
        UserError: it is the state of something else.
    """
    return _shapes(parameters_in(state, origin))


def _shapes(params: Params) -> dict[str, list[int]]:
    return {name: [*p.shape] for name, p in params.items()}


def parameters_in(state: Mapping[str, Any], origin: str) -> Params:
    """Return the network's parameters in the state of a checkpoint.

    Raises:
        UserError: it is the state of something else.
    """
    try:
        found, _ = split_rates(upgraded_state(state)["learner"]["meta"])
        if all(isinstance(p, Tensor) for p in found.values()):
            return found
    except (AttributeError, KeyError, TypeError):
        pass
    raise UserError(f"{origin} is not a checkpoint of a run")
