"""Write out the settings that a config leaves open, and read its held-out tasks."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from metarl.core.outer.schedule import ScheduledStep
from metarl.core.outer.trust_region import TrustRegion, suited_epsilon
from metarl.experiment.configs import find_file
from metarl.experiment.registries import (
    BASELINE,
    FAMILY,
    OUTER,
    POLICY,
    SOURCE,
    find_sink,
    inner_loss,
    make_family,
)
from metarl.experiment.schema import Experiment, RLExperiment, SupervisedExperiment
from metarl.experiment.suggestions import did_you_mean
from metarl.rl.task_file import TaskFile, read_task_file
from metarl.runtime.errors import UserError

Settings = TypeVar("Settings", bound=Experiment)

UNADAPTED = ("pretrained", "random", "oracle")
"""Methods of configs/baselines, whose returns a task file need not have."""

COMPILE_FROM = {RLExperiment: 50, SupervisedExperiment: 2000}
"""Iterations from which compiling saves more time than it takes."""


def task_file_path(config: Experiment) -> Path | None:
    """Return where the evaluation's task file is, or None if tasks are drawn.

    Raises:
        UserError: there is no such file.
    """
    name = config.evaluation.task_file if isinstance(config, RLExperiment) else None
    return find_file(name, "tasks", ".json", "task file") if name else None


def held_out_tasks(config: RLExperiment) -> TaskFile | None:
    """Return the evaluation's task file, or None if tasks are drawn.

    Raises:
        UserError: there is no such file, its tasks are not of the family, or it has no returns of
            the method that the config names.
    """
    path = task_file_path(config)
    if path is None:
        return None
    file = read_task_file(path, make_family(config.env).task_fields)
    method = config.evaluation.published.method
    if file.published and method not in ("", *UNADAPTED, *file.published):
        raise UserError(
            f"{path} has no returns of evaluation.published.method {method}"
            f"{did_you_mean(method, list(file.published))}; it has {', '.join(file.published)}"
        )
    return file


def resolve(config: Settings) -> Settings:
    """Return the config with every setting written out that it leaves open.

    Raises:
        UserError: a name is unknown, or the settings of its object are not allowed.
    """
    pays = config.device == "cpu" and config.iterations >= COMPILE_FROM[type(config)]
    config = dataclasses.replace(config, compile=pays if config.compile is None else config.compile)
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    for name in config.logging.sinks:
        find_sink(name)
    if isinstance(config, RLExperiment):
        policy = POLICY.resolved(config.policy)
        config = dataclasses.replace(
            config,
            env=FAMILY.resolved(config.env),
            policy=policy,
            baseline=BASELINE.resolved(config.baseline),
            outer=_resolved_outer(config, policy.get("activation", "")),
        )
        inner_loss(config.inner)
        if file := held_out_tasks(config):
            evaluation = dataclasses.replace(config.evaluation, tasks=len(file.tasks))
            config = dataclasses.replace(config, evaluation=evaluation)
        return config
    outer = _resolved_outer(config, config.model.activation)
    return dataclasses.replace(config, data=SOURCE.resolved(config.data), outer=outer)


def _resolved_outer(config: RLExperiment | SupervisedExperiment, activation: str) -> dict[str, Any]:
    """Return all settings of the outer step; some follow from the network and from others."""
    outer, kind = config.outer, OUTER.find(config.outer)[0]
    is_scheduled = (
        issubclass(kind, ScheduledStep) and outer.get("schedule", "constant") != "constant"
    )
    if is_scheduled and outer.get("schedule_iterations") is None:
        outer = {**outer, "schedule_iterations": max(1, config.iterations)}
    if issubclass(kind, TrustRegion):
        length = suited_epsilon(activation, outer.get("hvp_length", "fixed"))
        outer = {"hvp_epsilon": length, **outer}
    return OUTER.resolved(outer)
