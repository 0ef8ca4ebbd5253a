"""The schema of an experiment: typed dataclasses are the YAML format and the help text.

Groups that one part of the code owns are defined beside it; this file puts them together and reads
them from files and command lines.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt
from jsonargparse import SUPPRESS

import metarl
from metarl.experiment.parsing import HelpFormatter, Parser, suggestion
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.rl.learner import LearnerConfig
from metarl.runtime.checkpoint import CheckpointConfig
from metarl.runtime.errors import UserError
from metarl.runtime.folder import fixed
from metarl.runtime.scores import EvaluationConfig
from metarl.runtime.sinks import LoggingConfig
from metarl.supervised.evaluate import SupervisedEvaluationConfig
from metarl.supervised.learner import SupervisedConfig
from metarl.supervised.models import ModelConfig


@dataclass(frozen=True)
class Experiment:
    """What every run has, whatever it learns.

    Args:
        iterations: meta-updates of the whole run; 0 keeps the untrained parameters.
        seed: of everything random.
        threads: CPU threads, 0 for one per core (under torchrun, the process's share of them);
            results do not depend on it.
        device: where adaptation and update run; physics is on CPU threads.
        chunk_size: tasks per vectorised call of the update; null: one for a policy on a CPU, all
            otherwise.
        compile: compile what training does (not evaluations), which takes up to a minute at the
            start, and again where episodes that end early grow longer; null: where the run is long
            enough to pay for it. Without it, what is called thousands of times is traced still,
            which changes no bit.
        timeout: seconds after which a process of several that does not answer counts as lost; more
            than the first one takes to draw a report, or any to compile.
        checkpoint: when to save, what to keep.
        logging: where metrics go.
        evaluation: held-out tasks.
        folder: runs are kept in here.
        name: of the run, its folder's name; null: config, seed and time.
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
    folder: str = "runs"
    name: str | None = None

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    task_source: ClassVar[str]
    """Which setting says where tasks come from."""

    def __post_init__(self) -> None:
        _require_finite("", dataclasses.asdict(self))
        if self.name and (Path(self.name).name != self.name or self.name == ".."):
            raise ValueError(f"name should be one folder's name, got {self.name}; see also folder")


@dataclass(frozen=True)
class RLExperiment(Experiment, LearnerConfig):
    """Meta-reinforcement learning.

    Args:
        env: the task family, ``family: NAME``, and any of its constants by name.
        observe_task: append the task's parameters to the observation (the papers' oracle).
        policy: the policy, ``name: NAME``, and any of its settings by name.
        evaluation: held-out tasks.
    """

    env: dict[str, Any] = field(default_factory=lambda: {"family": "point-navigation"})
    observe_task: bool = False
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
        data_folder: where the images are; null: downloaded, if they can be.
    """

    data: dict[str, Any] = field(default_factory=lambda: {"source": "sinusoid"})
    observe_task: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    evaluation: SupervisedEvaluationConfig = field(default_factory=SupervisedEvaluationConfig)
    data_folder: str | None = None

    task_source: ClassVar = "data"

    def __post_init__(self) -> None:
        SupervisedConfig.__post_init__(self)
        Experiment.__post_init__(self)


NAMED = {
    "env": "family",
    "data": "source",
    "policy": "name",
    "outer": "name",
    "baseline": "name",
}
"""Groups of settings that say by name what they are of, and the key that has the name."""

SCHEMAS: dict[str, type[Experiment]] = {
    "reinforcement learning": RLExperiment,
    "supervised learning": SupervisedExperiment,
}


def kind_of(config: Experiment) -> str:
    """A name of ``SCHEMAS``."""
    return next(name for name, schema in SCHEMAS.items() if isinstance(config, schema))


def schema_of(files: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> type[Experiment]:
    """What settings are of: those that say ``data`` are supervised.

    Args:
        files: contents of config files.
        overrides: arguments of a command line.
    """
    said = {key for values in files for key in values}
    options = [word for word in overrides if word.startswith("--")]  # and not their values
    said |= {re.split(r"[.=]", option.removeprefix("--"))[0] for option in options}
    return SupervisedExperiment if SupervisedExperiment.task_source in said else RLExperiment


def _require_finite(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            _require_finite(f"{where}.{key}".lstrip("."), entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _require_finite(where, entry)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} should be finite, got {value}")


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, strings and numbers only."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def fixed_settings(config: Experiment) -> dict[str, Any]:
    """The settings that a resumed run keeps, as plain values."""
    return fixed(plain(config))


def to_yaml(config: Experiment) -> str:
    """All settings, those that make the run what it is first."""
    return str(yaml.safe_dump(fixed_settings(config) | plain(config), sort_keys=False))


def config_parser(prog: str, schema: type[Experiment], epilog: str = "") -> Parser:
    """The parser of ``train``: ``--config FILE``, ``--resume RUN``, every setting by its path."""
    parser = Parser(
        prog=prog,
        description=str(schema.__doc__).splitlines()[0],
        allow_abbrev=False,
        epilog=epilog,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--config", action="config", help="YAML file; a path, or a name from configs/."
    )
    parser.add_argument(
        "--resume", metavar="RUN", default=SUPPRESS, help="continue the run in this folder."
    )
    parser.add_class_arguments(schema)
    return parser


def config_files() -> dict[str, Path]:
    """The repository's or the installed package's configs, by name."""
    package = Path(metarl.__file__).parent
    folders = [package.parent / "configs", package / "configs"]
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for folder in folders
        for path in sorted(folder.rglob("*.yaml"))
    }


def find_config(name: str) -> Path:
    """A config by path, or by name from the repository's or the installed package's configs.

    Raises:
        UserError: there is none.
    """
    return find_file(name, "", ".yaml", "config")


def find_file(name: str, folder: str, suffix: str, what: str) -> Path:
    """A file by path, or by name from a folder of the repository's or the installed configs.

    Args:
        name: its path, or its name with or without ``suffix``.
        folder: below configs.
        suffix: of the files in the folder.
        what: the file is, for the message.

    Raises:
        UserError: there is none.
    """
    package = Path(metarl.__file__).parent
    folders = [root / "configs" / folder for root in (package.parent, package)]
    # A file that happens to lie in the current folder does not hide one of the named folder.
    local = [Path(name)] if folder else [Path(name), Path(f"{name}{suffix}")]
    named = [place / word for place in folders for word in (name, f"{name}{suffix}")]
    for path in [*local, *named]:
        if _is_file(path):
            return path
    available = sorted(
        str(path.relative_to(place).with_suffix(""))
        for place in folders
        for path in place.rglob(f"*{suffix}")
    )
    raise UserError(
        f"there is no {what} {name[:200]}{suggestion(name, available)}; "
        f"there are {', '.join(available)}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long, say
        return False
