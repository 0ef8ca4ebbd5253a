"""Evaluations of trained runs: made, kept in their folders, and read back."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl import build
from metarl.config import Config, fixed_settings, plain
from metarl.errors import UserError
from metarl.evaluation import Episodes, Evaluation, paired_differences
from metarl.files import to_json, write_atomically
from metarl.metrics import read_metrics
from metarl.report.view import RunView
from metarl.rl.learner import MetaRLLearner
from metarl.run import RunFolder
from metarl.settings import read_config
from metarl.trainer import first_difference, load_into


class Trained(NamedTuple):
    """A run with its policy, to be evaluated with the settings of ``config``.

    Those differ from its own settings where a command was asked for other tasks, say.
    """

    run: RunFolder
    config: Config
    iteration: int
    learner: MetaRLLearner


def open_runs(paths: Sequence[str]) -> list[RunFolder]:
    """Existing runs.

    Raises:
        UserError: there is no run in one of the folders, or two have the same name.
    """
    runs = [RunFolder.open(Path(path)) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise UserError(f"{run.path} is named twice, or another run has its name")
    return runs


def load(run: RunFolder, config: Config, which: str = "last") -> Trained:
    """A run with the policy of a checkpoint: ``last``, ``best`` or a number of iterations.

    Raises:
        UserError: there is no such checkpoint, or it is not of this run's settings.
    """
    learner = build.make_learner(config)
    checkpoint, state = run.checkpoints().load(which)
    load_into(learner, state, fixed_settings(read_config(run)), str(checkpoint.path))
    return Trained(run, config, checkpoint.iteration, learner)


def require_same_env(runs: Sequence[RunFolder], configs: Sequence[Config]) -> None:
    """Raises UserError unless all runs are of one task family with the same constants."""
    envs = [plain(config)["env"] for config in configs]
    for run, env in zip(runs, envs, strict=True):
        if difference := first_difference(env, envs[0], "env"):
            raise UserError(f"{run.path} and {runs[0].path} cannot be compared: {difference}")


def is_own(trained: Trained) -> bool:
    """Whether the evaluation is to be that of the run's own settings and newest checkpoint."""
    newest = trained.run.checkpoints().all()[0].iteration
    own = _protocol(read_config(trained.run))
    return trained.iteration == newest and _protocol(trained.config) == own


def evaluated(trained: Trained, keep: bool) -> RunView:
    """Evaluate a policy, and keep the result in the run's folder if asked to."""
    run, config, iteration, learner = trained
    evaluation = learner.evaluate(iteration)
    return (keep_in if keep else view_of)(run, config, iteration, evaluation)


def newest(run: RunFolder, config: Config) -> RunView:
    """The evaluation of the newest checkpoint; made now, unless the run's own is kept and fits."""
    kept, checkpoints = run.load_evaluation(), run.checkpoints().all()
    if kept and kept[1] and checkpoints:
        newest_one = kept[0]["iteration"] == checkpoints[0].iteration
        if newest_one and _protocol_of(kept[0]) == _protocol(config):
            return _view(run, read_config(run), *kept)
    trained = load(run, config)
    print(f"evaluating {run.path} after {trained.iteration} iterations", flush=True)
    return evaluated(trained, keep=is_own(trained))


def _protocol(config: Config) -> dict[str, Any]:
    """What a result says of how it was taken, as a config asks for it."""
    settings, evaluation = plain(config), config.evaluation
    chosen = evaluation.candidate_rates if evaluation.inner_steps else None
    return {
        "env": settings["env"],
        "tasks": evaluation.tasks,
        "trajectories": evaluation.trajectories or config.trajectories,
        "inner_rates": None if chosen else evaluation.rates(config.inner.alpha),
        "candidates": chosen or [],
        "actions": "mean" if evaluation.mean_actions else "sampled",
        "evaluation_seed": evaluation.seed,
    }


def _protocol_of(result: dict[str, Any]) -> dict[str, Any]:
    candidates = [entry["rate"] for entry in result["validation"]]
    return {
        **{key: result[key] for key in ("env", "trajectories", "actions", "evaluation_seed")},
        "tasks": len(result["tasks"]),
        "inner_rates": None if candidates else result["inner_rates"],
        "candidates": candidates,
    }


def keep_in(run: RunFolder, config: Config, iteration: int, evaluation: Evaluation) -> RunView:
    """Write an evaluation to the run's folder; returns what reports see of it."""
    result, episodes = _result(config, iteration, evaluation)
    run.save_evaluation(result, episodes)
    return _view(run, read_config(run), result, evaluation.episodes)


def view_of(run: RunFolder, config: Config, iteration: int, evaluation: Evaluation) -> RunView:
    """What reports see of an evaluation."""
    result, _ = _result(config, iteration, evaluation)
    return _view(run, read_config(run), result, evaluation.episodes)


def write(output: Path, views: Sequence[RunView]) -> None:
    """Write one run's evaluation, or several and their paired differences, as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    content: Any = views[0].evaluation
    if len(views) > 1:
        first, *others = views
        content = {
            "runs": {view.name: view.evaluation for view in views},
            "differences": {
                f"{view.name} - {first.name}": paired_differences(first.returns, view.returns)
                for view in others
            },
        }
    try:
        write_atomically(output, to_json(content, indent=2).encode())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def _view(
    run: RunFolder, config: Config, result: dict[str, Any], episodes: Episodes | None
) -> RunView:
    return RunView(
        name=run.name,
        config=plain(config),
        info=run.info(),
        metrics=read_metrics(run.metrics_file) if run.metrics_file.is_file() else [],
        evaluation=result,
        episodes=episodes,
        family=build.make_family(result["env"]),
    )


def _result(config: Config, iteration: int, evaluation: Evaluation) -> tuple[dict[str, Any], bytes]:
    """All of an evaluation, and the file of its episodes.

    The same for the same checkpoint and settings, byte for byte.
    """
    settings = plain(config)
    episodes = b"" if evaluation.episodes is None else evaluation.episodes.to_bytes()
    result = {
        **evaluation.to_json(),
        "env": settings["env"],
        "iteration": iteration,
        "seed": config.seed,
        "evaluation_seed": config.evaluation.seed,
        "published": settings["evaluation"]["published"],
        "episodes_sha256": hashlib.sha256(episodes).hexdigest(),
    }
    return json.loads(to_json(result)), episodes
