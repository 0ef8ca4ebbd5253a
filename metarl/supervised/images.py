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
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from metarl.runtime.errors import UserError, warn
from metarl.runtime.files import read_file
from metarl.supervised.labelled import SPLITS, LabelledSet, require_disjoint

NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""How a folder, a CSV or a cell of one may call each split."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever a file is called; for some others Pillow starts another program."""

MOST_PIXELS = 2**24  # 4096x4096; a small file can stand for an image as large as memory

NAMED = 3  # classes in a message
LARGEST_FILE = 2**27  # bytes of a table or an image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


class LabelledImages(NamedTuple):
    """Images and their classes."""

    pixels: Tensor  # uint8 [n, C, H, W]
    labels: Tensor  # int64 [n], index into classes
    classes: tuple[str, ...]


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turn an exception raised inside into a UserError that names ``where``."""
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
        picture = as_shown(image).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def as_shown(image: Image.Image) -> Image.Image:
    """Return an image as a viewer shows it: upright, on white where it is transparent, 8 bits deep.

    Raises:
        ValueError: its numbers have no largest one that a viewer would show as white.
    """
    is_16_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
    if image.mode.startswith(("I", "F")) and not is_16_bit:
        raise ValueError(
            f"pixels should have 8 bits per channel, or 16 bits of grey; these are {image.mode}"
        )
    ImageOps.exif_transpose(image, in_place=True)
    if is_16_bit:  # Pillow would cut them off at 255
        wide = np.asarray(image).astype(np.int64)
        grey = np.where(wide == image.info.get("transparency"), 255, (wide + 128) // 257)
        return Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image


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
    validation images. Images are as viewers show them, resized by Lanczos to squares.

    Args:
        class_folders: which folders of a split are classes: the first below it, with all that is in
            their own folders, or the deepest, as CHARACTER in ALPHABET/CHARACTER/1.png.
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
    """

    class_folders: Literal["first", "deepest"] = "first"
    size: Annotated[int, Gt(0), Le(1024)] = 84
    channels: Literal[1, 3] = 3

    def load(self, folder: Path | None) -> dict[str, LabelledImages]:
        if folder is None:
            raise UserError("a set of images in a folder needs --data_folder")
        splits = find_rows(folder, self.class_folders)
        require_disjoint({split: {row.label for row in rows} for split, rows in splits.items()})
        file, times = Counter(r.file for rows in splits.values() for r in rows).most_common(1)[0]
        if times > 1:  # it would be adapted on and judged on, or in two classes
            raise UserError(f"{file} is listed {times} times in {folder}")
        images = {split: self._read(rows) for split, rows in splits.items()}
        if dull := [name for split in images.values() for name in dull_classes(split)]:
            warn(
                f"in {folder}, images of {_listing(dull)} are of one colour or all the same; "
                "is this what they should look like?"
            )
        return images

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


def dull_classes(images: LabelledImages) -> list[str]:
    """Return the classes that have an image of one colour, or whose images are all the same."""
    dull = []
    for i, name in enumerate(images.classes):
        pixels = images.pixels[images.labels == i]
        is_plain = (pixels == pixels[..., :1, :1]).flatten(1).all(1)
        is_same = len(pixels) > 1 and bool((pixels == pixels[0]).all())
        if is_plain.any() or is_same:
            dull.append(name)
    return dull


def _listing(names: Sequence[object]) -> str:
    """``4 classes (a, b, c, ...)``."""
    more = ["..."] * (len(names) > NAMED)
    plural = "es" * (len(names) > 1)
    return f"{len(names)} class{plural} ({', '.join([*map(str, names[:NAMED]), *more])})"


def find_rows(folder: Path, class_folders: Literal["first", "deepest"]) -> dict[str, list[Row]]:
    """The images of every split of a set in ``folder``, in sorted order.

    Args:
        folder: where the set is.
        class_folders: see ``ImageFolder``.

    Raises:
        UserError: there are no training or no test images, or a file is named that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if any((folder / split).is_dir() for split in ("train", "test")):
        contents = {
            s: _class_folders(p, class_folders) for s, p in _split_paths(folder, "").items()
        }
        splits = {split: rows for split, (rows, _) in contents.items()}
        if others := [path for _, others in contents.values() for path in others]:
            warn(
                f"{len(others)} files in {folder} are left out, as they are not images in a "
                f"folder of their class: {others[0]}{', ...' * (len(others) > 1)}"
            )
    elif any((folder / f"{split}.csv").is_file() for split in ("train", "test")):
        splits = {
            split: [_row(path, line, row) for line, row in _table(path)]
            for split, path in _split_paths(folder, ".csv").items()
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


def _split_paths(folder: Path, suffix: str) -> dict[str, Path]:
    """Folders or files of the splits; of two names for one split neither is guessed."""
    split_paths: dict[str, Path] = {}
    for split, names in NAMES.items():
        paths = [path for name in names if (path := folder / f"{name}{suffix}").exists()]
        if len(paths) > 1:
            raise UserError(f"{folder} should hold one of {paths[0].name} and {paths[1].name}")
        if paths:
            split_paths[split] = paths[0]
    return split_paths


def _class_folders(
    folder: Path, class_folders: Literal["first", "deepest"]
) -> tuple[list[Row], list[Path]]:
    """The images of a split, and the other files in its folder; hidden ones count for nothing."""
    with reading(folder):
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    rows, others = [], [path for path in entries if not path.is_dir()]
    deep_classes = []
    for entry in filter(Path.is_dir, entries):
        files = [path for path in sorted(entry.rglob("*")) if not path.name.startswith(".")]
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        others += [file for file in files if file.suffix.lower() not in SUFFIXES and file.is_file()]
        if not images:
            raise UserError(f"{entry} holds no images; they should end in {', '.join(SUFFIXES)}")
        if class_folders == "first" and len({file.parent for file in images}) > 1:
            deep_classes.append(entry.name)
        for file in images:
            home = file.parent if class_folders == "deepest" else entry
            rows.append(Row(file, home.relative_to(folder).as_posix()))
    if deep_classes:
        warn(
            f"in {folder}, the images of {_listing(deep_classes)} are in several folders; "
            "with --data.class_folders deepest each of these is a class"
        )
    return rows, others


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
