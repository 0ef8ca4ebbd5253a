"""Command-line overrides of a run's evaluation settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from metarl.experiment import build, evaluations, registries
from metarl.experiment.schema import Experiment, kind_of, plain, revised
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.runtime.errors import UserError
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
        device: device of adaptation; null: the one of training.
        output: JSON file for the results; null: evaluation.json of each run that was evaluated by
            its own settings, which reports show.
    """

    checkpoint: str = "last"
    tasks: Annotated[int, Gt(0)] | None = None
    task_file: str | None = None
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
    data_folder: str | None = None
    threads: Annotated[int, Ge(0)] = 0
    device: Literal["cpu", "cuda"] | None = None
    output: str | None = None


SHARED = ("tasks", "task_file", "seed", "trajectories", "mean_actions", "tests", "queries")
"""Settings that compared runs share; each kind of run has some of them."""
OWN = ("inner_steps", "inner_rates", "candidate_rates")
"""Settings that each run may choose for itself."""


def with_options(
    config: Experiment, options: EvaluateOptions, configs: Sequence[Experiment]
) -> Experiment:
    """A config with what the options and, so that runs can be compared, the first run say."""
    if options.inner_rates is not None and options.candidate_rates is not None:
        raise UserError(
            "either inner_rates are given or one of candidate_rates is chosen, not both"
        )
    if options.tasks is not None and options.task_file is not None:
        raise UserError("either tasks are drawn or they come from task_file, not both")
    other_tasks = _other_tasks(config, options)
    own = as_plain(evaluations.evaluation_settings(configs[0]))
    first: Any = configs[0].evaluation
    own |= {"task_file": first.task_file} if isinstance(first, PolicyEvaluationConfig) else {}
    given = {name: own[name] for name in SHARED if name in own}
    if "actions" in own:
        given["mean_actions"] = own["actions"] == "mean"
    evaluation: Any = config.evaluation
    known = {f.name for f in fields(evaluation)}
    for name in (*SHARED, *OWN):
        if getattr(options, name) is not None:
            if name not in known:
                raise UserError(f"{name} is no option of an evaluation in {kind_of(config)}")
            given[name] = getattr(options, name)
    if given.get("task_file") and (options.tasks or _draws_other_tasks(config, options.env)):
        given["task_file"] = options.task_file
    if options.inner_rates is not None:
        given["candidate_rates"] = None
    if options.candidate_rates is not None:
        given["inner_rates"] = None
    if len(configs) > 1 and evaluation.inner_steps == 0:
        given["inner_steps"] = 0  # beside others, a model that does not adapt stays as it is
    changed: dict[str, Any] = {
        "threads": options.threads,
        "device": options.device or config.device,
        **other_tasks,
    }
    return build.resolve(revised(config, **changed, evaluation=revised(evaluation, **given)))


def _draws_other_tasks(config: Experiment, constants: dict[str, Any]) -> bool:
    """Return whether the family draws other tasks with these constants."""
    settings = plain(config).get("env")
    if not constants or settings is None:
        return False
    one, other = (registries.make_family(env) for env in (settings, {**settings, **constants}))
    before, now = (f.sample_tasks(np.random.default_rng(0), 8) for f in (one, other))
    return not np.array_equal(before, now)


def _other_tasks(config: Experiment, options: EvaluateOptions) -> dict[str, Any]:
    """The settings of the held-out tasks, where options change them."""
    said = {"env": options.env, "data": options.data}
    for name, values in said.items():
        if values and name != config.task_source:
            raise UserError(f"{name} is no option of an evaluation in {kind_of(config)}")
        for key in ("family", "source"):
            if key in values:
                raise UserError(
                    f"{name}.{key} cannot differ from the trained one, only its constants can"
                )
    if options.data and registries.is_labelled(registries.SOURCE.find(plain(config)["data"])[0]):
        raise UserError(
            "data is no option for labelled examples: other splits would test classes of training"
        )
    if options.data_folder is not None and config.task_source != "data":
        raise UserError(f"data_folder is no option of an evaluation in {kind_of(config)}")
    changed: dict[str, Any] = {
        config.task_source: {**plain(config)[config.task_source], **said[config.task_source]}
    }
    if options.data_folder is not None:
        changed["data_folder"] = options.data_folder
    return changed
