"""Command-line overrides of a run's evaluation settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from metarl.experiment import evaluations
from metarl.experiment.registries import FAMILY, GROUPS, is_labelled
from metarl.experiment.schema import Experiment, kind_of, plain
from metarl.experiment.settings import parse
from metarl.runtime.errors import UserError
from metarl.runtime.paths import PathText
from metarl.runtime.record import as_plain


@dataclass(frozen=True)
class RunOptions:
    """Options of the commands on runs.

    Args:
        trust_code: import code that the runs name, whoever made them; --trust-code is short for it.
    """

    trust_code: bool = False


@dataclass(frozen=True)
class EvaluateOptions(RunOptions):
    """Options of ``metarl evaluate``; what is not given is as in the (first) run's config.

    Args:
        checkpoint: last, best, or a number of iterations.
        tasks: number of held-out tasks to draw, also where the run has a task file.
        task_file: JSON or CSV file of held-out tasks of a policy.
        inner_steps: number of inner steps; --steps is short for it.
        inner_rates: inner rate of every inner step.
        candidate_rates: choose alpha from these on validation tasks.
        seed: seed of the held-out tasks and their data.
        trajectories: trajectories per task and inner step; policies only.
        mean_actions: score the policy's mean actions; policies only.
        env: other constants of the task family: --env.velocity_range [2,3].
        tests: list of tests, as [5-shot,10-shot]; supervised models only.
        queries: query examples of a task (per class); supervised models only.
        data: other settings of the source of data: --data.phase_range [0,6.2832].
        data_folder: folder or archive of the images; supervised models only.
        threads: CPU threads, 0 for one per core.
        workers: processes for environments in Python, which change no result; policies only.
        device: device of adaptation; null: the one of training.
        output: JSON file for the results; null: evaluation.json of each run that was evaluated by
            its own settings, which reports show.
    """

    checkpoint: str = "last"
    tasks: Annotated[int, Gt(0)] | None = None
    task_file: PathText | None = None
    inner_steps: Annotated[int, Ge(0)] | None = None
    inner_rates: list[Annotated[float, Gt(0)]] | None = None
    candidate_rates: list[Annotated[float, Gt(0)]] | None = None
    seed: Annotated[int, Ge(0)] | None = None
    trajectories: Annotated[int, Gt(0)] | None = None
    mean_actions: bool | None = None
    env: dict[str, Any] = field(default_factory=dict)
    tests: list[str] | None = None
    queries: Annotated[int, Gt(0)] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    data_folder: PathText | None = None
    threads: Annotated[int, Ge(0)] = 0
    workers: Annotated[int, Ge(0)] | None = None
    device: Literal["cpu", "cuda"] | None = None
    output: PathText | None = None


NOT_OF_CONFIGS = ("checkpoint", "output", "trust_code")
"""Options that are not settings of a run."""
SHARED = ("tasks", "task_file", "seed", "trajectories", "mean_actions", "tests", "queries")
"""Settings that compared runs share; each kind of run has some of them."""


def with_options(
    config: Experiment, options: EvaluateOptions, configs: Sequence[Experiment]
) -> Experiment:
    """Return a config with what the options and, so that runs can be compared, the first run say.

    Raises:
        UserError: an option is not for this kind of run, or not allowed.
    """
    group = GROUPS[config.task_source]
    if group.key in (constants := getattr(options, group.where)):
        raise UserError(f"{group.path} cannot differ from the trained one, only its constants can")
    if constants and is_labelled(group.find(vars(config)[group.where])[0]):
        raise UserError(
            "data is no option for labelled examples: other splits would test classes of training"
        )
    first = plain(configs[0].evaluation) | as_plain(evaluations.evaluation_settings(configs[0]))
    evaluation = {name: first[name] for name in SHARED if name in first}
    values = {name: value for name, value in vars(options).items() if value not in (None, {})}
    values = {name: value for name, value in values.items() if name not in NOT_OF_CONFIGS}
    if {"tasks", "task_file"} <= values.keys():
        raise UserError("either tasks are drawn or they come from task_file, not both")
    if evaluation.get("task_file") and ("tasks" in values or _draws_other_tasks(config, options)):
        evaluation["task_file"] = None
    if values.keys() & {"inner_rates", "candidate_rates"}:
        evaluation |= {"inner_rates": None, "candidate_rates": None}
    settings: dict[str, Any] = {"evaluation": evaluation}
    for name, value in values.items():
        if name in vars(config.evaluation):
            evaluation[name] = value
        elif name in vars(config):
            settings[name] = value
        else:
            raise UserError(f"{name} is no option of an evaluation in {kind_of(config)}")
    if len(configs) > 1 and config.evaluation.inner_steps == 0:
        evaluation["inner_steps"] = 0  # beside others, a model that does not adapt stays as it is
    return parse([plain(config), settings])


def _draws_other_tasks(config: Experiment, options: EvaluateOptions) -> bool:
    """Return whether the family draws other tasks with the constants that the options change."""
    before = plain(config)["env"]
    families = (FAMILY.make(env) for env in (before, before | options.env))
    one, other = (family.sample_tasks(np.random.default_rng(0), 8) for family in families)
    return not np.array_equal(one, other)
