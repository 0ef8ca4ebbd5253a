"""One self-contained HTML page about runs: no scripts, no network."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from metarl.report import comparison, tables
from metarl.report.film import Film, film
from metarl.report.groups import groups
from metarl.report.plots import INK, figures, to_png, to_svg
from metarl.report.view import RunView, by_test, require_comparable
from metarl.rl.evaluate import RecordedRollouts
from metarl.runtime.files import make_folder, read_json, write_atomically
from metarl.runtime.folder import fixed
from metarl.runtime.sinks import Media

CAPTIONS = {
    "training": "Return in training, before and after adaptation; band: 95 % interval over the "
    "tasks of an iteration, or over seeds where a name stands for several.",
    "adaptation": "Return on held-out tasks after every inner step, with 95 % intervals.",
    "by_task": "Return of every held-out task before and after every inner step, against what the "
    "task asks for; crosses, if any: the published model on the same tasks.",
    "paths": "Paths from above, before and after every inner step; star: goal, arrow: wanted "
    "direction.",
    "heading": "How far the motion is off the wanted direction, mean over trajectories.",
    "velocity": "Velocity over time before and after every inner step, mean over trajectories.",
    "progress": "Return on held-out tasks against the time that training had taken; bands: 95 % "
    "intervals over the tasks.",
    "diagnostics": "The outer step over training; dashed: the trust region's radius.",
    "fits": "What the model says of the first held-out tasks before and after adaptation to the "
    "support points.",
    "images": "The first held-out tasks: support images, which the model adapts to, and query "
    "images, of which it says what they show.",
}
SUPERVISED_CAPTIONS = {
    "training": "Score on the query data of the training tasks after adaptation (of Reptile, which "
    "has no query data, on what it adapted to); a running mean, with all logged iterations behind "
    "it, or with the 95 % interval over seeds where a name stands for several.",
    "adaptation": "Score on the query data of held-out tasks after every inner step, with 95 % "
    "intervals over tasks, or over seeds where a name stands for several.",
}
WIDE = ("by_task", "fits", "images", "paths", "heading", "velocity")  # of held-out tasks

DRAWN = "drawn.json"
"""The list of a report's files and their SHA-256: the next report may remove them."""


def write_report(views: Sequence[RunView], page: Path, videos: int) -> Media:
    """Write ``page`` and, in a folder beside it, its figures (SVG, PNG) and videos (MP4).

    Args:
        views: one run, or several to compare.
        page: the HTML file, replaced when the new one is whole.
        videos: held-out tasks to film; of several runs, each one's first task is.

    Returns:
        The pictures.

    Raises:
        UserError: the runs cannot be compared, or the folder of figures is a link.
        OSError: something cannot be written.
    """
    require_comparable(views)
    assets = make_folder(page.with_name(f"{page.stem}_files"))
    pictures = figures(views)
    svgs = {name: to_svg(figure, name) for name, figure in pictures.items()}
    for name, figure in pictures.items():
        write_atomically(assets / f"{name}.svg", svgs[name])
        write_atomically(assets / f"{name}.png", to_png(figure))
    films = _film(views, videos, assets)
    write_atomically(page, render(views, svgs, films).encode())
    files = [assets / f"{name}.{kind}" for name in pictures for kind in ("svg", "png")]
    _remove_earlier(assets, [*files, *(f.path for f in films)])
    return Media(
        {name: assets / f"{name}.png" for name in pictures},
        {f.path.relative_to(assets).with_suffix("").as_posix(): f.path for f in films},
        tables.tracker_tables(views[0]),
    )


def _remove_earlier(assets: Path, files: Sequence[Path]) -> None:
    """Remove an earlier report's files that this one did not draw; list the files of this one."""
    digests = {path.relative_to(assets).as_posix(): _digest(path) for path in files}
    for name, digest in _read_digests(assets / DRAWN).items():
        path = assets / name
        inside = path.resolve().is_relative_to(assets.resolve())
        if name not in digests and inside and path.is_file() and _digest(path) == digest:
            path.unlink()
    write_atomically(assets / DRAWN, json.dumps(digests, indent=1).encode())


def _read_digests(path: Path) -> dict[str, str]:
    try:
        digests = read_json(path)
    except (OSError, ValueError):
        return {}
    return {n: d for n, d in digests.items() if "\0" not in n} if isinstance(digests, dict) else {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _film(views: Sequence[RunView], videos: int, assets: Path) -> list[Film]:
    """Videos of one run's first tasks, or of the first task of each of several."""
    if len(views) == 1:
        return film(views[0], videos, assets)
    films = []
    for view in views:
        if not isinstance(view.episodes, RecordedRollouts):
            continue
        films_of_view = film(view, min(videos, 1), make_folder(assets / view.name))
        films += [f._replace(caption=f"{view.name}; {f.caption}") for f in films_of_view]
    return films


def render(views: Sequence[RunView], svgs: Mapping[str, bytes], films: Sequence[Film]) -> str:
    """The page's HTML; everything but the figures is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    captions = CAPTIONS | ({} if views[0].family else SUPERVISED_CAPTIONS)
    pictures = {name: (Markup(_inline(svg)), captions[name]) for name, svg in svgs.items()}
    tests = by_test(views)
    videos = [(_data_url("video/mp4", f.path.read_bytes()), f.caption) for f in films]
    return environment.get_template("page.html").render(
        views=views,
        title=", ".join(groups(views)) if len(views) > 1 else views[0].name,
        protocols={test: _protocols(runs) for test, runs in tests.items()},
        what_differs=comparison.what_differs(views),
        over_what=comparison.over_what(views),
        scores={test: comparison.scores(runs, views) for test, runs in tests.items()},
        differences={
            test: table
            for test, runs in tests.items()
            if (table := comparison.differences(runs, views))
        },
        pictures=pictures,
        wide=WIDE,
        videos=videos,
        command=command,
        tables=tables,
        settings=settings,
        versions=versions,
    )


def _protocols(views: Sequence[RunView]) -> dict[str, list[str]]:
    """Names of the runs by how their scores were taken."""
    names: dict[str, list[str]] = {}
    for view in views:
        names.setdefault(tables.protocol(view), []).append(view.name)
    return names


def command(view: RunView) -> str:
    """The command line that started the run."""
    argv = view.info.get("command")
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    if not words:
        return "not recorded"
    program = Path(words[0])
    start = ["python", words[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*start, *words[1:]])


def settings(view: RunView) -> str:
    """Return all settings in the order of the run's ``config.yaml``."""
    return str(yaml.safe_dump({**fixed(view.config), **view.config}, sort_keys=False))


def versions(view: RunView) -> dict[str, Any]:
    """Return the versions of the packages that the run used."""
    info = view.info
    entries = {"git commit of metarl": info.get("git_commit")}
    entries |= {"git commit of the directory": info.get("directory_git_commit")}
    entries |= {"Python": info.get("python")}
    entries |= {"platform": info.get("platform"), "started": info.get("created")}
    packages = info.get("packages")
    entries |= packages if isinstance(packages, dict) else {}
    return {k: v for k, v in entries.items() if v is not None}


def _inline(svg: bytes) -> str:
    """The ``<svg>`` element, its ink in the page's text colour; CSS gets to know its width."""
    text = svg.decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    width = re.search(r'width="([\d.]+pt)"', text)
    assert width is not None
    return text.replace("<svg ", f'<svg role="img" style="--width: {width[1]}" ', 1)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
