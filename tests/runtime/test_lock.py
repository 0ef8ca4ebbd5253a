"""The lock of a run's folder: one writer, whoever comes second, and whatever a killed one left."""

import errno
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metarl.commands.main import train
from metarl.experiment.settings import read_settings
from metarl.runtime import lock
from metarl.runtime.errors import UserError
from metarl.runtime.lock import locked

NO_PROCESS = 999_999_999  # more than any system numbers


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path):
    run = tmp_path / "run"
    second = rf"run is being written by process {os.getpid()} "
    with locked(run), pytest.raises(UserError, match=second), locked(run):
        pass
    with locked(run):
        pass
    assert not [*run.iterdir()]


def test_a_run_that_is_being_written_is_neither_resumed_nor_begun(toy, runs: Path, refused, capsys):
    assert train(toy("run")) == 0
    before = (runs / "run" / "metrics.jsonl").read_bytes()
    with locked(runs / "run"):
        for arguments in (["--resume", str(runs / "run")], toy("run", "--resume", "auto")):
            assert "run is being written by process" in refused(train, *arguments)
        read_settings(["--resume", str(runs / "run")])
    with locked(runs / "other"):
        assert "other is being written by process" in refused(train, *toy("other"))
    assert (runs / "run" / "metrics.jsonl").read_bytes() == before


def test_a_lock_ends_with_its_process(tmp_path: Path):
    (tmp_path / lock.NAME).write_text("process 1 on a machine that lost power")
    with locked(tmp_path):
        pass


def test_a_lock_that_its_holder_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch):
    take = lock._try
    removals = iter([True])

    def remove_first(file):
        take(file)
        if next(removals, False):
            (tmp_path / lock.NAME).unlink()

    monkeypatch.setattr(lock, "_try", remove_first)
    with locked(tmp_path), pytest.raises(UserError, match="is being written"), locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch, capsys):
    def fail(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_try", fail)
    with locked(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_only_the_first_of_torchruns_processes_takes_the_lock(tmp_path: Path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch")
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="is being written"), locked(tmp_path):
            pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path):
    other = tmp_path / "notes"
    other.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / lock.NAME).symlink_to(other)
    with pytest.raises(UserError, match="cannot write the run folder"), locked(run):
        pass
    assert other.read_text() == "mine"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    left = [
        tmp_path / f"config.yaml.{NO_PROCESS}.tmp",
        tmp_path / "checkpoints" / f"iteration-000002.pt.{NO_PROCESS}.tmp",
    ]
    others = {tmp_path / "notes.tmp", tmp_path / f"evaluation.json.{os.getppid()}.tmp"}
    for path in (*left, *others):
        path.touch()
    with locked(tmp_path):
        assert {*tmp_path.rglob("*.tmp")} == others


def test_it_imports_where_there_is_no_fcntl(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", ModuleType("msvcrt"))
    monkeypatch.setattr(sys, "platform", "win32")
    assert "locked" in runpy.run_path(lock.__file__)
