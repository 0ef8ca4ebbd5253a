"""Experiment trackers: Weights & Biases and TensorBoard as sinks; both are imported when used."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from metarl.runtime.errors import warn
from metarl.runtime.sinks import LoggingConfig, Media, Metrics


class WandbSink:
    """Weights & Biases.

    Args:
        folder: where its files go.
        run_id: identifies the run, also after a resume.
        name: shown there.
        config: all settings.
        settings: mode and project.
        start: first iteration of this session; more than 0 resumes ``run_id``.
    """

    INIT_TIMEOUT = 30.0  # seconds; with a key but no network its own default blocks for minutes
    FINISH_TIMEOUT = 120.0  # for what is still to be sent; its own default waits for ever

    def __init__(
        self,
        folder: Path,
        run_id: str,
        name: str,
        config: Mapping[str, Any],
        settings: LoggingConfig,
        start: int,
    ):
        import wandb

        arguments: dict[str, Any] = {
            "project": settings.wandb_project,
            "dir": folder,
            "id": run_id,
            "name": name,
            "config": dict(config),
            "resume": "allow" if start else None,
            "settings": wandb.Settings(
                init_timeout=self.INIT_TIMEOUT, finish_timeout=self.FINISH_TIMEOUT, silent=True
            ),
        }
        try:
            self._run = wandb.init(**arguments, mode=self._mode(settings.wandb))
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            reason = str(error).partition("\n")[0]
            warn(f"wandb cannot go online, so this run is logged offline: {reason}")
            wandb.teardown()
            self._run = wandb.init(**arguments, mode="offline")

    @staticmethod
    def _mode(choice: str) -> Literal["online", "offline"] | None:
        """The mode to ask for; None leaves it to wandb (WANDB_MODE, or online with a key)."""
        if choice == "online":
            return "online"
        if choice == "offline":
            return "offline"
        return None if "WANDB_MODE" in os.environ or _has_wandb_key() else "offline"

    def log(self, iteration: int, metrics: Metrics) -> None:
        with self._end_service_on_failure():
            self._run.log(dict(metrics), step=iteration)

    def show(self, iteration: int, media: Media) -> None:
        import wandb

        tables = {
            f"tables/{n}": wandb.Table(columns=[*t.columns], data=t.rows)
            for n, t in media.tables.items()
        }
        figures = {f"figures/{n}": wandb.Image(str(path)) for n, path in media.figures.items()}
        videos = {f"videos/{n}": wandb.Video(str(path)) for n, path in media.videos.items()}
        with self._end_service_on_failure():
            self._run.log({**tables, **figures, **videos}, step=iteration)

    def close(self) -> None:
        with self._end_service_on_failure():
            self._run.finish()

    @staticmethod
    @contextmanager
    def _end_service_on_failure() -> Iterator[None]:
        """End wandb's service after a failure: else Python prints its traceback at the end."""
        try:
            yield
        except Exception:
            import wandb

            with suppress(Exception):
                wandb.teardown()
            raise


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


class TensorboardSink:
    """TensorBoard event files."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start or None)

    def log(self, iteration: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def show(self, iteration: int, media: Media) -> None:
        for name, path in media.figures.items():
            image = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(f"figures/{name}", image, iteration, dataformats="HWC")
        for name, path in media.videos.items():
            self._add_video(f"videos/{name}", path, iteration)
        for name, table in media.tables.items():
            rows = [table.columns, ["---"] * len(table.columns)]
            rows += [["–" if x is None else f"{x:.4g}" for x in row] for row in table.rows]
            self._writer.add_text(
                f"tables/{name}", "\n".join("|".join(row) for row in rows), iteration
            )

    def _add_video(self, name: str, path: Path, iteration: int) -> None:
        """Add a video as an animated image; TensorBoard's own ``add_video`` needs moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height, data = _gif(path)
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._writer._get_file_writer().add_summary(summary, iteration)

    def close(self) -> None:
        self._writer.close()


def _gif(video: Path) -> tuple[int, int, bytes]:
    """Width, height and bytes of a video as a GIF: every fourth frame in half the size."""
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        width, height = stream.width // 2, stream.height // 2
        frames = [
            frame.to_image().resize((width, height))
            for i, frame in enumerate(container.decode(stream))
            if i % 4 == 0
        ]
        milliseconds = round(4000 / float(stream.average_rate or 20))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0
    )
    return width, height, buffer.getvalue()
