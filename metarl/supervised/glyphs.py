"""Drawn glyphs: a small set of labelled images that needs no data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose, generator
from metarl.supervised.images import LabelledImages
from metarl.supervised.labelled import SPLITS, LabelledSet, require_disjoint

Array = NDArray[np.floating]

OVERSAMPLING = 4
"""Glyphs are drawn so many times larger and averaged, which smooths their edges."""

POINTS = 16
"""Of the line that stands for a curve."""


@dataclass(frozen=True)
class Glyphs(LabelledSet):
    """Made-up characters, white on black: classes of two to four curved strokes.

    Every drawing of a class is a little different: in the course of its strokes, their width,
    its angle, size and place. The glyphs are the same always.

    Args:
        train_classes: number of training classes.
        validation_classes: number of validation classes.
        test_classes: number of test classes.
        drawings: images per class.
        size: height and width in pixels.
    """

    train_classes: Annotated[int, Gt(0)] = 60
    validation_classes: Annotated[int, Ge(0)] = 20
    test_classes: Annotated[int, Gt(0)] = 20
    drawings: Annotated[int, Gt(0)] = 20
    size: Annotated[int, Gt(0), Le(1024)] = 28

    def load(self, folder: Path | None) -> dict[str, LabelledImages]:
        if folder is not None:
            raise UserError(f"glyphs are drawn and need no --data_folder, got {folder}")
        counts = (self.train_classes, self.validation_classes, self.test_classes)
        classes = {
            split: tuple(f"{split}-glyph-{c:03}" for c in range(count))
            for split, count in zip(SPLITS, counts, strict=True)
            if count
        }
        require_disjoint(classes)
        return {split: self._draw(split, names) for split, names in classes.items()}

    def _draw(self, split: str, classes: tuple[str, ...]) -> LabelledImages:
        pixels = [
            render(vary(strokes, rng), width, self.size)
            for c in range(len(classes))
            for strokes in [invent(generator(0, Purpose.GLYPHS, SPLITS.index(split), c))]
            for i in range(self.drawings)
            for rng in [generator(0, Purpose.GLYPHS, SPLITS.index(split), c, 1 + i)]
            for width in [rng.uniform(0.05, 0.08)]
        ]
        return LabelledImages(
            torch.from_numpy(np.stack(pixels)[:, None]),
            torch.arange(len(classes)).repeat_interleave(self.drawings),
            classes,
        )


def invent(rng: np.random.Generator) -> Array:
    """A class: control points [strokes, 4, 2] of cubic Bezier curves, in a square of side 1."""
    strokes = rng.integers(2, 5)
    return rng.uniform(0.1, 0.9, (strokes, 4, 2))


def vary(strokes: Array, rng: np.random.Generator) -> Array:
    """Return a drawing of a class: its control points moved one by one and all together."""
    angle = rng.normal(0.0, 0.1)  # rad
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = 0.5 + rng.normal(0.0, 0.02, 2)
    points: Array = strokes + rng.normal(0.0, 0.02, strokes.shape) - 0.5
    return rng.uniform(0.9, 1.05) * (points @ turn.T) + centre


def render(strokes: Array, width: float, size: int) -> NDArray[np.uint8]:
    """Draw curves [strokes, 4, 2] as wide as ``width`` of the side: [size, size], ink 255."""
    side = size * OVERSAMPLING
    t = np.linspace(0.0, 1.0, POINTS)[:, None, None]
    a, b, c, d = (strokes[:, i] for i in range(4))
    curves = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    radius = width * side / 2
    for curve in (side * curves).transpose(1, 0, 2):
        line: list[Any] = [tuple(point) for point in curve.tolist()]
        draw.line(line, fill=255, width=round(2 * radius))
        for x, y in line:  # round ends and joints
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image.reduce(OVERSAMPLING))
