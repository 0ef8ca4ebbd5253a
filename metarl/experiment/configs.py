"""Find config files and task files by path or by name."""

from pathlib import Path

import metarl
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError


def config_files() -> dict[str, Path]:
    """The repository's or the installed package's configs, by name."""
    package = Path(metarl.__file__).parent
    folders = [package.parent / "configs", package / "configs"]
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for folder in folders
        for path in sorted(folder.rglob("*.yaml"))
    }


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
    package = Path(metarl.__file__).parent
    folders = [root / "configs" / folder for root in (package.parent, package)]
    # A file that happens to lie in the current folder does not hide one of the named folder.
    local = [Path(name)] if folder else [Path(name), Path(f"{name}{suffix}")]
    named = [place / word for place in folders for word in (name, f"{name}{suffix}")]
    for path in [*local, *named]:
        if _is_file(path):
            return path
    available = sorted(
        str(path.relative_to(place).with_suffix(""))
        for place in folders
        for path in place.rglob(f"*{suffix}")
    )
    raise UserError(
        f"there is no {what} {name[:200]}{did_you_mean(name, available)}; "
        f"there are {', '.join(available)}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long, say
        return False
