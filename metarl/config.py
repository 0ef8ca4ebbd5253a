"""The schema of an experiment: typed dataclasses are the YAML format and the help text.

Groups that one part of the code owns are defined beside it; this file puts them together and reads
them from files and command lines.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import yaml
from annotated_types import Ge, Gt, MinLen
from jsonargparse import ArgumentParser

from metarl.checkpoint import CheckpointConfig
from metarl.errors import UserError
from metarl.evaluation import EvaluationConfig
from metarl.metrics import LoggingConfig
from metarl.rl.learner import LearnerConfig

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class PolicyConfig:
    """The Gaussian policy network.

    Args:
        hidden_sizes: width of every hidden layer.
        activation: nonlinearity of the hidden layers.
        init_std: initial standard deviation of every action dimension.
        min_std: smallest standard deviation that adaptation can reach.
    """

    hidden_sizes: Annotated[list[Annotated[int, Gt(0)]], MinLen(1)] = field(
        default_factory=lambda: [100, 100]
    )
    activation: Literal["tanh", "relu"] = "tanh"
    init_std: Annotated[float, Gt(0)] = 1.0
    min_std: Annotated[float, Gt(0)] = 1e-6


@dataclass(frozen=True)
class Config(LearnerConfig):
    """An experiment.

    Args:
        env: the task family, ``family: NAME``, and any of its constants by name.
        policy: the policy network.
        evaluation: held-out tasks.
        iterations: meta-updates of the whole run.
        seed: of everything random.
        threads: CPU threads, 0 for one per core; results do not depend on it.
        device: where adaptation and update run; physics is on CPU threads.
        chunk_size: tasks per vectorised call of the update; null: 1 on cpu, all on cuda.
        checkpoint: when to save, what to keep.
        logging: where metrics go.
        folder: runs are kept in here.
        name: of the run, its folder's name; null: config, seed and time.
    """

    env: dict[str, Any] = field(default_factory=lambda: {"family": "point-navigation"})
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    iterations: Annotated[int, Gt(0)] = 100
    seed: Annotated[int, Ge(0)] = 0
    threads: Annotated[int, Ge(0)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    chunk_size: Annotated[int, Gt(0)] | None = None
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    folder: str = "runs"
    name: str | None = None


FIXED = ("env", "policy", "tasks", "trajectories", "inner", "advantage", "outer", "seed")
"""Settings that make a run what it is: a resumed run keeps them."""


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, strings and numbers only."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def fixed_settings(config: Config) -> dict[str, Any]:
    """The settings that a resumed run keeps, as plain values."""
    settings = plain(config)
    return {key: settings[key] for key in FIXED}


def to_yaml(config: Config) -> str:
    return str(yaml.safe_dump(plain(config), sort_keys=False))


class Parser(ArgumentParser):
    """An argument parser whose errors are one line that says what is allowed, with exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}{self._did_you_mean(message)}\n")
        raise AssertionError("exit() does not return")

    def _did_you_mean(self, message: str) -> str:
        known = [o.lstrip("-") for a in self._actions for o in a.option_strings]
        unknown = re.search(r"--([\w.-]+)|option '([\w.-]+)'|[Kk]ey '([\w.-]+)'", message)
        if unknown is None or not re.search("unrecognized|not accept|not expected", message):
            return ""
        group = re.search(r"[Gg]roup '([\w.]+)'", message)
        word = next(g for g in unknown.groups() if g)
        word = f"{group[1]}.{word}" if group and "." not in word else word
        return suggestion(word, known)


def suggestion(word: str, known: Sequence[str]) -> str:
    """`` (did you mean ...?)`` or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def one_line(message: str) -> str:
    """A parser's message without the parts that only its authors can read."""
    message = re.sub(r"\d+ validation errors? for [\w\[\]\-., ]+\n", "", message)
    message = re.sub(r"\[type=.*?\]\n", "", message)
    message = re.sub(r"For further information visit \S+?(?=\.? Got|\s|$)", "", message)
    return re.sub(r"\s*\. (?=Got value)", ". ", " ".join(message.split())).rstrip(" .")


def config_parser(prog: str) -> Parser:
    """The parser of ``train``: ``--config FILE``, ``--resume RUN`` and every setting by its path."""
    parser = Parser(prog=prog, description="Meta-train a policy.", allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", help="YAML file; a path, or a name from configs/."
    )
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder.")
    parser.add_class_arguments(Config)
    return parser


def parse_object(schema: type[Schema], values: dict[str, Any], where: str) -> Schema:
    """Make a dataclass from a dictionary.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range.
    """
    known = [f.name for f in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(
                f"{where}.{key} is not a setting{suggestion(key, known)}; "
                f"there are {', '.join(known)}"
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(schema)
    try:
        return schema(**vars(parser.instantiate(parser.parse_object(values))))
    except Exception as error:
        raise UserError(f"{where}: {one_line(str(error))}") from error


def find_config(name: str) -> Path:
    """A config by path, or by name from the repository's or the installed package's configs.

    Raises:
        UserError: there is none.
    """
    package = Path(__file__).parent
    folders = [package.parent / "configs", package / "configs"]
    for folder in [Path(), *folders]:
        for path in (folder / name, folder / f"{name}.yaml"):
            if path.is_file():
                return path
    available = sorted(
        str(path.relative_to(folder).with_suffix(""))
        for folder in folders
        for path in folder.rglob("*.yaml")
    )
    raise UserError(
        f"there is no config {name}{suggestion(name, available)}; there are {', '.join(available)}"
    )
