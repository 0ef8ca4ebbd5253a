"""Videos of adaptation, drawn by ``metarl_envs.video`` in processes of their own."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metarl.report.view import RunView, after
from metarl.rl.evaluate import RecordedRollouts
from metarl.runtime.errors import warn
from metarl.runtime.files import write_atomically

PACKAGES = "libegl1 and libgl1-mesa-dri, or libosmesa6"
TIMEOUT = 120  # seconds per video; it takes a few


class Film(NamedTuple):
    """A video of one task's adaptation."""

    path: Path  # MP4
    caption: str


def film(view: RunView, tasks: int, folder: Path) -> list[Film]:
    """Videos of the first ``tasks`` held-out tasks; none without an OpenGL library.

    They show the first recorded trajectory before and after every inner step.
    """
    is_drawn = view.family is not None and view.family.is_drawn
    if not isinstance(view.episodes, RecordedRollouts) or tasks == 0 or not is_drawn:
        return []
    paths = [folder / f"task-{m + 1}.mp4" for m in range(min(tasks, view.episodes.qpos.shape[1]))]
    with tempfile.TemporaryDirectory() as temporary:
        clips = [Path(temporary) / f"{m}.npz" for m in range(len(paths))]
        for m, clip in enumerate(clips):
            _save_clip(view, view.episodes, m, clip)
        library = _first_that_draws(clips[0])
        if library is None:
            return []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = [None, *pool.map(lambda clip: _try(clip, library), clips[1:])]
        films = []
        for m, (clip, path, error) in enumerate(zip(clips, paths, errors, strict=True)):
            if error is not None:
                warn(f"there is no video {path}: {error}")
                continue
            write_atomically(path, _video(clip).read_bytes())
            films.append(Film(path, _caption(view, view.episodes, m)))
    return films


def _caption(view: RunView, episodes: RecordedRollouts, m: int) -> str:
    """``velocity 1.25; returns of these episodes: -80 before adaptation, -60 after 1 ...``."""
    returns = [
        f"{rewards.sum():.1f} {after(k)}" if length else f"diverged {after(k)}"
        for k, (rewards, length) in enumerate(
            zip(episodes.rewards[:, m, 0], episodes.lengths[:, m, 0], strict=True)
        )
    ]
    return f"{view.task_name(m)}; returns of these episodes: {', '.join(returns)}"


def _save_clip(view: RunView, episodes: RecordedRollouts, m: int, path: Path) -> None:
    """Write a file for ``metarl_envs.video.Clip.load``."""
    env = view.evaluation.protocol.problem
    constants = {key: value for key, value in env.items() if key != "family"}
    captions = [after(k) for k in range(len(episodes.qpos))]
    np.savez(
        path,
        text=np.array(json.dumps([env["family"], constants, captions])),
        task=np.array(view.evaluation.tasks[m]),
        qpos=episodes.qpos[:, m, 0],
        rewards=episodes.rewards[:, m, 0],
        lengths=episodes.lengths[:, m, 0],
    )


def _video(clip: Path) -> Path:
    return clip.with_suffix(".mp4")


def _first_that_draws(clip: Path) -> str | None:
    """The OpenGL library that draws here, found by drawing the clip with it."""
    own = os.environ.get("MUJOCO_GL")
    errors = []
    # The last is for worlds that are drawn without OpenGL.
    for library in ([own] if own else ["egl", "osmesa"]) + ["disabled"]:
        error = _try(clip, library)
        if error is None:
            return library
        errors.append(error)
    if len(set(errors)) == 1 < len(errors):  # whatever the library: not its fault
        warn(f"no videos: {errors[0]}")
    else:
        warn(f"no videos: no OpenGL library draws here; Debian packages: {PACKAGES} ({errors[0]})")
    return None


def _search_path() -> list[str]:
    """Return this process's module search path, which finds the user's own families."""
    return [folder for folder in sys.path if folder]


def _try(clip: Path, library: str) -> str | None:
    """Draw a clip's video; the last line of the error, or None."""
    try:
        subprocess.run(
            # A session of its own: Ctrl-C asks training to stop after the iteration, and its
            # pictures are part of that.
            [sys.executable, "-P", "-m", "metarl_envs.video", str(clip), str(_video(clip))],
            start_new_session=True,
            env={**os.environ, "MUJOCO_GL": library, "PYTHONPATH": os.pathsep.join(_search_path())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        return f"nothing drawn in {TIMEOUT} seconds"
    return None
