"""Command lines and files as typed settings; what is wrong with them in one line."""

import argparse
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from metarl.runtime.errors import UserError, leads

Schema = TypeVar("Schema")


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's, which leaves the lines of an epilog as they are."""


class Parser(ArgumentParser):
    """An argument parser whose errors are one line that says what is allowed, with exit code 2."""

    origin = ""
    """What the errors should name as their place, a file for example."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        said = f"{self.origin}{one_line(message)[:LONGEST_LINE]}{self._did_you_mean(message)}"
        self.exit(2, f"{self.prog}: error: {said}\n" if leads() else None)
        raise AssertionError("exit() does not return")

    def parse_settings(self, arguments: Sequence[str]) -> Namespace:
        """``parse_args`` that also refuses null, and a value in the place of a group."""
        try:
            namespace = self.parse_args(list(arguments))
        except Exception as error:  # whatever nonsense in a file leads jsonargparse to
            self.error(str(error) or type(error).__name__)
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

LONGEST_LINE = 1000  # characters of what is said of bad input
LARGEST_FILE = 100_000  # characters of a config file; ours have a thousand
DEEPEST = 20  # levels of settings; ours have four

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


def parse_object(schema: type[Schema], values: dict[str, Any], where: str) -> Schema:
    """Make a dataclass from a dictionary.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range.
    """
    known = [f.name for f in dataclasses.fields(schema)]  # type: ignore[arg-type]
    with _said_of(where):
        return schema(**_parsed(schema, values, where, known))


def parse_settings(
    function: Callable[..., Any], values: dict[str, Any], where: str, skip: int
) -> dict[str, Any]:
    """Return all arguments of a function but the first ``skip``, which are no settings.

    Raises:
        UserError: see ``parse_object``.
    """
    names = list(inspect.signature(function).parameters)
    parsed = _parsed(function, values, where, names[skip:], skipped=names[:skip])
    return {name: parsed[name] for name in names[skip:] if name in parsed}


def _parsed(
    schema: Callable[..., Any],
    values: dict[str, Any],
    where: str,
    known: Sequence[str],
    skipped: Sequence[str] = (),
) -> dict[str, Any]:
    for key in values:
        if key not in known:
            paths = [f"{where}.{name}" for name in sorted(known)]
            raise UserError(
                f"{where}.{key} is not a setting{suggestion(f'{where}.{key}', paths)}; "
                f"there are {', '.join(sorted(known)) or 'none'}"
            )
    parser = ArgumentParser(exit_on_error=False)
    is_class = isinstance(schema, type)
    add = parser.add_class_arguments if is_class else parser.add_function_arguments
    add(schema, skip=set(skipped))
    with _said_of(where):
        namespace = parser.parse_object(values)
        parser.validate(namespace, skip_unset=False)  # parse_object lets null pass
        return dict(vars(parser.instantiate(namespace)))


@contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Turn what goes wrong with the settings of a group into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_placed(one_line(str(error)), where)) from error


def setting_lines(schema: Callable[..., Any], where: str, skip: int = 0) -> list[str]:
    """The settings of a dataclass or function for a help text: name, meaning, default.

    Args:
        skip: arguments at the start that are no settings.
    """
    meanings: dict[str, str] = {}
    for each in reversed(schema.__mro__) if isinstance(schema, type) else (schema,):
        for known in docstring_parser.parse(each.__doc__ or "").params:
            meanings[known.arg_name] = " ".join((known.description or "").split())
    lines = []
    for parameter in [*inspect.signature(schema).parameters.values()][skip:]:
        meaning = meanings.get(parameter.name, "")
        default = "" if parameter.default is parameter.empty else f"(default: {parameter.default})"
        lines.append(f"  --{where}.{parameter.name}")
        text = f"{meaning} {default}".strip()
        lines += textwrap.wrap(text, 76, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _placed(message: str, where: str) -> str:
    """Put the group in front of a message that begins with the name of a setting."""
    if re.match(rf"{where}[.:]", message):
        return message
    return f"{where}.{message}" if re.match(r"\w+ should ", message) else f"{where}: {message}"


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


# A name such as 2024-01-01 is text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _require_bounded(value: Any, depth: int = 0) -> None:
    """Raises RecursionError for settings that nest too deep, ValueError for aliases in text, which
    is read as YAML where a list is wanted.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, str) and "*" in value:
        with suppress(yaml.YAMLError):
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(value)):
                raise ValueError(f"aliases are not allowed, as in {value[:40]!r}")
    children = value.values() if isinstance(value, dict) else value
    for child in children if isinstance(value, dict | list) else ():
        _require_bounded(child, depth + 1)


def require_mappings(values: dict[str, Any], like: dict[str, Any], where: str = "") -> None:
    """Refuse text in the place of a group of settings, which would be the name of another file.

    Args:
        values: contents of a file; a key may be a path, as in ``evaluation.tasks``.
        like: all settings.

    Raises:
        UserError: there is such text.
    """
    for key, value in values.items():
        first, _, rest = str(key).partition(".")
        known, path = like.get(first), f"{where}{first}"
        inner = {rest: value} if rest else value
        if isinstance(known, dict) and isinstance(inner, str):
            raise UserError(f"{path} should be a mapping, got {inner[:LONGEST_LINE]}")
        if isinstance(known, dict) and isinstance(inner, dict):
            require_mappings(inner, known, f"{path}.")


def read_mapping(path: Path) -> dict[str, Any]:
    """The YAML mapping that ``path`` holds.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} characters")
        values = _Loader(text).get_single_data()
        _require_bounded(values)
    except RecursionError as error:
        raise UserError(f"cannot read {path}: it nests too deep") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {one_line(str(error))}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, one `key: value` per line")
    try:
        json.dumps(values)
    except TypeError as error:
        raise UserError(f"{path} should hold text, numbers, lists and mappings only") from error
    return values


def read_value(where: str, text: str) -> Any:
    """The value of a setting on the command line, as YAML has it; text that is none is text.

    Raises:
        UserError: it has aliases or nests too deep.
    """
    try:
        value = _Loader(text).get_single_data()
        _require_bounded(value)
        json.dumps(value)
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: {one_line(str(error)) or 'it nests too deep'}") from error
    except (yaml.YAMLError, TypeError):
        return text
    return value


def named_groups(
    keys: Mapping[str, str],
    names: Mapping[str, str],
    contents: Sequence[dict[str, Any]],
    overrides: Sequence[str],
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Put groups of settings together that say by name what they are of.

    Later settings win. A group that names something else than before starts afresh: what it held
    belonged to the other thing.

    Args:
        keys: of every group the key that has the name, ``{"outer": "name"}``.
        names: of every group the name where none is said.
        contents: of files, in order.
        overrides: words of a command line.

    Returns:
        The groups that are mentioned, and what remains of contents and overrides.

    Raises:
        UserError: a group is no mapping, or an option has no value.
    """
    rest = [dict(values) for values in contents]
    given = [_take_groups(keys, values) for values in rest]
    words = list(overrides)
    given.append(_take_words(keys, words))
    groups: dict[str, dict[str, Any]] = {}
    for by_group in given:
        for group, values in by_group.items():
            held = groups.get(group, {keys[group]: names[group]})
            afresh = values.get(keys[group], held[keys[group]]) != held[keys[group]]
            groups[group] = values if afresh else {**held, **values}
    return groups, rest, words


def _take_groups(keys: Mapping[str, str], values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in list(values):
        group, _, key = str(path).partition(".")
        if group not in keys:
            continue
        value = values.pop(path)
        if key:
            value = {key: value}
        if not isinstance(value, dict):
            raise UserError(f"{group} should be a mapping, got {str(value)[:LONGEST_LINE]}")
        found.setdefault(group, {}).update(value)
    return found


def _take_words(keys: Mapping[str, str], words: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    taken = [word for word in words if word.startswith("--")]
    for word in taken:
        option, equals, text = word.removeprefix("--").partition("=")
        group = option.partition(".")[0]
        if group not in keys:
            continue
        position = words.index(word)
        del words[position]
        if not equals:
            if position == len(words) or words[position].startswith("--"):
                raise UserError(f"--{option} needs a value")
            text = words.pop(position)
        values = _take_groups(keys, {option: read_value(option, text)})
        found.setdefault(group, {}).update(values[group])
    return found
