"""Make the sources of supervised tasks that a config describes."""

from pathlib import Path
from typing import Any

from metarl.experiment.plugins import call
from metarl.experiment.registries import SOURCE
from metarl.runtime.errors import UserError, described
from metarl.supervised.fewshot import FewShot
from metarl.supervised.labelled import LabelledSet, LabelledTensors, checked_splits
from metarl.supervised.task_data import Source


def make_source(data: dict[str, Any], folder: str | None) -> Source:
    """The distribution over tasks that ``data`` describes.

    Raises:
        UserError: see ``Group.make``; or its examples cannot be had, or are not sound.
    """
    source = SOURCE.make(data)
    if isinstance(source, LabelledSet):
        return FewShot(_load(source, data["source"], folder), source.ways)
    if folder is not None:
        raise UserError(f"data_folder is for images, which {data['source']} has none of")
    result: Source = source
    return result


def _load(source: LabelledSet, name: str, folder: str | None) -> dict[str, LabelledTensors]:
    """The examples of a set by split.

    Raises:
        UserError: they cannot be had, or are not sound.
    """
    where = "data.source"
    splits = call(where, name, source.load, Path(folder) if folder else None)
    try:
        return checked_splits(splits)
    except (UserError, ValueError) as error:
        raise UserError(f"{where} {name}: {error}") from error
    except Exception as error:  # whatever a user's dataset does
        raise UserError(f"{where} {name}: {described(error)}") from error
