"""How a run begins: versions, commits and command line, the content of ``run.json``."""

import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metarl.runtime.launch import launch_id

PACKAGES = ("metarl", "torch", "mujoco", "gymnasium", "numpy", "scipy")


def origin(
    modules: Sequence[str] = (),
    packages: Sequence[str] = (),
    code: Mapping[str, str] = MappingProxyType({}),
    compiled: bool = False,
) -> dict[str, Any]:
    """Return the origin of a run that this process begins now.

    Args:
        modules: folders of modules of the user's own, besides the current one.
        packages: top-level packages that the user's own parts come from.
        code: hash of the source of each of these parts by its name.
        compiled: whether training is compiled.
    """
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "directory": os.getcwd(),
        "modules": [*modules],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(packages),
        "code": dict(code),
        "git_commit": _own_commit(),
        "directory_git_commit": git_commit(Path.cwd()),
        "tracking_id": _tracking_id(),
        "launch": launch_id(),
        "compiled": compiled,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tracking_id() -> str:
    """Return a new id for a tracker; the one that ``wandb agent`` chose in a sweep of its own."""
    sweep_id = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    return sweep_id or secrets.token_hex(4)


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the versions of metarl's packages, and of those of the user's that are installed."""
    own = {name: _version(name) for name in packages}
    return {name: _version(name) for name in PACKAGES} | {n: v for n, v in own.items() if v}


def _own_commit() -> str | None:
    """Return the commit of metarl; None where it is installed, perhaps in another repository."""
    source = Path(__file__)
    is_tracked = _git(source.parent, "ls-files", "--error-unmatch", source.name) is not None
    return git_commit(source.parent) if is_tracked else None


def git_commit(folder: Path) -> str | None:
    """Return a folder's commit, with ``-dirty`` when it differs; None outside a repository."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
