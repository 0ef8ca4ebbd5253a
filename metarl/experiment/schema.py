"""The schema of an experiment: typed dataclasses are the YAML format and the help text.

Groups that one part of the code owns are defined beside it; this file puts them together.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt

from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.rl.learner import LearnerConfig
from metarl.runtime.checkpoint import CheckpointConfig
from metarl.runtime.folder import fixed
from metarl.runtime.paths import PathText
from metarl.runtime.scores import EvaluationConfig
from metarl.runtime.sinks import LoggingConfig
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.learner import SupervisedConfig
from metarl.supervised.models import ModelConfig


@dataclass(frozen=True)
class Experiment:
    """The settings that runs of every kind have.

    Args:
        iterations: number of meta-updates; 0 keeps the untrained parameters.
        seed: root of all random numbers.
        threads: CPU threads; 0: one per core, or the process's share of them under torchrun.
            Results do not depend on it.
        device: device of adaptation and update; physics stays on the CPU.
        chunk_size: tasks per vectorised call of the update; null: 1 for a policy on a CPU, else
            all.
        compile: compile training, which takes up to a minute at the start and when episodes grow
            longer; null: if the run is long enough to pay for it. Otherwise functions that run
            thousands of times are traced and replayed, with bit-identical results.
        timeout: seconds of silence after which another process counts as lost; longer than it takes
            to draw a report or to compile.
        checkpoint: when to save, and how many to keep.
        logging: the sinks of metrics.
        evaluation: held-out tasks.
        init: folder of a trained run, with whose parameters training begins; null: new ones.
        folder: folder of all runs.
        name: the run's name, and its folder's; null: config, seed and time.
    """

    iterations: Annotated[int, Ge(0)] = 100
    seed: Annotated[int, Ge(0)] = 0
    threads: Annotated[int, Ge(0)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    chunk_size: Annotated[int, Gt(0)] | None = None
    compile: bool | None = None
    timeout: Annotated[float, Gt(0)] = 300.0
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    init: PathText | None = None
    folder: PathText = "runs"
    name: PathText | None = None

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    task_source: ClassVar[Literal["env", "data"]]
    """Which setting says where tasks come from."""

    def __post_init__(self) -> None:
        if self.name and (Path(self.name).name != self.name or self.name == ".."):
            raise ValueError(f"name should be one folder's name, got {self.name}; see also folder")

    @property
    def path(self) -> Path:
        """The run's folder, where the run has a name."""
        return Path(self.folder) / str(self.name)


@dataclass(frozen=True)
class RLExperiment(Experiment, LearnerConfig):
    """Meta-reinforcement learning.

    Args:
        env: the task family, ``family: NAME``, and any of its constants by name.
        observe_task: append the task's parameters to the observation (the papers' oracle).
        workers: processes for environments in Python (gymnasium families); 0: this process. Results
            do not depend on it.
        policy: the policy, ``name: NAME``, and any of its settings by name.
        evaluation: held-out tasks.
    """

    env: dict[str, Any] = field(default_factory=lambda: {"family": "point-navigation"})
    observe_task: bool = False
    workers: Annotated[int, Ge(0)] = 0
    policy: dict[str, Any] = field(default_factory=lambda: {"name": "gaussian-mlp"})
    evaluation: PolicyEvaluationConfig = field(default_factory=PolicyEvaluationConfig)

    task_source: ClassVar = "env"


@dataclass(frozen=True)
class SupervisedExperiment(Experiment, SupervisedConfig):
    """Supervised meta-learning.

    Args:
        data: where tasks come from, ``source: NAME``, and any of its settings by name; few-shot
            classification also has ``ways``.
        observe_task: append the task's parameters to the inputs (the papers' oracle).
        model: the network.
        evaluation: held-out tasks.
        data_folder: folder or archive of the images; null: download them, if possible.
    """

    data: dict[str, Any] = field(default_factory=lambda: {"source": "sinusoid"})
    observe_task: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    evaluation: SupervisedEvaluationConfig = field(default_factory=SupervisedEvaluationConfig)
    data_folder: PathText | None = None

    task_source: ClassVar = "data"

    def __post_init__(self) -> None:
        SupervisedConfig.__post_init__(self)
        Experiment.__post_init__(self)


SCHEMAS: dict[str, type[Experiment]] = {
    "reinforcement learning": RLExperiment,
    "supervised learning": SupervisedExperiment,
}


def kind_of(config: Experiment) -> str:
    """A name of ``SCHEMAS``."""
    return next(name for name, schema in SCHEMAS.items() if isinstance(config, schema))


def schema_of(layers: Iterable[Mapping[str, Any]]) -> type[Experiment]:
    """The schema of some settings: those that have ``data`` are supervised."""
    is_supervised = any(SupervisedExperiment.task_source in layer for layer in layers)
    return SupervisedExperiment if is_supervised else RLExperiment


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, strings and numbers only."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def fixed_settings(config: Experiment) -> dict[str, Any]:
    """The settings that a resumed run keeps, as plain values."""
    return fixed(plain(config))


def to_yaml(config: Experiment) -> str:
    """Return all settings as YAML; those that a resumed run may not change come first."""
    return str(yaml.safe_dump(fixed_settings(config) | plain(config), sort_keys=False))
