"""The schema of an experiment: typed dataclasses are the YAML format and the help text.

Groups that one part of the code owns are defined beside it; this file puts them together and reads
them from files and command lines.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import yaml
from annotated_types import Ge, Gt, MinLen
from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from metarl.checkpoint import CheckpointConfig
from metarl.errors import UserError
from metarl.evaluation import EvaluationConfig
from metarl.metrics import LoggingConfig
from metarl.rl.learner import LearnerConfig
from metarl.run import FIXED

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
        observe_task: append the task's parameters to the observation (the papers' oracle).
        policy: the policy network.
        evaluation: held-out tasks.
        iterations: meta-updates of the whole run; 0 keeps the untrained policy.
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
    observe_task: bool = False
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    iterations: Annotated[int, Ge(0)] = 100
    seed: Annotated[int, Ge(0)] = 0
    threads: Annotated[int, Ge(0)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    chunk_size: Annotated[int, Gt(0)] | None = None
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    folder: str = "runs"
    name: str | None = None

    def __post_init__(self) -> None:
        _require_finite("", dataclasses.asdict(self))
        if self.name and (Path(self.name).name != self.name or self.name == ".."):
            raise ValueError(f"name should be one folder's name, got {self.name}; see also folder")


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


def fixed_settings(config: Config) -> dict[str, Any]:
    """The settings that a resumed run keeps, as plain values."""
    settings = plain(config)
    return {key: settings[key] for key in FIXED}


def to_yaml(config: Config) -> str:
    return str(yaml.safe_dump(plain(config), sort_keys=False))


class Parser(ArgumentParser):
    """An argument parser whose errors are one line that says what is allowed, with exit code 2."""

    origin = ""
    """What the errors should name as their place, a file for example."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        said = f"{self.origin}{one_line(message)}{self._did_you_mean(message)}"
        self.exit(2, f"{self.prog}: error: {said}\n")
        raise AssertionError("exit() does not return")

    def parse_settings(self, arguments: Sequence[str]) -> Namespace:
        """``parse_args`` that also refuses null, and a value in the place of a group."""
        namespace = self.parse_args(list(arguments))
        self._require_groups(self.get_defaults(), namespace)
        try:
            self.validate(namespace, skip_unset=False)
        except TypeError as error:
            self.error(str(error))
        return namespace

    def _require_groups(self, default: Namespace, found: Namespace, where: str = "") -> None:
        for key, value in vars(default).items():
            if isinstance(value, Namespace):
                if not isinstance(found[key], Namespace):
                    self.error(f"{where}{key} should be a mapping, got {found[key]}")
                self._require_groups(value, found[key], f"{where}{key}.")

    def _did_you_mean(self, message: str) -> str:
        """For an unknown option of the command line, or an unknown key of a file."""
        known = [o for action in self._actions for o in action.option_strings]
        if option := re.search(r"unrecognized arguments: (--[\w.-]+)", message):
            return suggestion(option[1], known)
        if key := re.search(r"(?:Group '([\w.]+)' .*)?[Oo]ption '([\w.-]+)'", message):
            return suggestion(".".join(filter(None, key.groups())), [o.lstrip("-") for o in known])
        return ""


def suggestion(word: str, known: Sequence[str]) -> str:
    """`` (did you mean ...?)`` or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
}

MESSAGES = (
    (r"\s+", " "),
    (r"\d+ validation errors? for \S+ (\d+ )?", ""),
    (r"(than|to)( \[type=.*Given value: (\S+))$", r"\1 \3\2"),  # a bound equal to the value is cut
    (r" \[type=.*?/v/\w+", ""),
    (r"Does not validate against .*? Errors: - ", ""),  # of "... | None" only the first is wanted
    (r"(\. Got value: .*?)? - Expected a <class 'NoneType'>.*Given value: ", ". Got value: "),
    (r'Parser key "([\w.]+)":', r"\1"),
    (r"Unable to load config .* Unable to load config \"(.*)\"", r"should be a mapping, got \1"),
    (r"(Input|List) should", "should"),
    (r", unable to parse string as an? \w+| after validation, not 0", ""),
    (r"Expected a typing\.Literal\[(.*?)\]", r"should be one of \1"),
    (r"Expected a <class '(\w+)'>", lambda found: f"should be {TYPES.get(found[1], found[1])}"),
    (r"Expected a tuple", "should be a list"),
    (r"\. Got value:", ", got"),
)
"""What jsonargparse and pydantic say, and how to say it without their internals."""


def one_line(message: str) -> str:
    """A parser's message as one line."""
    for pattern, replacement in MESSAGES:
        message = re.sub(pattern, replacement, message)
    return message.strip(" .")


def config_parser(prog: str) -> Parser:
    """The parser of ``train``: ``--config FILE``, ``--resume RUN``, every setting by its path."""
    parser = Parser(prog=prog, description="Meta-train a policy.", allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", help="YAML file; a path, or a name from configs/."
    )
    parser.add_argument(
        "--resume", metavar="RUN", default=SUPPRESS, help="continue the run in this folder."
    )
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
                f"{where}.{key} is not a setting{suggestion(str(key), known)}; "
                f"there are {', '.join(known)}"
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(schema)
    try:
        namespace = parser.parse_object(values)
        parser.validate(namespace, skip_unset=False)  # parse_object lets null pass
        return schema(**vars(parser.instantiate(namespace)))
    except Exception as error:
        raise UserError(f"{where}: {one_line(str(error))}") from error


def require_mapping(path: Path) -> None:
    """Raises UserError unless ``path`` holds a YAML mapping."""
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {one_line(str(error))}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, one `key: value` per line")


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
