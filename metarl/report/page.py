"""One self-contained HTML page about runs: no scripts, no network."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from metarl.files import write_atomically
from metarl.metrics import Media
from metarl.report import tables
from metarl.report.film import Film, film
from metarl.report.plots import INK, figures, to_png, to_svg
from metarl.report.view import RunView, require_comparable

CAPTIONS = {
    "training": "Return in training, before and after adaptation; band: 95 % interval over the "
    "tasks of an iteration, or over seeds where a name stands for several.",
    "adaptation": "Return on held-out tasks after every inner step, with 95 % intervals.",
    "paths": "Paths from above, before and after every inner step; star: goal, arrow: wanted "
    "direction.",
    "heading": "How far the motion is off the wanted direction, mean over trajectories.",
    "velocity": "Velocity over time before and after every inner step, mean over trajectories.",
    "diagnostics": "The outer step over training; dashed: the trust region's radius.",
}


def write_report(views: Sequence[RunView], page: Path, videos: int) -> Media:
    """Write ``page`` and, in a folder beside it, its figures (SVG, PNG) and videos (MP4).

    Args:
        views: one run, or several to compare.
        page: the HTML file, replaced when the new one is whole.
        videos: held-out tasks to film; of several runs, each one's first task is.

    Returns:
        The pictures.

    Raises:
        UserError: the runs cannot be compared.
        OSError: something cannot be written.
    """
    require_comparable(views)
    assets = page.with_name(f"{page.stem}_files")
    assets.mkdir(parents=True, exist_ok=True)
    drawn = figures(views)
    svgs = {name: to_svg(figure, name) for name, figure in drawn.items()}
    for name, figure in drawn.items():
        write_atomically(assets / f"{name}.svg", svgs[name])
        write_atomically(assets / f"{name}.png", to_png(figure))
    filmed = _film(views, videos, assets)
    write_atomically(page, render(views, svgs, filmed).encode())
    _remove_others(assets, {*svgs, *(f.path.stem for f in filmed)})
    return Media(
        {name: assets / f"{name}.png" for name in drawn},
        {f.path.relative_to(assets).with_suffix("").as_posix(): f.path for f in filmed},
        {"returns": tables.tracker_table(views[0].evaluation)},
    )


def _remove_others(assets: Path, drawn: set[str]) -> None:
    """Remove what an earlier report left here and this one does not have."""
    for path in assets.rglob("*"):
        if path.suffix in (".svg", ".png", ".mp4") and path.stem not in drawn:
            path.unlink(missing_ok=True)


def _film(views: Sequence[RunView], videos: int, assets: Path) -> list[Film]:
    """Videos of one run's first tasks, or of the first task of each of several."""
    if len(views) == 1:
        return film(views[0], videos, assets)
    filmed = []
    for view in views:
        (assets / view.name).mkdir(exist_ok=True)
        found = film(view, min(videos, 1), assets / view.name)
        filmed += [f._replace(caption=f"{view.name}; {f.caption}") for f in found]
    return filmed


def render(views: Sequence[RunView], svgs: Mapping[str, bytes], films: Sequence[Film]) -> str:
    """The page's HTML; everything but the figures is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    pictures = {name: (Markup(_inline(svg)), CAPTIONS[name]) for name, svg in svgs.items()}
    videos = [(_data_url("video/mp4", f.path.read_bytes()), f.caption) for f in films]
    return environment.get_template("page.html").render(
        views=views,
        protocols=[(view.name, tables.protocol(view)) for view in views],
        scores=tables.comparison(views),
        differences=tables.differences(views) if len(views) > 1 else None,
        pictures=pictures,
        videos=videos,
        command=command,
        score=tables.score,
        to_yaml=lambda values: yaml.safe_dump(dict(values), sort_keys=False),
        versions=versions,
    )


def command(view: RunView) -> str:
    """The command line that started the run."""
    recorded = view.info.get("command")
    words = [str(word) for word in recorded] if isinstance(recorded, list) else []
    if not words:
        return "not recorded"
    program = Path(words[0])
    start = ["python", words[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*start, *words[1:]])


def versions(view: RunView) -> dict[str, Any]:
    """What it ran on."""
    info = view.info
    known = {"git commit": info.get("git_commit"), "Python": info.get("python")}
    known |= {"platform": info.get("platform"), "started": info.get("created")}
    packages = info.get("packages")
    known |= packages if isinstance(packages, dict) else {}
    return {k: v for k, v in known.items() if v is not None}


def _inline(svg: bytes) -> str:
    """The ``<svg>`` element, its ink in the page's text colour, as wide as there is room."""
    text = svg.decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg ", '<svg role="img" ', 1)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
