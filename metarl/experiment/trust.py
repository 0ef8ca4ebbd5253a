"""Trust: only runs that this user made here may name code without the user's permission."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from metarl.experiment import plugins
from metarl.experiment.reading import Word
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder, fixed
from metarl.runtime.history import upgraded_state
from metarl.runtime.signature import is_signed, signature
from metarl.runtime.trainer import first_difference


def parts_of(value: Any) -> set[str]:
    """Return every ``package.module:Name`` in nested settings."""
    if isinstance(value, Word):
        return parts_of(value.value)
    if isinstance(value, Mapping):
        return parts_of([*value.values()])
    if isinstance(value, list | tuple):
        return {part for entry in value for part in parts_of(entry)}
    return {value} if plugins.is_plugin(value) else set()


def signature_of(settings: Mapping[str, Any], folders: Iterable[Any]) -> str | None:
    """Return this user's signature of the code that a run names, and of where it may be."""
    return signature(_signature_content(settings, folders))


def folders_of(info: Mapping[str, Any]) -> list[str]:
    """Return the folders that ``run.json`` names, where the run's own parts may be."""
    modules = info.get("modules")
    entries = [info.get("directory"), *(modules if isinstance(modules, list) else [])]
    return [folder for folder in entries if isinstance(folder, str)]


def require_trust(
    run: RunFolder, settings: Mapping[str, Any], user_parts: Iterable[str] = ()
) -> None:
    """Raise UserError unless the code that a run names may be imported.

    It may be if this user made the run or trusts it, or named the same parts. The run's checkpoint
    has to be of the same settings. Nothing in the run's folder itself is ever imported.

    Args:
        run: the run.
        settings: the content of its config, as of today.
        user_parts: parts that the user names.

    Raises:
        UserError: it may not.
    """
    if run.is_checked:
        return
    plugins.never_from(run.path)
    info = run.info()
    folders = folders_of(info)
    is_own = is_signed(_signature_content(settings, folders), info.get("signature"))
    parts = parts_of(settings)
    if not (is_own or run.trust_code) and (others := sorted(parts - {*user_parts})):
        raise UserError(
            f"{run.path} names code, {', '.join(others)}, and was not made here by this user; "
            "--trust-code runs it"
        )
    if parts and not run.checkpoints().is_empty():
        checkpoint, state = run.checkpoints().load()
        of_checkpoint = upgraded_state(state).get("settings")
        if difference := first_difference(of_checkpoint, fixed(settings), "settings"):
            raise UserError(f"{checkpoint.path} was made with other settings: {difference}")
    if is_own or run.trust_code:
        for folder in folders:
            plugins.search_also(Path(folder))
    run.is_checked, run.is_own = True, is_own


def _signature_content(settings: Mapping[str, Any], folders: Iterable[Any]) -> dict[str, Any]:
    return {"parts": sorted(parts_of(settings)), "folders": [*folders]}
