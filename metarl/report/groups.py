"""Groups of runs: seeds of one experiment, by their settings."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl.report.view import Array, RunView
from metarl.runtime.folder import fixed
from metarl.runtime.scores import half_width, paired_differences

MOST = 3  # settings in a group's name, if fewer tell the groups apart
NAMED = 3  # runs in a group's name
MISSING = "–"
DIGITS = 8  # of a hash

Runs = list[RunView]


class Interval(NamedTuple):
    """A mean and its 95 % interval's half-width, NaN for a single sample."""

    mean: float
    ci95: float


def groups(views: Sequence[RunView], among: Sequence[RunView] = ()) -> dict[str, Runs]:
    """Return runs by the name of their group, in order; a group's settings differ in the seed only.

    Args:
        views: the runs, perhaps as one test sees them.
        among: all runs of the report, if ``views`` may lack some: the names tell these apart.
    """
    names = {
        view.name: name
        for name, runs in _by_name(_partition(among or views)).items()
        for view in runs
    }
    runs_by_name: dict[str, Runs] = {}
    for view in views:
        runs_by_name.setdefault(names[view.name], []).append(view)
    return runs_by_name


def experiment(view: RunView) -> dict[str, Any]:
    """Return the settings and data that make a run's scores what they are, but for its seed."""
    evaluation = view.config.get("evaluation", {})
    return {
        **{key: value for key, value in fixed(view.config).items() if key != "seed"},
        "iterations": view.config.get("iterations"),
        "evaluation": {key: evaluation.get(key) for key in ("inner_rates", "candidate_rates")},
        **{f"{split} data": record.sha256[:DIGITS] for split, record in view.data.items()},
    }


def different_settings(parts: Sequence[Runs]) -> dict[str, list[str]]:
    """Return the settings that are not the same in all groups, and each group's value."""
    flat = [dict(_leaves(experiment(runs[0]))) for runs in parts]
    paths = dict.fromkeys(path for settings in flat for path in settings)
    values = {path: [settings.get(path, MISSING) for settings in flat] for path in paths}
    return {path: row for path, row in values.items() if len({*row}) > 1}


def over_seeds(runs: Sequence[RunView]) -> list[Array]:
    """Return the mean scores of the runs after every inner step that all have, if finite."""
    steps = min(len(run.scores) for run in runs)
    means = np.array([[row.mean for row in run.evaluation.rows[:steps]] for run in runs])
    return [x[np.isfinite(x)] for x in means.astype(np.float64).T]


def intervals(runs: Sequence[RunView]) -> list[Interval]:
    """Return the mean over seeds and its interval, after every inner step."""
    return [_interval(samples) for samples in over_seeds(runs)]


def have_same_seeds(parts: Sequence[Runs]) -> bool:
    """Return whether there are several groups, each of the same several seeds."""
    seeds = [sorted(_seeds(runs)) for runs in parts]
    return len(seeds) > 1 and len(seeds[0]) > 1 and all(s == seeds[0] for s in seeds)


def differences_by_seed(first: Runs, other: Runs) -> list[Interval]:
    """Return the mean of other - first over seeds and its interval, after every inner step."""
    partner = dict(zip(_seeds(first), first, strict=True))
    differences = [
        paired_differences(partner[run.config["seed"]].scores, run.scores) for run in other
    ]
    steps = zip(*([row.mean for row in rows] for rows in differences), strict=False)
    return [_interval(np.array(means)[np.isfinite(means)]) for means in steps]


def _interval(samples: Array) -> Interval:
    if not len(samples):
        return Interval(float("nan"), float("nan"))
    return Interval(float(samples.mean()), half_width(samples))


def _partition(views: Sequence[RunView]) -> list[Runs]:
    """Return runs of equal settings together, if their seeds differ.

    Two runs of one seed are of different code or machines. Names without the seed then say which
    runs belong together.
    """
    return [
        runs
        for equal in _by(views, lambda view: json.dumps(experiment(view), sort_keys=True))
        for alike in ([equal] if _are_seeds(equal) else _by(equal, lambda v: v.name_without_seed))
        for runs in ([alike] if _are_seeds(alike) else [[view] for view in alike])
    ]


def _by(views: Sequence[RunView], key: Any) -> list[Runs]:
    parts: dict[str, Runs] = {}
    for view in views:
        parts.setdefault(key(view), []).append(view)
    return [*parts.values()]


def _are_seeds(views: Sequence[RunView]) -> bool:
    return len({*_seeds(views)}) == len(views)


def _seeds(views: Sequence[RunView]) -> list[Any]:
    return [view.config.get("seed") for view in views]


def _by_name(parts: Sequence[Runs]) -> dict[str, Runs]:
    """Return groups by name: what their runs' names share, or else what differs in settings."""
    stems = [_stem(runs) for runs in parts]
    count = Counter(stems)
    nameless = [
        runs for runs, stem in zip(parts, stems, strict=True) if count[stem] > 1 or not stem
    ]
    different = _different(nameless if len(nameless) > 1 else parts)
    runs_by_name: dict[str, Runs] = {}
    for runs, stem in zip(parts, stems, strict=True):
        is_own = stem and count[stem] == 1
        name = stem if is_own else different.get(runs[0].name) or _listing(runs)
        runs_by_name[name if name not in runs_by_name else runs[0].name] = runs
    return runs_by_name


def _stem(runs: Runs) -> str:
    """Return the name that all of a group share; nothing if there is none."""
    stems = {run.name_without_seed for run in runs}
    return stems.pop() if len(stems) == 1 else ""


def _listing(runs: Runs) -> str:
    names = list(dict.fromkeys(run.name_without_seed for run in runs))
    if len(runs) == 1:
        return runs[0].name
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _different(parts: Sequence[Runs]) -> dict[str, str]:
    """Return ``inner.rate 0.1`` by the name of a group's first run, where that tells them apart."""
    rows = different_settings(parts)
    shared = {path: row for path, row in rows.items() if MISSING not in row}
    for paths in ([*shared], [*shared, *(path for path in rows if path not in shared)]):
        least = next((n for n in range(len(paths)) if _tell_apart(rows, paths[:n])), len(paths))
        selection = paths[: max(least, MOST)]
        if _tell_apart(rows, selection):
            break
    names = [
        ", ".join(f"{path} {rows[path][i]}" for path in selection if rows[path][i] != MISSING)
        for i in range(len(parts))
    ]
    count = Counter(names)
    firsts = (runs[0].name for runs in parts)
    return {first: n for first, n in zip(firsts, names, strict=True) if count[n] == 1}


def _tell_apart(rows: Mapping[str, Sequence[str]], paths: Sequence[str]) -> bool:
    columns = [*zip(*(rows[path] for path in paths), strict=True)]
    return bool(columns) and len({*columns}) == len(columns)


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the value, as text, of every setting that is not a mapping."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)
