"""Labelled images for few-shot classification: how they are read, and sets in a folder."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Gt, Le
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from metarl.runtime.errors import UserError
from metarl.runtime.files import read_file
from metarl.supervised.labelled import SPLITS, LabelledSet, require_disjoint

NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""How a folder, a CSV or a cell of one may call each split."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever a file is called; for some others Pillow starts another program."""

MOST_PIXELS = 2**24  # 4096x4096; a small file can stand for an image as large as memory

LARGEST_FILE = 2**27  # bytes of a table or an image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


class LabelledImages(NamedTuple):
    """Images and what they show."""

    pixels: Tensor  # uint8 [n, C, H, W]
    labels: Tensor  # int64 [n], index into classes
    classes: tuple[str, ...]


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turn what is raised inside into a UserError that names ``where``."""
    try:
        yield
    # Pillow, zipfile and zlib raise a dozen kinds of errors on damaged bytes.
    except Exception as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(" ".join(f"cannot read {where}: {reason}".split())) from error


def decode(file: BinaryIO, channels: int, size: int) -> NDArray[np.uint8]:
    """An image file as [channels, size, size], resized by Lanczos; its aspect ratio is not kept.

    Raises:
        Exception: of many kinds, when the file is damaged; see ``reading``.
    """
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:  # before they are decoded
            raise ValueError(f"it has {image.width}x{image.height} pixels, more than {MOST_PIXELS}")
        if image.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
            raise ValueError(f"pixels should have 8 bits per channel, these are {image.mode}")
        converted = image.convert("L" if channels == 1 else "RGB")
    resized = np.asarray(converted.resize((size, size), Image.Resampling.LANCZOS))
    return resized.reshape(size, size, channels).transpose(2, 0, 1)


class Row(NamedTuple):
    """One image of a set in a folder."""

    file: Path
    label: str


@dataclass(frozen=True)
class ImageFolder(LabelledSet):
    """A set of one's own in a folder. Its images are in one of these orders:

    - ``train/``, ``validation/`` (or ``val/``) and ``test/``, each with one folder per class;
    - ``train.csv``, ``validation.csv`` (or ``val.csv``) and ``test.csv`` with the columns
      ``filename`` and ``label`` (as MiniImagenet is shared);
    - one CSV of any other name with the columns ``filename`` (or ``file``), ``label``, ``split``.

    File names in a CSV are relative to ``images/`` or to the folder itself. There may be no
    validation images. Images are resized by Lanczos to squares.

    Args:
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
    """

    size: Annotated[int, Gt(0), Le(1024)] = 84
    channels: Literal[1, 3] = 3

    def load(self, folder: Path | None) -> dict[str, LabelledImages]:
        if folder is None:
            raise UserError("a set of images in a folder needs --data_folder")
        splits = find_rows(folder)
        require_disjoint({split: {row.label for row in rows} for split, rows in splits.items()})
        file, times = Counter(r.file for rows in splits.values() for r in rows).most_common(1)[0]
        if times > 1:  # it would be adapted on and judged on, or in two classes
            raise UserError(f"{file} is listed {times} times in {folder}")
        return {split: self._read(rows) for split, rows in splits.items()}

    def _read(self, rows: Sequence[Row]) -> LabelledImages:
        classes = tuple(sorted({row.label for row in rows}))
        index = {name: i for i, name in enumerate(classes)}
        # In place: these are gigabytes, and Pillow decodes and resizes without the GIL.
        pixels = np.empty((len(rows), self.channels, self.size, self.size), np.uint8)

        def fill(i: int) -> None:
            with reading(rows[i].file):
                data = io.BytesIO(read_file(rows[i].file, LARGEST_FILE))
                pixels[i] = decode(data, self.channels, self.size)

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(fill, range(len(rows))):  # its first error ends it
                pass
        labels = torch.tensor([index[row.label] for row in rows])
        return LabelledImages(torch.from_numpy(pixels), labels, classes)


def find_rows(folder: Path) -> dict[str, list[Row]]:
    """The images of every split of a set in ``folder``, in sorted order.

    Raises:
        UserError: there are no training or no test images, or a file is named that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if any((folder / split).is_dir() for split in ("train", "test")):
        splits = {split: _class_folders(path) for split, path in _named(folder, "").items()}
    elif any((folder / f"{split}.csv").is_file() for split in ("train", "test")):
        splits = {
            split: [_row(path, line, row) for line, row in _table(path)]
            for split, path in _named(folder, ".csv").items()
        }
    elif len(tables) == 1:
        splits = _one_table(tables[0])
    else:
        raise UserError(
            f"{folder} should hold train/ and test/ folders of class folders, "
            f"train.csv and test.csv, or one CSV file; it holds {len(tables)} CSV files"
        )
    for split in ("train", "test"):
        if not splits.get(split):
            raise UserError(f"{folder} has no {split} images")
    return {split: sorted(splits[split]) for split in SPLITS if splits.get(split)}


def _named(folder: Path, suffix: str) -> dict[str, Path]:
    """Folders or files of the splits; of two names for one split neither is guessed."""
    found: dict[str, Path] = {}
    for split, names in NAMES.items():
        paths = [path for name in names if (path := folder / f"{name}{suffix}").exists()]
        if len(paths) > 1:
            raise UserError(f"{folder} should hold one of {paths[0].name} and {paths[1].name}")
        if paths:
            found[split] = paths[0]
    return found


def _class_folders(folder: Path) -> list[Row]:
    rows = []
    with reading(folder):
        entries = sorted(folder.iterdir())
    for entry in entries:
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        files = [
            file
            for file in entry.rglob("*")
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
        if not files:
            raise UserError(f"{entry} holds no images; they should end in {', '.join(SUFFIXES)}")
        rows += [Row(file, entry.name) for file in files]
    return rows


def _table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers."""
    with reading(path):
        text = read_file(path, LARGEST_FILE).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        return [(reader.line_num, row) for row in reader]


def _row(path: Path, line: int, row: Mapping[str, str]) -> Row:
    name = _cell(path, line, row, "filename", "file")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise UserError(f"{path}, line {line}: {name} should be in the folder of the set")
    candidates = [path.parent / "images" / name, path.parent / name]
    file = next((file for file in candidates if os.path.isfile(file)), None)
    if file is None:
        raise UserError(f"{path}, line {line}: there is no file {candidates[0]}")
    return Row(file, _cell(path, line, row, "label"))


def _cell(path: Path, line: int, row: Mapping[str, str], *columns: str) -> str:
    for column in columns:
        if value := (row.get(column) or "").strip():
            return value
    raise UserError(f"{path}, line {line}: there is no {' or '.join(columns)}")


def _one_table(path: Path) -> dict[str, list[Row]]:
    spelling = {name: split for split, names in NAMES.items() for name in names}
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for line, row in _table(path):
        name = _cell(path, line, row, "split")
        if name not in spelling:
            raise UserError(
                f"{path}, line {line}: split should be one of {', '.join(spelling)}, got {name}"
            )
        splits[spelling[name]].append(_row(path, line, row))
    return splits
