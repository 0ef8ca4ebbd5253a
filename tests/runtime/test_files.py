"""Files of others: regular files of bounded size, and nothing that leads out of a run's folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from metarl.experiment.reading import read_mapping
from metarl.rl.task_file import read_task_file
from metarl.runtime.checkpoint import CheckpointFolder
from metarl.runtime.errors import UserError
from metarl.runtime.files import read_file
from metarl.runtime.folder import RunFolder
from metarl.runtime.memory import memory
from metarl.runtime.sinks import JsonlSink, read_metrics
from metarl.supervised.images import ImageFolder, find_rows
from metarl.supervised.omniglot import find, read


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert read_file(file, 5) == read_file(link, 5) == b"12345"
    for path, largest, links, reason in (
        (file, 4, True, "more than 4 bytes"),
        (link, 5, False, "it is a link"),
        (pipe(tmp_path / "pipe"), 5, True, "not a regular file"),
        (Path("/dev/zero"), 5, True, "not a regular file"),
        (tmp_path, 5, True, "directory"),
        (tmp_path / "missing", 5, True, "No such file"),
    ):
        with pytest.raises(OSError, match=reason):
            read_file(path, largest, links)


READERS: dict[str, Callable[[Path], object]] = {
    "a config": read_mapping,
    "metrics": read_metrics,
    "a task file": lambda path: read_task_file(path, ["x"]),
    "metrics to go on with": JsonlSink,
    "a link to metrics": lambda path: read_metrics(linked(path)),
}


def linked(path: Path) -> Path:
    path.with_name("link").symlink_to(path)
    return path.with_name("link")


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, reader: str):
    with pytest.raises(UserError, match=r"cannot read .*(not a regular file|a link)"):
        READERS[reader](pipe(tmp_path / "pipe"))


def test_pipes_among_the_files_of_a_run_are_damaged_files(tmp_path: Path, capsys):
    run = RunFolder(tmp_path)
    for name in ("run.json", "evaluation.json", "checkpoints/iteration-000001.json"):
        pipe(tmp_path / name)
    (tmp_path / "checkpoints" / "iteration-000001.pt").touch()
    assert run.info() == {}
    assert run.load_evaluation() is None
    assert run.checkpoints().all() == []
    assert "no readable note" in capsys.readouterr().err


def test_pipes_among_images_are_refused(tmp_path: Path):
    pipe(tmp_path / "folders" / "train" / "a" / "x.png")
    (tmp_path / "folders" / "test" / "b").mkdir(parents=True)
    (tmp_path / "folders" / "test" / "b" / "x.png").touch()
    pipe(tmp_path / "table" / "train.csv")
    (tmp_path / "table" / "test.csv").touch()
    pipe(tmp_path / "archive" / "images_background.zip")
    pipe(tmp_path / "drawings" / "A" / "1" / "x.png")
    with pytest.raises(UserError, match="not a regular file"):
        ImageFolder(size=8).load(tmp_path / "folders")
    with pytest.raises(UserError, match="not a regular file"):
        find_rows(tmp_path / "table", "first")
    with pytest.raises(UserError, match=r"should hold images_background\.zip"):
        find(tmp_path / "archive", "images_background")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "drawings", 28)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_table_names_no_image_outside_of_its_set(tmp_path: Path, name: str):
    (tmp_path / "secret.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text(f"filename,label\n{name},a\n")
    with pytest.raises(
        UserError, match=r"train.csv, line 2: .* should be in the folder of the set"
    ):
        find_rows(tmp_path / "set", "first")


def test_a_folder_of_checkpoints_that_is_a_link_leads_to_another_runs(tmp_path: Path):
    others = CheckpointFolder(tmp_path / "other" / "checkpoints")
    others.save(7, {"settings": {}}, 0.0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(others.folder)
    mine = RunFolder(tmp_path / "run").checkpoints(keep=1)
    for use in (mine.all, mine.load, mine.is_empty, lambda: mine.save(1, {}, 1.0)):
        with pytest.raises(UserError, match="checkpoints is a link"):
            use()
    assert [c.iteration for c in others.all()] == [7]


def test_a_checkpoint_that_is_a_link_or_larger_than_memory_is_damaged(tmp_path: Path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    path = folder.save(1, {"settings": {}}, 0.0)
    path.rename(tmp_path / "elsewhere.pt")
    path.symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(UserError, match=r"is intact: .*it is a link"):
        folder.load()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(memory() // 4 + 1)  # a hole, which takes no room on the disk
    with pytest.raises(UserError, match=r"is intact: .*more than"):
        folder.load()


def test_a_run_goes_on_with_no_metrics_of_another(tmp_path: Path):
    (tmp_path / "other.jsonl").touch()
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match=r"metrics.jsonl: it is a link"):
        RunFolder(tmp_path).require_not_ahead_of(start=3, checkpoint_every=1)


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": 1, "x": [1]}',
        '{"iteration": 1, "x": "y"}',
        '{"iteration": 1, "x": true}',
        '{"iteration": true}',
        '{"iteration": -1}',
        '{"iteration": 1, "x": 1' + "0" * 400 + "}",
        "[1]",
        "{",
    ],
)
def test_a_row_of_metrics_has_numbers_or_is_damaged(tmp_path: Path, line: str):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0, "x": null}\n' + line + '\n{"iteration": 2, "x": 1.5}\n')
    assert read_metrics(path) == [{"iteration": 0, "x": None}, {"iteration": 2, "x": 1.5}]
