"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015)."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from metarl.runtime.errors import UserError, warn
from metarl.runtime.files import read_file, write_atomically
from metarl.runtime.seeding import Purpose, generator
from metarl.supervised.download import cache_folder, fetch
from metarl.supervised.images import LabelledImages, decode, reading
from metarl.supervised.labelled import LabelledSet, require_disjoint

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = {
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
"""The official archives and their MD5."""

OTHERWISE = (
    f"download {' and '.join(f'{archive}.zip' for archive in ARCHIVES)} by other means "
    "and give their folder by --data_folder"
)

LARGEST_DRAWING = 2**20  # bytes; the official ones have a few hundred

CACHE_FORMAT = 2
"""To be raised when decoded images are other than before."""


@dataclass(frozen=True)
class Omniglot(LabelledSet):
    """Handwritten characters of 50 alphabets, one class each; ink is 255 and paper is 0.

    The folder of the data holds ``images_background.zip`` and ``images_evaluation.zip`` or what is
    in them as folders; without one they are downloaded. Images are resized by Lanczos.

    Args:
        split: characters: those of both archives are shuffled, the same way always, into
            training, validation and test classes (Finn et al. 2017); alphabets: those of the
            evaluation archive are the test classes (Lake et al. 2015).
        train_classes: characters of training and validation together; the rest are for testing.
            Not used by the split by alphabets.
        validation_classes: how many of them are for validation; by alphabets, the last alphabets
            of the background archive that together have at least so many.
        rotations: characters turned by 90, 180 and 270 degrees are classes too, of the same split
            as the upright one (Santoro et al. 2016).
        size: height and width in pixels; the originals have 105.
    """

    split: Literal["characters", "alphabets"] = "characters"
    train_classes: Annotated[int, Gt(0)] = 1200
    validation_classes: Annotated[int, Ge(0)] = 100
    rotations: bool = True
    size: Annotated[int, Gt(0), Le(1024)] = 28

    def __post_init__(self) -> None:
        if self.split == "characters" and self.validation_classes >= self.train_classes:
            raise ValueError(
                f"validation_classes should be less than train_classes, {self.train_classes}, "
                f"of which they are a part, got {self.validation_classes}"
            )

    def load(self, folder: Path | None) -> dict[str, LabelledImages]:
        sources = [find(folder, archive) for archive in ARCHIVES]
        background, evaluation = (read_cached(source, self.size) for source in sources)
        require_disjoint(dict(zip(ARCHIVES, (background.classes, evaluation.classes), strict=True)))
        if self.split == "characters":
            classes = self._split_characters(background.classes + evaluation.classes)
        else:
            classes = self._split_alphabets(background.classes, evaluation.classes)
        # Before they are turned: upright here and upside down there would be a leak as well.
        require_disjoint(classes)
        characters = _concatenate(background, evaluation)
        images = {split: _select(characters, names) for split, names in classes.items() if names}
        return (
            {split: _with_rotations(c) for split, c in images.items()} if self.rotations else images
        )

    def _split_characters(self, names: Sequence[str]) -> dict[str, list[str]]:
        names = sorted(names)
        if len(names) <= self.train_classes:
            raise UserError(
                f"train_classes should be less than the {len(names)} characters there are, "
                f"so that some are left for testing, got {self.train_classes}"
            )
        order = generator(0, Purpose.IMAGE_SPLIT).permutation(len(names))
        characters = [names[i] for i in order]
        first = self.train_classes - self.validation_classes
        return {
            "train": characters[:first],
            "validation": characters[first : self.train_classes],
            "test": characters[self.train_classes :],
        }

    def _split_alphabets(
        self, background: Sequence[str], evaluation: Sequence[str]
    ) -> dict[str, list[str]]:
        training = sorted(background)
        validation: list[str] = []
        while training and len(validation) < self.validation_classes:
            last = _alphabet(training[-1])
            validation += [name for name in training if _alphabet(name) == last]
            training = [name for name in training if _alphabet(name) != last]
        if not training:
            raise UserError(
                f"validation_classes should leave an alphabet of the {len(background)} characters "
                f"of images_background for training, got {self.validation_classes}"
            )
        return {"train": training, "validation": sorted(validation), "test": sorted(evaluation)}


def _alphabet(name: str) -> str:
    return name.rpartition("/")[0]


def find(folder: Path | None, archive: str) -> Path:
    """An archive's file or folder in ``folder``; None: in the cache, downloaded when needed.

    Raises:
        UserError: it is not there, or cannot be downloaded.
    """
    if folder is None:
        cache = cache_folder() / "omniglot"
        return fetch(f"{URL}{archive}.zip", cache, ARCHIVES[archive], OTHERWISE)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    # An archive first: it is whole or refused, a folder may be half extracted.
    if (path := folder / f"{archive}.zip").is_file() or (path := folder / archive).is_dir():
        return path
    raise UserError(f"{folder} should hold {archive}.zip, or the folder {archive} that is in it")


def read(source: Path, size: int) -> LabelledImages:
    """The characters of an archive or folder, in sorted order: pixels [n, 1, size, size].

    Raises:
        UserError: a drawing cannot be read, or there is none.
    """
    pixels, names = [], []
    for name, file, where in _drawings(source):
        with reading(where):
            pixels.append(255 - decode(file, 1, size))
        names.append(name)
    if not pixels:
        raise UserError(f"{source} should hold ALPHABET/CHARACTER/*.png and holds none")
    classes, labels = np.unique(names, return_inverse=True)
    return LabelledImages(
        torch.from_numpy(np.stack(pixels)), torch.from_numpy(labels), tuple(classes.tolist())
    )


def _drawings(source: Path) -> Iterator[tuple[str, BinaryIO, str]]:
    """(class name, image file, how to call it in an error), in sorted order."""
    if source.is_dir():
        paths = {str(path.relative_to(source)): path for path in source.rglob("*.png")}
        for name, member in _sorted_members(paths):
            path = paths[member]
            with reading(path):
                data = read_file(path, LARGEST_DRAWING)
            yield name, io.BytesIO(data), str(path)
        return
    with reading(source):
        archive = zipfile.ZipFile(source)
    with archive:
        for name, member in _sorted_members(archive.namelist()):
            with reading(f"{member} in {source}"):
                if (size := archive.getinfo(member).file_size) > LARGEST_DRAWING:
                    raise ValueError(f"it would unpack to {size} bytes")
                data = archive.read(member)
            yield name, io.BytesIO(data), f"{member} in {source}"


def _sorted_members(paths: Iterable[str]) -> list[tuple[str, str]]:
    """(class name, path) of .../ALPHABET/CHARACTER/DRAWING.png; other files are left alone."""
    members = []
    for path in paths:
        parts = PurePosixPath(path).parts or ("",)
        hidden = parts[-1].startswith(".")  # as macOS adds to archives
        if path.endswith(".png") and len(parts) >= 3 and not hidden:
            members.append((f"{parts[-3]}/{parts[-2]}", path))
    return sorted(members)


def read_cached(source: Path, size: int) -> LabelledImages:
    """Return the result of ``read`` from the user's cache, as decoding takes seconds.

    Raises:
        UserError: as ``read`` does; a cache that is damaged or cannot be written is not an error.
    """
    try:
        path = cache_folder() / "omniglot" / f"{_fingerprint(source, size)}.npz"
    except UserError:  # there is no place for a cache
        return read(source, size)
    if (hit := _read_cache(path, size)) is not None:
        return hit
    images = read(source, size)
    file = io.BytesIO()
    np.savez(file, pixels=images.pixels, labels=images.labels, classes=np.array(images.classes))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file.getvalue())
    except OSError as error:
        warn(f"cannot keep decoded images in {path.parent}: {error.strerror}")
    return images


def _read_cache(path: Path, size: int) -> LabelledImages | None:
    try:
        # Opened here, for numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file) as arrays:
            pixels, labels, classes = arrays["pixels"], arrays["labels"], arrays["classes"]
    except Exception:  # absent, or damaged in any way: the images are decoded again
        return None
    if pixels.shape != (len(labels), 1, size, size):
        return None
    return LabelledImages(
        torch.from_numpy(pixels), torch.from_numpy(labels), tuple(classes.tolist())
    )


def _fingerprint(source: Path, size: int) -> str:
    """Hash an archive's contents, or the names, sizes and times of a folder's files."""
    digest = hashlib.sha256(f"{CACHE_FORMAT} {size}".encode())
    with reading(source):
        if source.is_file():
            digest.update(source.read_bytes())
        for path in sorted(source.rglob("*.png")):
            state = path.stat()
            digest.update(
                f"{path.relative_to(source)} {state.st_size} {state.st_mtime_ns}".encode()
            )
    return digest.hexdigest()


def _concatenate(*sets: LabelledImages) -> LabelledImages:
    """Concatenate sets that have no class in common."""
    first = np.cumsum([0, *(len(images.classes) for images in sets)])
    return LabelledImages(
        torch.cat([images.pixels for images in sets]),
        torch.cat([images.labels + int(i) for i, images in zip(first, sets, strict=False)]),
        tuple(name for images in sets for name in images.classes),
    )


def _select(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """The images of some classes, which are numbered in the order given."""
    number = {name: i for i, name in enumerate(classes)}
    numbers = torch.tensor([number.get(name, -1) for name in images.classes])[images.labels]
    mask = numbers >= 0
    return LabelledImages(images.pixels[mask], numbers[mask], tuple(classes))


def _with_rotations(images: LabelledImages) -> LabelledImages:
    """The images and, as classes of their own, these turned counterclockwise."""
    quarters = [
        LabelledImages(
            torch.rot90(images.pixels, quarter, (2, 3)),
            images.labels,
            tuple(f"{name}/{90 * quarter}" for name in images.classes),
        )
        for quarter in (1, 2, 3)
    ]
    return _concatenate(images, *quarters)
