"""Find config files and task files by path or by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import metarl
from metarl.experiment.checking import checked
from metarl.experiment.reading import read_mapping
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError
from metarl.runtime.history import renamed
from metarl.runtime.paths import path_of


class Layer(dict[str, Any]):
    """The settings of one file, ``origin``."""

    def __init__(self, values: Mapping[str, Any], origin: Path):
        super().__init__(values)
        self.origin = origin


def read_layers(name: str, above: Sequence[Path] = ()) -> list[Layer]:
    """Return the settings of a config, after those of the configs that its ``base`` names.

    Args:
        name: a path, or a name from configs.
        above: configs that have this one as a base.

    Raises:
        UserError: a config is missing or cannot be read, or is its own base.
    """
    path = find_file(name, "", ".yaml", "config")
    if path in above:
        raise UserError(f"{path} has itself as a base")
    values = Layer(renamed(read_mapping(path)), path)
    bases = checked(str | list[str], values.pop("base", []), f"{path}: base")
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        beside = path.parent / base
        config = str(beside) if os.path.isfile(beside) else base
        layers += read_layers(config, [*above, path])
    return [*layers, values]


def config_files(folder: str = "", suffix: str = ".yaml") -> dict[str, Path]:
    """Return the files in a folder of the repository's or the installed configs, by name."""
    package = Path(metarl.__file__).parent
    places = [root / "configs" / folder for root in (package.parent, package)]
    return {
        str(path.relative_to(place).with_suffix("")): path
        for place in places
        for path in sorted(place.rglob(f"*{suffix}"))
    }


def find_file(name: str, folder: str, suffix: str, what: str) -> Path:
    """Return a file by path, or by name from a folder of the configs; see ``config_files``.

    Args:
        name: its path, or its name with or without ``suffix``.
        folder: below configs.
        suffix: of the files in the folder.
        what: the file is, for the message.

    Raises:
        UserError: there is none.
    """
    name = str(path_of(what, name))
    files = config_files(folder, suffix)
    # A file that happens to lie in the current folder does not hide one of the named folder.
    for path in [name] if folder else [name, f"{name}{suffix}"]:
        if os.path.isfile(path):
            return Path(path)
    if match := files.get(name.removesuffix(suffix)):
        return match
    nearest = did_you_mean(name, files) or f"; there are {', '.join(files)}"
    raise UserError(f"there is no {what} {name[:200]}{nearest}")
