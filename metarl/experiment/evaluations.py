"""Evaluations of trained runs: made, kept in their folders, and read back."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from metarl.core.algorithms import split_rates
from metarl.experiment import build, provenance, registries
from metarl.experiment.resolution import held_out_tasks
from metarl.experiment.schema import (
    Experiment,
    RLExperiment,
    SupervisedExperiment,
    fixed_settings,
    kind_of,
    plain,
)
from metarl.experiment.settings import read_config
from metarl.experiment.warm_start import shapes_in
from metarl.report.view import Recorded, RunView, by_test, have_same_data
from metarl.rl.evaluate import RecordedRollouts
from metarl.rl.learner import MetaRLLearner
from metarl.runtime.errors import UserError
from metarl.runtime.export import export
from metarl.runtime.files import to_json, write_atomically
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import upgraded
from metarl.runtime.record import EvaluationRecord, EvaluationSettings, Published, as_plain
from metarl.runtime.scores import Evaluation, from_npz, paired_differences, to_npz
from metarl.runtime.trainer import first_difference, load_into
from metarl.supervised.evaluate import RecordedExamples


class Trained(NamedTuple):
    """A run with its policy, to be evaluated with the settings of ``config``.

    Those differ from its own settings where a command was asked for other tasks, say.
    """

    run: RunFolder
    config: Experiment
    iteration: int
    learner: build.Learner


def open_runs(paths: Sequence[str], trust_code: bool = False) -> list[RunFolder]:
    """Existing runs.

    Args:
        paths: of their folders.
        trust_code: whether code that they name may be imported, whoever made them.

    Raises:
        UserError: there is no run in one of the folders, or two have the same name.
    """
    runs = [RunFolder.open(Path(path), trust_code) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise UserError(f"{run.path} is named twice, or another run has its name")
    return runs


def load(run: RunFolder, config: Experiment, which: str = "last") -> Trained:
    """A run with the policy of a checkpoint: ``last``, ``best`` or a number of iterations.

    Raises:
        UserError: there is no such checkpoint, or it is not of this run's settings.
    """
    config = replace(config, compile=False, init=None)  # the checkpoint has the parameters
    checkpoint, state = run.checkpoints().load(which)
    shapes = shapes_in(state, str(checkpoint.path))
    learner = build.make_learner(config, shapes=shapes)
    provenance.warn_of_changed_code(run, config)
    provenance.warn_of_trained_classes(run, learner)
    load_into(learner, state, fixed_settings(read_config(run)), str(checkpoint.path))
    return Trained(run, config, checkpoint.iteration, learner)


def export_to(model: Trained, path: Path) -> list[Path]:
    """Write a run's network and its learned rates; see ``metarl.runtime.export``."""
    learner = model.learner
    source = learner.family if isinstance(learner, MetaRLLearner) else learner.source
    theta, rates = split_rates(learner.evaluated_meta)
    network = learner.network.with_parameters(theta)
    return export(network, rates, build.shape_of_inputs(model.config, source), path)


def require_same_tasks(runs: Sequence[RunFolder], configs: Sequence[Experiment]) -> None:
    """Raise UserError unless all runs are of one distribution over tasks."""
    first = configs[0]
    for run, config in zip(runs, configs, strict=True):
        if kind_of(config) != kind_of(first):
            raise UserError(
                f"{run.path} and {runs[0].path} cannot be compared: "
                f"{kind_of(config)} and {kind_of(first)}"
            )
        name = first.task_source
        if difference := first_difference(plain(config)[name], plain(first)[name], name):
            raise UserError(f"{run.path} and {runs[0].path} cannot be compared: {difference}")


def by_tasks(
    runs: Sequence[RunFolder], configs: Sequence[Experiment]
) -> list[tuple[list[RunFolder], list[Experiment]]]:
    """The runs of every distribution over tasks, in order, which can be compared."""
    groups: list[tuple[Any, list[RunFolder], list[Experiment]]] = []
    for run, config in zip(runs, configs, strict=True):
        problem = kind_of(config), plain(config)[config.task_source]
        group = next((group for group in groups if group[0] == problem), None)
        if group is None:
            groups.append((problem, [run], [config]))
        else:
            group[1].append(run)
            group[2].append(config)
    return [(group_runs, group_configs) for _, group_runs, group_configs in groups]


def is_own(model: Trained) -> bool:
    """Return whether an evaluation is of the run's own settings, data and newest checkpoint."""
    if provenance.other_data(model.run, model.config, model.learner):
        return False
    newest = model.run.checkpoints().all()[0].iteration
    own = evaluation_settings(read_config(model.run))
    return model.iteration == newest and evaluation_settings(model.config) == own


def evaluated(model: Trained, keep: bool) -> RunView:
    """Evaluate a model, and keep the result in the run's folder if asked to."""
    evaluation = model.learner.evaluate(model.iteration)
    return (keep_in if keep else view_of)(model, evaluation)


def newest(run: RunFolder, config: Experiment, episodes: bool = True) -> RunView:
    """The evaluation of the newest checkpoint; made now, unless the run's own is kept and fits.

    Args:
        episodes: whether recorded episodes are needed, which a kept run has not. If they alone are
            missing, the evaluation is made again, and the run's own stays as it is.
    """
    evaluation, checkpoints = run.load_evaluation(), run.checkpoints().all()
    fits = False
    if evaluation and checkpoints:
        result = _as_of_today(evaluation[0])
        recordings = _read_episodes(evaluation[1], result)
        is_newest = result.iteration == checkpoints[0].iteration
        fits = is_newest and result.protocol == evaluation_settings(config)
        if fits and (recordings or not episodes):
            return _view(run, read_config(run), result, recordings)
    model = load(run, config)
    print(f"evaluating {run.path} after {model.iteration} iterations", flush=True)
    return evaluated(model, keep=is_own(model) and not fits)


def _as_of_today(record: EvaluationRecord) -> EvaluationRecord:
    """Return an evaluation that an earlier version may have written with today's settings."""
    problem = upgraded({record.problem: record.protocol.problem})[record.problem]
    return replace(record, protocol=replace(record.protocol, problem=problem))


def evaluation_settings(config: Experiment) -> EvaluationSettings:
    """Return how an evaluation is taken, as a config asks for it."""
    assert isinstance(config, RLExperiment | SupervisedExperiment)
    evaluation = config.evaluation
    candidates = evaluation.candidate_rates if evaluation.inner_steps else None
    if isinstance(config, RLExperiment):
        special: dict[str, Any] = {
            "trajectories": config.evaluation.trajectories or config.trajectories,
            "actions": "mean" if config.evaluation.mean_actions else "sampled",
        }
        if file := held_out_tasks(config):
            special["tasks_sha256"] = file.digest
    else:
        special = {
            "tests": config.evaluation.tests or [f"{config.shots}-shot"],
            "queries": config.evaluation.queries or config.queries,
        }
    return EvaluationSettings(
        problem=plain(config)[config.task_source],
        tasks=evaluation.tasks,
        seed=evaluation.seed,
        inner_rates=None if candidates else evaluation.rates(config.inner.alpha),
        candidates=candidates or [],
        **special,
    )


def _read_episodes(data: bytes | None, record: EvaluationRecord) -> Recorded | None:
    """Return recorded episodes; None where they are damaged, or not of this evaluation."""
    try:
        episodes: Recorded = from_npz(data or b"", [RecordedRollouts, RecordedExamples])
    except ValueError:
        return None
    return episodes if episodes.fits(len(record.scores), len(record.tasks)) else None


def keep_in(model: Trained, evaluation: Evaluation) -> RunView:
    """Write an evaluation to the run's folder; returns what reports see of it."""
    record, episodes = _record(model, evaluation)
    model.run.save_evaluation(record, episodes)
    return _view(model.run, read_config(model.run), record, evaluation.episodes)


def view_of(model: Trained, evaluation: Evaluation) -> RunView:
    """Return a report's view of an evaluation."""
    record, _ = _record(model, evaluation)
    return _view(model.run, read_config(model.run), record, evaluation.episodes)


def write(output: Path, views: Sequence[RunView]) -> None:
    """Write one run's evaluation, or several and their paired differences, as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    content = as_plain(views[0].evaluation)
    if len(views) > 1:
        content = {
            "runs": {view.name: as_plain(view.evaluation) for view in views},
            "differences": {
                f"{other.name} - {first.name}{test and f', {test}'}": [
                    as_plain(row) for row in paired_differences(first.scores, other.scores)
                ]
                for test, (first, *others) in by_test(views).items()
                for other in others
                if have_same_data(first, other)
            },
        }
    try:
        write_atomically(output, to_json(content, indent=2).encode())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error


def _view(run: RunFolder, config: Experiment, record: EvaluationRecord, episodes: Any) -> RunView:
    is_rl = isinstance(config, RLExperiment)
    return RunView(
        name=run.name,
        config=plain(config),
        info=run.info(),
        metrics=run.metrics(),
        evaluation=record,
        episodes=episodes,
        family=registries.make_family(record.protocol.problem) if is_rl else None,
        data=run.load_data(),
    )


def _published_row(config: Experiment) -> Published:
    """Return the published row beside an evaluation, with every task's return where it is known."""
    config_row = config.evaluation.published
    row = Published(config_row.source, config_row.test, config_row.scores)
    file = held_out_tasks(config) if isinstance(config, RLExperiment) else None
    if file is None or config_row.method not in file.published:
        return row
    source, returns = file.published[config_row.method]
    scores = returns.mean(axis=1).tolist()
    return replace(row, source=source, scores=scores, per_task=returns.tolist())


def _record(model: Trained, evaluation: Evaluation) -> tuple[EvaluationRecord, bytes]:
    """Return the record of an evaluation, and the file of its episodes.

    The same for the same checkpoint and settings, byte for byte.
    """
    run, config, iteration, learner = model
    episodes, data = to_npz(evaluation.episodes), provenance.data_of(learner)
    record = EvaluationRecord(
        **vars(evaluation.record()),
        others=[other.record() for other in evaluation.others],
        main_test=evaluation.test,
        problem=config.task_source,
        protocol=evaluation_settings(config),
        iteration=iteration,
        seed=config.seed,
        published=_published_row(config),
        task_file=config.evaluation.task_file if isinstance(config, RLExperiment) else None,
        episodes_sha256=hashlib.sha256(episodes).hexdigest(),
        data_sha256=data["test"].sha256 if data else None,
        other_data=provenance.other_data(run, config, learner),
    )
    return EvaluationRecord.from_json(record.to_json()), episodes  # as whoever reads it has it
