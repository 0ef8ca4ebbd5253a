"""Check settings: mappings become typed objects, or one line says what is allowed."""

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import docstring_parser
from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from metarl.experiment.reading import LONGEST_LINE, Word, one_line
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError
from metarl.runtime.paths import PathText

REQUIRED = inspect.Parameter.empty

NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
NAMES |= {NoneType: "null", dict: "a mapping", list: "a list", Any: "anything"}
BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


class Setting(NamedTuple):
    """One argument of a class or function that settings are for."""

    annotation: Any
    default: Any
    meaning: str

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.annotation)


def settings_of(schema: Callable[..., Any], skip: int = 0) -> dict[str, Setting]:
    """Return the settings of a class or function by name.

    Args:
        skip: number of first arguments that are not settings.
    """
    kind = isinstance(schema, type)
    hinted = schema.__init__ if kind and not dataclasses.is_dataclass(schema) else schema
    try:
        hints = typing.get_type_hints(hinted, include_extras=True)
    except (NameError, TypeError):  # of a name that only type checkers import: not checked
        hints = {}
    meanings = _meanings(schema)
    factories = getattr(schema, "__dataclass_fields__", {})
    found = {}
    for name, parameter in [*inspect.signature(schema).parameters.items()][skip:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if name in factories and factories[name].default_factory is not dataclasses.MISSING:
            default = factories[name].default_factory()
        found[name] = Setting(hints.get(name, Any), default, meanings.get(name, ""))
    return found


def leaves(schema: Callable[..., Any], where: str = "", skip: int = 0) -> dict[str, Setting]:
    """Return the settings of a schema and of its groups by their dotted paths."""
    found: dict[str, Setting] = {}
    for name, setting in settings_of(schema, skip).items():
        path = f"{where}.{name}".lstrip(".")
        found |= leaves(setting.annotation, path) if setting.is_group else {path: setting}
    return found


def arguments(
    schema: Callable[..., Any],
    values: Any,
    where: str = "",
    skip: int = 0,
    known: Sequence[str] = (),
) -> dict[str, Any]:
    """Return checked arguments for a class or function.

    Args:
        schema: the class or function; groups of settings are dataclasses among its arguments.
        values: a nested mapping; a ``Word`` in it stands for its text or its value.
        where: path of the mapping, for messages.
        skip: number of first arguments that are not settings.
        known: paths of all settings, to suggest; default: the settings of ``schema``.

    Raises:
        UserError: a setting is unknown, missing, or not of its type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} should be a mapping, got {shown(values)}")
    settings = settings_of(schema, skip)
    found = {}
    for name, value in values.items():
        path = f"{where}.{name}".lstrip(".")
        if name not in settings:
            there_are = f"; there are {', '.join(sorted(settings)) or 'none'}"
            nearest = did_you_mean(path, known or [*leaves(schema, where, skip)])
            raise UserError(f"{path} is not a setting{nearest or there_are}")
        setting = settings[name]
        if setting.is_group:
            found[name] = make(setting.annotation, value, path, known)
        else:
            found[name] = checked(setting.annotation, value, path)
    for name, setting in settings.items():
        if setting.default is REQUIRED and name not in found:
            raise UserError(f"{f'{where}.{name}'.lstrip('.')} needs a value")
    return found


def make(
    schema: Callable[..., Any], values: Any, where: str = "", known: Sequence[str] = ()
) -> Any:
    """Call ``schema`` with checked arguments.

    Raises:
        UserError: see ``arguments``; or ``schema`` raised anything, with its reason.
    """
    found = arguments(schema, values, where, known=known)
    try:
        return schema(**found)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class does
        reason = one_line(error)
        first = reason.partition(" ")[0]
        if where and not first.startswith(f"{where}."):
            reason = f"{where}{'.' if first in settings_of(schema) else ': '}{reason}"
        raise UserError(reason) from error


def checked(annotation: Any, value: Any, where: str) -> Any:
    """Return a value of the annotated type.

    Raises:
        UserError: it is not of that type.
    """
    if get_origin(annotation) is dict and isinstance(value, dict):
        return value
    reasons: list[ValueError] = []  # of types that say what is wrong
    for candidate in (value.value, str(value)) if isinstance(value, Word) else (value,):
        try:
            # As JSON: a list is a tuple there, and neither text nor true is a number.
            return _adapter(annotation).validate_json(json.dumps(candidate), strict=True)
        except ValidationError as error:
            reasons += [e["ctx"]["error"] for e in error.errors() if e["type"] == "value_error"]
        except PydanticUserError:  # a type that pydantic does not know
            return candidate
    if reasons:
        raise UserError(f"{where} {reasons[-1]}")
    name = type_name(annotation)
    example = ", as [1, 2]" if name.startswith("a list") and not _is_list(value) else ""
    raise UserError(f"{where} should be {name}{example}, got {shown(value)}")


def _is_list(value: Any) -> bool:
    return isinstance(value.value if isinstance(value, Word) else value, list)


def type_name(annotation: Any) -> str:
    """Return a type in words: ``an integer >= 1 or null``."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if annotation == PathText:
        return "a path"
    if kind is Annotated:
        name, bounds = type_name(parts[0]), []
        for mark in (mark for each in parts[1:] for mark in _flat(each)):
            if isinstance(mark, MinLen):
                name = name.replace("a list", f"a list of at least {mark.min_length}", 1)
            elif type(mark) in BOUNDS:
                attribute, sign = BOUNDS[type(mark)]
                bounds.append(f"{sign} {getattr(mark, attribute)}")
        return f"{name} {' and '.join(bounds)}".rstrip()
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind in (Union, UnionType):
        return " or ".join(map(type_name, parts))
    if kind is tuple and parts[-1] is not Ellipsis:
        return f"[{', '.join(map(type_name, parts))}]"
    if kind in (list, tuple, Sequence):
        return f"a list, each {type_name(parts[0])}"
    return NAMES.get(kind or annotation, getattr(annotation, "__name__", str(annotation)))


def shown(value: Any) -> str:
    """Return a value as one would write it in a config, cut where it is very long."""
    text = value if isinstance(value, Word) else json.dumps(value, default=str)
    return one_line(ValueError(text))[:LONGEST_LINE]


@cache
def _meanings(schema: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions under ``Args`` of its docstrings; a subclass's win."""
    found = {}
    for each in reversed(schema.__mro__) if isinstance(schema, type) else (schema,):
        for argument in docstring_parser.parse(each.__doc__ or "").params:
            found[argument.arg_name] = " ".join((argument.description or "").split())
    return found


def _flat(mark: Any) -> Iterator[Any]:
    yield from mark if isinstance(mark, GroupedMetadata) else [mark]


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
