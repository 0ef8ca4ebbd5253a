"""Check settings: mappings become typed objects, or one line says what is allowed."""

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_args, get_origin

import docstring_parser
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from metarl.experiment.reading import Word, one_line
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError

REQUIRED = inspect.Parameter.empty

NAMES = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
NAMES |= {"string": "text", "null": "null", "object": "a mapping", "path": "a path"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class Setting(NamedTuple):
    """One argument of a class or function that settings are for."""

    annotation: Any
    default: Any
    meaning: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a setting that has only a few."""
        return get_args(self.annotation) if get_origin(self.annotation) is Literal else ()


def settings_of(schema: Callable[..., Any]) -> dict[str, Setting]:
    """Return the settings of a class or function by name; of a ``partial``, the open ones."""
    kind = schema.func if isinstance(schema, partial) else schema
    is_other_class = isinstance(kind, type) and not dataclasses.is_dataclass(kind)
    try:
        function = kind.__init__ if is_other_class else kind
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # of a name that only type checkers import: not checked
        hints = {}
    meanings = _meanings(kind)
    fields = getattr(kind, "__dataclass_fields__", {})
    settings = {}
    for name, parameter in inspect.signature(schema).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if name in fields and fields[name].default_factory is not dataclasses.MISSING:
            default = fields[name].default_factory()
        settings[name] = Setting(hints.get(name, Any), default, meanings.get(name, ""))
    return settings


def leaves(schema: Callable[..., Any], where: str = "") -> dict[str, Setting]:
    """Return the settings of a schema and of its groups by their dotted paths."""
    settings: dict[str, Setting] = {}
    for name, setting in settings_of(schema).items():
        path = f"{where}.{name}".lstrip(".")
        is_group = dataclasses.is_dataclass(setting.annotation)
        settings |= leaves(setting.annotation, path) if is_group else {path: setting}
    return settings


def arguments(
    schema: Callable[..., Any], values: Any, where: str = "", paths: Collection[str] = ()
) -> dict[str, Any]:
    """Return checked arguments for a class or function, defaults too.

    Args:
        schema: the class or function; groups of settings are dataclasses among its arguments.
        values: a nested mapping; a ``Word`` in it stands for its text or its value.
        where: path of the mapping, for messages.
        paths: paths of all settings, to suggest; default: the settings of ``schema``.

    Raises:
        UserError: a setting is unknown, missing, or not of its type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} should be a mapping, got {shown(values)}")
    settings = settings_of(schema)
    kwargs = {name: setting.default for name, setting in settings.items()}
    for name, value in values.items():
        path = f"{where}.{name}".lstrip(".")
        if name not in settings:
            there_are = f"; there are {', '.join(sorted(settings)) or 'none'}"
            nearest = did_you_mean(path, paths or leaves(schema, where))
            raise UserError(f"{path} is not a setting{nearest or there_are}")
        kwargs[name] = checked(settings[name].annotation, value, path, paths)
    if missing := [name for name, value in kwargs.items() if value is REQUIRED]:
        raise UserError(f"{where}.{missing[0]} needs a value".lstrip("."))
    return kwargs


def make(
    schema: Callable[..., Any], values: Any, where: str = "", paths: Collection[str] = ()
) -> Any:
    """Call ``schema`` with checked arguments.

    Raises:
        UserError: see ``arguments``; or ``schema`` raised anything, with its reason.
    """
    kwargs = arguments(schema, values, where, paths)
    try:
        return schema(**kwargs)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class does
        reason = one_line(error)
        first = reason.partition(" ")[0]
        if where and not first.startswith(f"{where}."):
            reason = f"{where}{'.' if first in kwargs else ': '}{reason}"
        raise UserError(reason) from error


def checked(annotation: Any, value: Any, where: str, paths: Collection[str] = ()) -> Any:
    """Return a value of the annotated type; of a dataclass, an object that is made of settings.

    Raises:
        UserError: it is not of that type; or see ``make``.
    """
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return make(annotation, value, where, paths)
    if get_origin(annotation) is dict and isinstance(value, dict):
        return value
    reasons: list[ValueError] = []  # of types that say what is wrong
    candidates = (value.value, str(value)) if isinstance(value, Word) else (value,)
    for candidate in candidates:
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
    is_single = name.startswith("a list") and not isinstance(candidates[0], list)
    raise UserError(f"{where} should be {name}{', as [1, 2]' * is_single}, got {shown(value)}")


def type_name(annotation: Any) -> str:
    """Return a type in words: ``an integer >= 1 or null``."""
    try:
        return _in_words(_adapter(annotation).json_schema())
    except PydanticUserError:  # a type that pydantic does not know
        return getattr(annotation, "__name__", str(annotation))


def _in_words(schema: Mapping[str, Any]) -> str:
    """Return what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(_in_words, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "prefixItems" in schema:
        return f"[{', '.join(map(_in_words, schema['prefixItems']))}]"
    if "items" in schema:
        least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        return f"a list{least}, each {_in_words(schema['items'])}"
    bounds = [f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema]
    kind = schema.get("const", NAMES.get(schema.get("type", ""), "anything"))
    return f"{kind} {' and '.join(bounds)}".rstrip()


def shown(value: Any) -> str:
    """Return a value as one would write it in a config, cut where it is very long."""
    text = value if isinstance(value, Word) else json.dumps(value, default=str)
    return one_line(text)


@cache
def _meanings(schema: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions under ``Args`` of its docstrings; a subclass's win."""
    meanings = {}
    for each in reversed(schema.__mro__) if isinstance(schema, type) else (schema,):
        for argument in docstring_parser.parse(each.__doc__ or "").params:
            meanings[argument.arg_name] = " ".join((argument.description or "").split())
    return meanings


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
