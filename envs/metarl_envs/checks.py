"""Checks of a family's constants: each raises ``ValueError`` with one line."""

from collections.abc import Sequence

import numpy as np


def is_finite(value: object) -> bool:
    """Return whether ``value`` is a finite number, or a sequence of them."""
    array = np.asarray(value)
    return array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def require_count(name: str, value: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least 1."""
    require(
        isinstance(value, int | np.integer) and value >= 1,
        f"{name} must be an integer of at least 1, got {value!r}",
    )


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_range(name: str, bounds: tuple[float, float]) -> None:
    """Raise ``ValueError`` unless ``bounds`` are finite with low < high."""
    require(
        np.shape(bounds) == (2,) and is_finite(bounds) and bounds[0] < bounds[1],
        f"{name} must be [low, high] with low < high, got {bounds}",
    )
