"""Warm start: the parameters of a trained run as the initial ones of another."""

from pathlib import Path

from metarl.core.algorithms import split_rates
from metarl.core.params import Params
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
    try:
        found, _ = split_rates(upgraded_state(state)["learner"]["meta"])
        theirs = {name: [*p.shape] for name, p in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"init: {checkpoint.path} is not a checkpoint of a run") from error
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
