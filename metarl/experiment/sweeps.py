"""Sweeps: every combination of some settings, as a command line of ``train`` each."""

import hashlib
import itertools
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metarl.experiment import settings
from metarl.experiment.reading import Word, read_words
from metarl.experiment.schema import Experiment
from metarl.runtime.errors import UserError

LARGEST = 10_000  # combinations of one sweep
LONGEST_VALUE = 30  # characters of a value in a name
LONGEST_NAME = 200  # characters of a run's name; file systems allow 255
NOT_TAKEN = ("resume", "print_config")
NOT_SWEPT = ("name", "folder", "grid", "print", *NOT_TAKEN)
EXAMPLE = "such as --grid inner.rate=[0.1,0.5]"

Grid = Mapping[str, Sequence[Any]]
"""Values by setting."""
Options = Sequence[tuple[str, Word]]


class Planned(NamedTuple):
    """One run of a sweep: its name, and the arguments of ``metarl train``."""

    name: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(["metarl", "train", *self.words])


def planned(argv: Sequence[str]) -> list[Planned]:
    """Return the runs of a sweep, after all of their settings have been checked.

    Args:
        argv: options of ``train``, and ``--grid KEY=[VALUE,...]`` for every setting that varies.

    Raises:
        UserError: the grid cannot be read, or a combination is not allowed.
    """
    positional, options = read_words(argv)
    if positional:
        raise UserError(f"sweep takes options only, got {positional[0]}; a grid is --grid")
    common = [(name, word) for name, word in options if name not in ("grid", "name")]
    if option := next((name for name, _ in common if name in NOT_TAKEN), None):
        raise UserError(
            f"sweep takes no --{option}: it begins runs of its own, or goes on with them"
        )
    names = [word for name, word in options if name == "name"]
    grid = read_grid([word for name, word in options if name == "grid"])
    if both := [key for key in grid if key != "config" and key in dict(common)]:
        raise UserError(f"{both[0]} has a grid and a value; give one of them")
    return _with_names(common, grid, names[-1] if names else None)


def read_grid(texts: Sequence[str]) -> Grid:
    """Return the values of every setting that varies: ``inner.rate=[0.1,0.5]``.

    Raises:
        UserError: there is no grid, or it is malformed, empty or too large.
    """
    grid: dict[str, Sequence[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise UserError(f"--grid {text}: should be KEY=[VALUE,...], {EXAMPLE}")
        if key in grid:
            raise UserError(f"--grid {key} is given twice; put all values in one list")
        ((_, word),) = read_words([f"--{key}={values}"])[1]
        grid[key] = _distinct(key, word.value)
    if not grid:
        raise UserError(f"needs at least one grid, {EXAMPLE}")
    if bad_key := next((key for key in grid if key in NOT_SWEPT), None):
        raise UserError(
            f"--grid {bad_key}: every run of a sweep has a name of its own, in one folder"
        )
    for one, other in itertools.permutations(grid, 2):
        if other.startswith(f"{one}."):
            raise UserError(f"--grid {one} and --grid {other} set the same thing; give one of them")
    if (number := math.prod(map(len, grid.values()))) > LARGEST:
        raise UserError(f"the grid has {number:,} combinations; at most {LARGEST:,} are allowed")
    return grid


def _distinct(key: str, values: Any) -> Sequence[Any]:
    if not isinstance(values, list):
        raise UserError(f"--grid {key}: should be a list, {EXAMPLE}; got {_text(values)}")
    if not values:
        raise UserError(f"--grid {key}: the list is empty")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UserError(f"--grid {key}: {_text(value)} is given twice")
    return values


def _with_names(common: Options, grid: Grid, name: str | None) -> list[Planned]:
    """Check every combination, and give each run its name."""
    common_words = [word for pair in common for word in _option(*pair)]
    short = _short_keys([key for key in grid if key not in ("seed", "config")])
    spellings = {key: _spell(grid[key]) for key in short}
    runs: list[tuple[str, list[str]]] = []
    for indices in itertools.product(*(range(len(values)) for values in grid.values())):
        at = dict(zip(grid, indices, strict=True))
        own = [word for key, i in at.items() for word in _option(key, _text(grid[key][i]))]
        config, stem = _check([*common_words, *own], own)
        variations = [f"{short[key]}={spellings[key][at[key]]}" for key in short]
        runs.append((_name([name or stem, *variations], config.seed), [*common_words, *own]))
    counts = Counter(name.casefold() for name, _ in runs)
    return [
        _plan(_with_digest(name, words) if counts[name.casefold()] > 1 else name, words)
        for name, words in runs
    ]


def _plan(name: str, words: Sequence[str]) -> Planned:
    return Planned(name, (*words, "--name", name, "--resume", settings.AUTO))


def _check(words: Sequence[str], own: Sequence[str]) -> tuple[Experiment, str]:
    """Return the config that ``train`` makes of these words, and the first part of its name."""
    layers, configs, _ = settings.asked(read_words(words)[1])
    try:
        config = settings.parse(layers)
    except UserError as error:
        raise UserError(f"{error} (with {shlex.join(own)})") from error
    return config, config.name or settings.stem(config, configs)


def _option(key: str, text: str) -> list[str]:
    """Return the words of an option; a value may look like an option itself."""
    return [f"--{key}={text}"] if text.startswith("--") else [f"--{key}", str(text)]


def _text(value: Any) -> str:
    """Return a value as a command line has it: what ``read_words`` reads as the same value."""
    if isinstance(value, str):
        ((_, word),) = read_words([f"--value={value}"])[1]
        return value if word.value == value else json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return json.dumps(value, separators=(",", ":"))


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of every key; all of it where two keys share the last part."""
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: part if count[part] == 1 else key for key, part in last.items()}


def _spell(values: Sequence[Any]) -> list[str]:
    """Return values as parts of a file name, all different: ``[64,64]`` is ``64_64``."""
    texts = [_text(value) for value in values]
    slugs = [_safe(text) for text in texts]
    count = Counter(slug.casefold() for slug in slugs)
    return [
        slug
        if count[slug.casefold()] == 1 and 0 < len(slug) <= LONGEST_VALUE
        else f"{slug[:LONGEST_VALUE]}_{_digest(text)}".lstrip("_")
        for slug, text in zip(slugs, texts, strict=True)
    ]


def _safe(text: str) -> str:
    """Return text with nothing that a shell or a file system may read as something else."""
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text).strip("_")


def _name(parts: Sequence[str], seed: int) -> str:
    """Return a run's name; the seed comes last, where reports look for it."""
    name, end = "-".join([_safe(parts[0]) or "run", *parts[1:]]), f"-seed{seed}"
    if len(name) + len(end) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - len(end) - 9]}-{_digest(name)}"
    return name + end


def _with_digest(name: str, words: Sequence[str]) -> str:
    """Return a name with a digest of the settings but the seed, which comes last."""
    start, _, seed = name.rpartition("-seed")
    pairs = [(key, word) for key, word in read_words(words)[1] if key != "seed"]
    return f"{start}-{_digest(json.dumps(pairs))}-seed{seed}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
