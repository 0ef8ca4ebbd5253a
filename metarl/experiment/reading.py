"""Read settings: YAML files and command lines become nested mappings."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarl.runtime.console import is_printable
from metarl.runtime.errors import UserError
from metarl.runtime.files import read_file

LONGEST_LINE = 1000  # characters of a message about bad input
LARGEST_FILE = 100_000  # bytes of a config file; ours have a thousand
DEEPEST = 20  # levels of settings; ours have four


TRUST = "trust_code"
"""The option that lets runs of others name code. It needs no value: ``--trust-code``."""


NOT_OF_1_1 = (":timestamp", ":int", ":float")  # of YAML 1.1, which reads 010 as 8 and 1:30 as 90


class Word(str):
    """A value on a command line: text that may stand for a number, a list, true or null."""

    value: Any
    """The text as YAML; the text itself where it is not YAML."""


class Layer(dict[str, Any]):
    """The settings of one file."""

    origin = ""
    """The file."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, no dates, no key twice, and no aliases: a few lines of them can stand for
    gigabytes.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key} is given twice")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        if getattr(self.peek_event(), "tag", None):
            raise yaml.YAMLError("tags are not allowed")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(NOT_OF_1_1)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in {
    "int": r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+|0b[01_]+)$",  # neither octal 010 nor 1:30
    "float": r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|[-+]?\d+[eE][-+]?\d+$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",  # 1e-3 is one
}.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list("-+.0123456789")
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in a file; a key such as ``outer.max_kl`` is a path.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        text = read_file(path, LARGEST_FILE).decode()
        values = _parsed(text, str(path))
        _require_distinct(values)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    except TypeError as error:
        raise UserError(f"{path} should hold text, numbers, lists and mappings only") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, one `key: value` per line")
    layer = Layer(nested(values.items()))
    layer.origin = str(path)
    return layer


def read_words(
    argv: Sequence[str], short: Mapping[str, str] | None = None
) -> tuple[list[str], list[tuple[str, Word]]]:
    """Split a command line in its positional arguments and its options, in order.

    Args:
        argv: words such as ``RUN``, ``--tasks 3`` and ``--tasks=3``.
        short: short names of options and what they are short for.

    Raises:
        UserError: an option has no value.
    """
    positional, options = [], []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            positional.append(word)
            continue
        if word == "--trust-code":
            word = f"--{TRUST}=true"
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals and (text := next(words, "--")).startswith("--"):
            raise UserError(f"--{name} needs a value")
        options.append(((short or {}).get(name, name), _word(name, text)))
    return positional, options


def nested(pairs: Any) -> dict[str, Any]:
    """Return a mapping of mappings from pairs of a dotted path and a value."""
    result: dict[str, Any] = {}
    for path, value in pairs:
        *groups, key = str(path).split(".")
        inner = value.value if isinstance(value, Word) else value
        if isinstance(inner, dict):
            value = nested(inner.items())
        for group in reversed(groups):
            key, value = group, {key: value}
        result = merged(result, {key: value})
    return result


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the union of two nested mappings; ``other`` wins."""
    result = dict(one)
    for key, value in other.items():
        if isinstance(before := result.get(key), dict) and isinstance(value, dict):
            value = merged(before, value)
        result[key] = value
    return result


def one_line(error: Exception) -> str:
    """Return the text of an exception without line breaks, cut where it is very long."""
    return " ".join(str(error).split())[:LONGEST_LINE]


def _word(name: str, text: str) -> Word:
    word = Word(text)
    try:
        word.value = _parsed(text) if text else text
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error)}") from error
    except (yaml.YAMLError, TypeError):
        word.value = text
    return word


def _parsed(text: str, origin: str = "") -> Any:
    """Raise ValueError for what nests too deep, TypeError for what JSON does not know."""
    try:
        loader = _Loader(text)
        loader.name = origin
        value = loader.get_single_data()
        _require_shallow(value)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    json.dumps(value)
    if not is_printable(value):
        raise ValueError("control characters are not allowed")
    return value


def _require_distinct(values: Any) -> None:
    """Raise ValueError where two spellings, ``a.b`` and ``a: {b}``, give one setting twice."""
    for path, times in Counter(_paths(values)).items():
        if times > 1:
            raise ValueError(f"{path} is given twice")


def _paths(values: Any, where: str = "") -> Iterator[str]:
    if not isinstance(values, dict) or not values:
        yield where
        return
    for key, value in values.items():
        yield from _paths(value, f"{where}.{key}".lstrip("."))


def _require_shallow(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise RecursionError
    children = value.values() if isinstance(value, dict) else value
    for child in children if isinstance(value, dict | list) else ():
        _require_shallow(child, depth + 1)
