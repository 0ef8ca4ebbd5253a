"""Find config files and task files by path or by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metarl
from metarl.experiment.reading import Layer, read_mapping
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError
from metarl.runtime.history import renamed
from metarl.runtime.paths import path_of


def config_files() -> dict[str, Path]:
    """The repository's or the installed package's configs, by name."""
    package = Path(metarl.__file__).parent
    folders = [package.parent / "configs", package / "configs"]
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for folder in folders
        for path in sorted(folder.rglob("*.yaml"))
    }


def read_layers(name: str, above: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the settings of a config, after those of the configs that its ``base`` names.

    Args:
        name: a path, or a name from configs.
        above: configs that have this one as a base.

    Raises:
        UserError: a config is missing or cannot be read, or is its own base.
    """
    path = find_config(name)
    if str(path) in above:
        raise UserError(f"{path} has itself as a base")
    values = Layer(renamed(read_mapping(path)))
    values.origin = str(path)
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"base in {path} should be the name of a config, or a list of names")
    layers = [
        layer for base in bases for layer in read_layers(_beside(path, base), [*above, str(path)])
    ]
    return [*layers, values]


def _beside(path: Path, base: str) -> str:
    """Return the path of a base that is in the same folder as the config, or its name."""
    beside = path.parent / base
    return str(beside) if path_of("base", beside).is_file() else base


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
    name = str(path_of(what, name))
    package = Path(metarl.__file__).parent
    folders = [root / "configs" / folder for root in (package.parent, package)]
    # A file that happens to lie in the current folder does not hide one of the named folder.
    local = [Path(name)] if folder else [Path(name), Path(f"{name}{suffix}")]
    named = [place / word for place in folders for word in (name, f"{name}{suffix}")]
    for path in [*local, *named]:
        if path.is_file():
            return path
    available = sorted(
        str(path.relative_to(place).with_suffix(""))
        for place in folders
        for path in place.rglob(f"*{suffix}")
    )
    there_are = f"; there are {', '.join(available)}"
    nearest = did_you_mean(name, available) or there_are
    raise UserError(f"there is no {what} {name[:200]}{nearest}")
