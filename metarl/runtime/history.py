"""Translate settings and checkpoints of earlier versions to today's, so that old runs still load.

A run's folder holds every setting that its version knew. Whoever adds a setting says here which
value the code had before; whoever renames, moves or removes one says what becomes of the old name.
The changes are applied in order, oldest first, to whatever a run's folder holds; a run of today
passes through unchanged.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch

from metarl.core.params import flatten
from metarl.runtime.errors import UserError
from metarl.runtime.folder import FREE

BODIES = (
    *("half-cheetah-velocity", "half-cheetah-direction"),
    *("ant-direction", "ant-forward-backward", "ant-velocity", "ant-goal"),
)
OF_BODIES = "env.family", BODIES
OF_ANTS = "env.family", [name for name in BODIES if name.startswith("ant-")]
TRPO = "outer.name", ["trpo"]
OURS = "outer.name", ["trpo", "adam"]


class Added(NamedTuple):
    """A new setting: before it, the code did as if it had ``value``."""

    path: str
    value: Any
    kind: str = ""  # "env" or "data": of policies or of supervised models only
    where: tuple[str, Collection[str]] = ("", ())  # a setting, and the values that have this one
    before: str = ""  # a run with this setting is newer, and needs no value

    def apply(self, settings: dict[str, Any]) -> None:
        path, values = self.where
        holder, key = _group(settings, path)
        of_kind = not self.kind or self.kind in settings
        of_value = not path or (holder or {}).get(key) in values
        later, name = _group(settings, self.before)
        is_newer = bool(self.before) and name in (later or {})
        if of_kind and of_value and not is_newer:
            group, key = _group(settings, self.path, create=True)
            if group is not None:
                group.setdefault(key, copy.deepcopy(self.value))


class Renamed(NamedTuple):
    """A setting with a new path."""

    old: str
    new: str

    def apply(self, settings: dict[str, Any]) -> None:
        before, key = _group(settings, self.old)
        if before is None or key not in before:
            return
        after, new_key = _group(settings, self.new, create=True)
        if after is not None:
            after[new_key] = before.pop(key)


class Removed(NamedTuple):
    """A setting that is gone: a run may go on only if it had the value ``unused``."""

    path: str
    unused: Any

    def apply(self, settings: dict[str, Any]) -> None:
        group, key = _group(settings, self.path)
        if group is None or key not in group:
            return
        value = group.pop(key)
        if value != self.unused:
            raise UserError(
                f"the run was made with {self.path} {value!r}, which metarl no longer has; "
                "an earlier version can evaluate and resume it"
            )


Change = Added | Renamed | Removed

CHANGES: tuple[Change, ...] = (
    Added("observe_task", False),
    Added("evaluation.candidate_rates", None),
    Added("evaluation.mean_actions", False, kind="env"),
    Renamed("evaluation.published.returns", "evaluation.published.scores"),
    Added("evaluation.published.test", ""),
    Removed("outer.half_life", unused=None),
    Renamed("data.distinct", "distinct_tasks"),
    Added("distinct_tasks", None, kind="data"),
    Added("timeout", 300.0),
    Added("compile", False),
    Added("outer.inner_hessian", "exact", kind="env", before="outer.name"),
    Renamed("outer.average", "outer.average_decay"),
    Added("outer.average_decay", 0.0, kind="data", before="outer.name"),
    Added("outer.hvp_length", "fixed", kind="env", before="outer.name"),
    Added("evaluation.published.method", ""),
    Added("evaluation.task_file", None, kind="env"),
    Added("env.position_noise", None, where=OF_BODIES),
    Added("env.velocity_of", "torso", where=OF_BODIES),
    Added("env.observation", "gymnasium", where=OF_BODIES),
    Added("env.contact_cost", 0.0, where=OF_ANTS),
    Added("env.crouched", False, where=OF_ANTS),
    Added("env.solimp", None, where=OF_ANTS),
    Added("logging.sinks", []),
    Added("policy.name", "gaussian-mlp", kind="env"),
    Added("outer.name", "trpo", kind="env"),
    Added("outer.name", "adam", kind="data"),
    Added("baseline.name", "linear", kind="env"),
    Renamed("advantage.baseline_ridge", "baseline.ridge"),
    Added("workers", 0, kind="env"),
    Added("init", None),
    Added("inner.dice_lambda", 0.95, kind="env"),
    Added("exploration", 0.0, kind="env"),
    Added("env.reward_radius", None, where=("env.family", ["point-navigation"])),
    Added("outer.schedule", "constant", where=OURS),
    Added("outer.schedule_iterations", None, where=OURS),
    Added("outer.schedule_final", 0.0, where=OURS),
    Added("outer.clip_norm", None, where=("outer.name", ["adam"])),
    Added("diagnose_every", 0, kind="env"),
    Added("outer.fit_length", False, where=TRPO),
    Added("outer.memory", "none", where=TRPO),
    Added("outer.memory_decay", 0.9, where=TRPO),
    Added("outer.average_decay", 0.0, where=TRPO),
    Added("inner.context", 5),
    Added("inner.multi_step_iterations", 0, kind="data"),
    Added("inner.first_order_iterations", 0, kind="data"),
    Added("inner.proximal", 2.0, kind="data"),
    Added("inner.cg_iterations", 5, kind="data"),
    Added("data.class_folders", "first", where=("data.source", ["image-folder"])),
)


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run of any earlier version (all, or some groups of them) as those of today.

    Raises:
        UserError: the run depends on a setting that was removed.
    """
    today = copy.deepcopy(dict(settings))
    for change in CHANGES:
        change.apply(today)
    return today


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a config file, which may be older, with the names that settings have today."""
    today = copy.deepcopy(dict(settings))
    for change in CHANGES:
        if isinstance(change, Renamed):
            change.apply(today)
    return today


def upgraded_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of any earlier version as one of today; other things unchanged.

    Raises:
        UserError: see ``upgraded``.
    """
    today = dict(state)
    settings = today.get("settings")
    if isinstance(settings, dict) and {"env", "data"} & settings.keys():
        keys = settings.keys()  # and no setting of how a run is run
        current = upgraded(settings)
        today["settings"] = {key: current[key] for key in current if key in keys or key not in FREE}
    learner = today.get("learner")
    if isinstance(learner, dict) and "outer" not in learner:
        today["learner"] = _learner_with_outer_step(learner, today["settings"])
    return today


def _learner_with_outer_step(
    learner: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The state of a learner from before outer steps and baselines had states of their own."""
    today = dict(learner)
    if (adam := today.pop("adam", None)) is None:
        return today | {"outer": [], "baseline": []}
    # Before there was an average, theta itself was evaluated.
    average = adam.get("average", flatten(today["meta"]))
    if not settings["outer"]["average_decay"]:
        average = average[:0]
    step = torch.tensor(float(adam["step"]), dtype=torch.float64)
    return today | {"outer": {**adam, "average": average, "step": step}}


def _group(
    settings: dict[str, Any], path: str, create: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """The mapping that holds ``path``, if there is one, and the path's last word."""
    *groups, key = path.split(".")
    node: Any = settings
    for group in groups:
        if isinstance(node, dict) and create:
            node.setdefault(group, {})
        node = node.get(group) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else None), key
