"""Read settings: YAML files and command lines become nested mappings."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    @property
    def value(self) -> Any:
        """The text as YAML; the text itself where it is not YAML."""
        try:
            return _parse(self) if self else ""
        except (ValueError, yaml.YAMLError):
            return str(self)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers, no dates, no tags, no key twice, few levels, and no aliases: a few lines
    of them can stand for gigabytes.
    """

    depth = 0

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
        if self.depth > DEEPEST:
            raise yaml.YAMLError("it nests too deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


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


def _parse(text: str, origin: str = "") -> Any:
    """Raise ValueError for control characters, and integers with more digits than JSON may have."""
    loader = _Loader(text)
    loader.name = origin
    value = loader.get_single_data()
    json.dumps(value)
    if not is_printable(value):
        raise ValueError("control characters are not allowed")
    return value


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in a file; a key such as ``outer.max_kl`` is a path.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        text = read_file(path, LARGEST_FILE).decode()
        values = _parse(text, str(path))
        _require_distinct(values)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold settings, one `key: value` per line")
    return merged({}, values)


def read_words(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, Word]]]:
    """Split a command line in its positional arguments and its options, in order.

    Args:
        argv: words such as ``RUN``, ``--tasks 3`` and ``--tasks=3``.

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
        options.append((name, Word(text)))
    return positional, options


def merged(below: Any, above: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return settings as a mapping of mappings, some on top of others.

    Args:
        below: a mapping of mappings; anything else gives way.
        above: a mapping, or pairs of which later ones win; a key like ``outer.max_kl`` is a path.
    """
    result: dict[str, Any] = dict(below) if isinstance(below, Mapping) else {}
    for path, value in above.items() if isinstance(above, Mapping) else above:
        key, dot, rest = str(path).partition(".")
        inner = {rest: value} if dot else value.value if isinstance(value, Word) else value
        result[key] = merged(result.get(key), inner) if isinstance(inner, Mapping) else value
    return result


def at(values: Any, path: str, default: Any = None) -> Any:
    """Return the value at a dotted path of a nested mapping; ``default`` if there is none."""
    for key in path.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return default
        values = values[key]
    return values


def one_line(text: object) -> str:
    """Return a text, or that of an exception, without line breaks, cut where it is very long."""
    return " ".join(str(text).split())[:LONGEST_LINE]


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
