"""Names become objects: a row of a registry, or ``package.module:Name`` of the user's own."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError, described

Check = Callable[[Any], str]
"""Return what is wrong with an object, ``should be ...``; nothing if it is of the right kind."""

_folders: list[str] = []
"""Where modules of the user's own may also be: folders that runs were started in."""
_runs: list[Path] = []
"""Folders of runs, from which nothing is imported."""
_packages: dict[str, None] = {}
"""Top-level packages of the user's own parts, in the order of their first use."""
_files: dict[str, Path] = {}
"""Source files of the user's own parts by name."""


def find(where: str, name: Any, registry: Mapping[str, Any], check: Check) -> Any:
    """Return what ``name`` stands for.

    Args:
        where: the setting that has the name, for messages.
        name: a key of ``registry``, or ``package.module:Name``; the module may be a file in the
            current folder.
        registry: what metarl has.
        check: of an object of the user's own.

    Raises:
        UserError: there is nothing of this name, its module does not import, or ``check`` fails.
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    if not is_plugin(name):
        choices = ", ".join([*registry, "package.module:NAME of your own"])
        nearest = did_you_mean(str(name), list(registry))
        raise UserError(f"{where} {name!r} is unknown{nearest}; there are {choices}")
    part = _import(where, name)
    if fault := check(part):
        raise UserError(f"{where} {name}: it {fault}, got {_kind(part)}")
    if file := _source_file(name, part):
        _files[name] = file
    return part


def is_plugin(name: Any) -> bool:
    """Return whether ``name`` has the form ``package.module:Name``."""
    module, colon, attribute = str(name).partition(":")
    words = [*module.split("."), *attribute.split(".")]
    return isinstance(name, str) and bool(colon) and all(word.isidentifier() for word in words)


def search_also(folder: Path) -> None:
    """Find modules of the user's own in ``folder`` too, after the current one."""
    if str(folder) not in _folders:
        _folders.append(str(folder))


def never_from(run: Path) -> None:
    """Import nothing from the folder of a run, which may be somebody else's."""
    if (folder := run.resolve()) not in _runs:
        _runs.append(folder)


def folders() -> list[str]:
    """Return where modules of the user's own may also be."""
    return [*_folders]


def packages() -> list[str]:
    """Return the top-level packages that parts of the user's own came from."""
    return [*_packages]


def code_of(settings: Any) -> dict[str, str]:
    """Return the SHA-256 of the source file of every part of the user's own that settings name."""
    if isinstance(settings, Mapping):
        return code_of([*settings.values()])
    if isinstance(settings, list):
        return {name: digest for each in settings for name, digest in code_of(each).items()}
    if not isinstance(settings, str) or settings not in _files:
        return {}
    return {settings: hashlib.sha256(_files[settings].read_bytes()).hexdigest()}


def name_of(part: Any) -> str:
    """Return ``package.module:Name`` of a class or function of the user's own.

    The folder of its module, or of its script, is searched from now on.

    Raises:
        UserError: it is not at the top level of a file, so it could not be found again.
    """
    module, name = part.__module__, part.__qualname__
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or "<" in name:
        raise UserError(f"{name} could not be found again: define it at the top level of a file")
    search_also(Path(file).resolve().parents[module.count(".")])
    return f"{Path(file).stem if module == '__main__' else module}:{name}"


def call(where: str, name: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``make(*args, **kwargs)`` of the user's own.

    Raises:
        UserError: it raised anything, with the reason in one line.
    """
    try:
        return make(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:  # whatever a user's code does
        raise UserError(f"{where} {name}: {described(error)}") from error


def subclass_of(*bases: type, needs: Sequence[str] = ()) -> Check:
    """Check for a concrete subclass that has the attributes ``needs``."""
    names = " or ".join(base.__name__ for base in bases)

    def check(part: Any) -> str:
        if not (isinstance(part, type) and issubclass(part, bases)):
            return f"should be a subclass of {names}"
        missing = sorted(getattr(part, "__abstractmethods__", ()))
        missing += [name for name in needs if not hasattr(part, name)]
        if "__dataclass_fields__" not in vars(part):
            return "should be a frozen dataclass (@dataclass(frozen=True))"
        return f"should define {', '.join(missing)}" if missing else ""

    return check


def function_of(*arguments: str) -> Check:
    """Check for a function of these positional arguments."""

    def check(part: Any) -> str:
        if not callable(part):
            return f"should be a function of ({', '.join(arguments)})"
        try:
            inspect.signature(part).bind(*arguments)
        except TypeError:
            return f"should be a function of ({', '.join(arguments)})"
        except ValueError:  # one of C
            return "should be a function with a signature that Python can read"
        return ""

    return check


def class_with(*names: str) -> Check:
    """Check for a class with these attributes."""

    def check(part: Any) -> str:
        missing = [n for n in names if not (isinstance(part, type) and hasattr(part, n))]
        return f"should be a class with {', '.join(missing)}" if missing else ""

    return check


def _import(where: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    for folder in (os.getcwd(), *_folders):
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        _require_outside_of_runs(module.partition(".")[0])
        value: Any = importlib.import_module(module)
    except UserError as error:
        raise UserError(f"{where} {name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's code does
        raise UserError(f"{where} {name} does not import: {_describe_with_place(error)}") from error
    _packages[module.partition(".")[0]] = None
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            names = [x for x in dir(value) if not x.startswith("_")]
            raise UserError(
                f"{where} {name}: {module} has no {part}{did_you_mean(part, names)}"
            ) from None
    return value


def _source_file(name: str, part: Any) -> Path | None:
    """The file that defines ``part``, which the module in its name may have from elsewhere."""
    modules = (getattr(part, "__module__", None), name.partition(":")[0])
    files = (getattr(sys.modules.get(str(module)), "__file__", None) for module in modules)
    return next((Path(file) for file in files if file and os.path.isfile(file)), None)


def _require_outside_of_runs(package: str) -> None:
    """Raise UserError where a package is in the folder of a run."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    for place in (spec.origin, *(spec.submodule_search_locations or [])) if spec else ():
        path = Path(place or "").resolve()
        for run in _runs:
            if path.is_relative_to(run):
                raise UserError(f"{path} is in the folder of a run, from which nothing is imported")


def _describe_with_place(error: BaseException) -> str:
    """An exception in one line, with the place in the user's file that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if len(own) > 1 else ""
    return described(error) + place


def _kind(part: Any) -> str:
    if isinstance(part, type):
        return part.__name__
    if inspect.isfunction(part):
        return f"{part.__name__}{inspect.signature(part)}; its settings need defaults"
    return type(part).__name__
