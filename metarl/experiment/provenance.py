"""Compare the data and the user's own code that a run was trained with with those of today."""

from metarl.experiment import plugins
from metarl.experiment.build import Learner
from metarl.experiment.schema import Experiment, SupervisedExperiment, plain
from metarl.runtime.errors import UserError, warn
from metarl.runtime.folder import RunFolder
from metarl.runtime.record import DataRecord
from metarl.supervised.fewshot import FewShot
from metarl.supervised.learner import SupervisedLearner

NAMED = 3  # classes in a message


def data_of(learner: Learner) -> DataRecord:
    """Return the record of a learner's labelled examples; empty where it has none."""
    source = learner.source if isinstance(learner, SupervisedLearner) else None
    if not isinstance(source, FewShot):
        return {}
    return {split: examples.record for split, examples in source.splits.items()}


def other_data(run: RunFolder, config: Experiment, learner: Learner) -> str | None:
    """Return the name of a learner's data where its test examples are not those of the run."""
    own, now = run.load_data(), data_of(learner)
    if not own or not now or own.get("test") == now["test"]:
        return None
    assert isinstance(config, SupervisedExperiment)
    return config.data_folder or str(config.data["source"])


def require_same_data(run: RunFolder, learner: Learner) -> None:
    """Warn where a run to resume has other examples than it began with.

    Pixels alone may differ because another version of a library decodes them.

    Raises:
        UserError: they are of other classes, or there are more or fewer of them.
    """
    own, now = run.load_data(), data_of(learner)
    for split in {**own, **now} if own else ():
        one, other = (data[split].classes if split in data else {} for data in (own, now))
        for name in {**one, **other}:
            before, today = one.get(name, 0), other.get(name, 0)
            if before != today:
                raise UserError(
                    f"{run.path} was begun with other data: class {name} of its {split} split had "
                    f"{before} examples, not {today}; start a new run instead"
                )
        if own.get(split) != now.get(split):
            warn(f"the {split} examples of {run.path} are not those that it was begun with")


def warn_of_trained_classes(run: RunFolder, learner: Learner) -> None:
    """Warn where a run is to be tested on classes that it was trained on."""
    own, now = run.load_data(), data_of(learner)
    if not own or not now:
        return
    classes = own["train"].classes
    if overlap := [name for name in now["test"].classes if name in classes]:
        more = ["..."] * (len(overlap) > NAMED)
        warn(
            f"{run.path} was trained on {len(overlap)} of the {len(now['test'].classes)} test "
            f"classes: {', '.join([*overlap[:NAMED], *more])}"
        )


def warn_of_changed_code(run: RunFolder, config: Experiment) -> None:
    """Warn where a part of the user's own is not the code that the run was begun with."""
    began = run.code()
    now = plugins.code_of(plain(config))
    if names := [name for name, digest in now.items() if began.get(name, digest) != digest]:
        warn(f"{run.path} was begun with other code of {', '.join(names)}")
