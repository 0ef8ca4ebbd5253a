"""Warm start: a run begins with the meta-parameters of another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metarl.core.algorithms import split_rates
from metarl.core.outer.step import OuterStep
from metarl.core.params import Params, flatten, like_tree, unflatten
from metarl.experiment.registries import OUTER
from metarl.experiment.schema import Experiment, plain
from metarl.experiment.settings import read_config
from metarl.experiment.sizes import Shapes
from metarl.experiment.trust import parts_of
from metarl.runtime.errors import UserError, warn
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import upgraded_state
from metarl.runtime.trainer import first_difference

OF_NETWORKS = ("policy", "model", "env", "data", "observe_task", "inner")
"""Settings that names and shapes of meta-parameters depend on."""


def initial_parameters(config: Experiment, own: Params) -> Params:
    """Return the meta-parameters that training begins with.

    They are those that evaluations of the run ``config.init`` use, from its newest checkpoint. Its
    learned inner rates are among them where this run learns rates, too.

    Args:
        config: the run's config; without ``init`` training begins with ``own``.
        own: new meta-parameters by name.

    Raises:
        UserError: there is no such run, or its parameters have other names or shapes.
    """
    if config.init is None:
        return own
    run = RunFolder.open(Path(config.init))
    source = read_config(run, parts_of(plain(config)))  # refuses code that the user may not trust
    checkpoint, raw_state = run.checkpoints().load()
    try:
        state = upgraded_state(raw_state)
        # Not the checkpoint's own settings: these could name other code.
        meta = _evaluated_meta(state["learner"], OUTER.make(plain(source)["outer"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"init: {checkpoint.path} is not a checkpoint of a run") from error
    (theta, rates), (own_theta, own_rates) = split_rates(meta), split_rates(own)
    if rates and not own_rates:
        warn(
            f"init: the learned inner rates of {config.init} are not used: "
            f"inner.algorithm {plain(config)['inner']['algorithm']} learns none"
        )
    own_meta, other_meta = own if rates else own_theta, meta if own_rates else theta
    if difference := _difference(own_meta, other_meta):
        other_settings, own_settings = (
            {name: settings[name] for name in OF_NETWORKS if name in settings}
            for settings in (plain(source), plain(config))
        )
        why = first_difference(other_settings, own_settings)
        raise UserError(
            f"init: the parameters of {config.init} do not fit this run: {difference}"
            + (f"; {why}" if why else "")
        )
    return own | {name: other_meta[name].to(p) for name, p in own_meta.items()}


def _evaluated_meta(learner: Mapping[str, Any], outer: OuterStep) -> Params:
    """Return the meta-parameters in a learner's state, averaged if its outer step does so."""
    meta = learner["meta"]
    theta = flatten(meta)
    outer_state = like_tree(learner["outer"], outer.init(theta))
    return unflatten(outer.evaluated(theta, outer_state), meta)


def _difference(own: Params, other: Params) -> str:
    """Return the first difference of names or shapes, in words."""
    for name in {**own, **other}:
        if name not in other:
            return f"it has no {name}"
        if name not in own:
            return f"it has {name}, which is unknown here"
        if other[name].shape != own[name].shape:
            return f"{name} has shape {[*other[name].shape]}, not {[*own[name].shape]}"
    return ""


def shapes_in(state: Mapping[str, Any], origin: str) -> Shapes:
    """Return the shapes of the network's parameters in the state of a checkpoint.

    Raises:
        UserError: it is the state of something else.
    """
    try:
        theta, _ = split_rates(upgraded_state(state)["learner"]["meta"])
        if all(isinstance(p, Tensor) for p in theta.values()):
            return {name: [*p.shape] for name, p in theta.items()}
    except (AttributeError, KeyError, TypeError):
        pass
    raise UserError(f"{origin} is not a checkpoint of a run")
