"""Whose code a run may name: only runs that this user made here name code unasked."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import metarl
from metarl.commands.main import evaluate, export, keep, report, train
from metarl.experiment import plugins
from metarl.experiment.settings import read_config
from metarl.runtime.checkpoint import CheckpointFolder
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.signature import is_signed, key_file, signature

PART = """
from dataclasses import dataclass
from pathlib import Path

from metarl_envs.point import PointNavigation

Path("imported").touch()


@dataclass(frozen=True, kw_only=True)
class Goal(PointNavigation):
    pass
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_settings: list[str]) -> Path:
    """A folder with ``theirs.py``, and in ``run`` a run that names a family of it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "theirs.py").write_text(PART)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        small = ("--iterations", "1", "--folder", ".", "--name", "run")
        assert train([*toy_settings, "--env.family", "theirs:Goal", *small]) == 0
    sys.modules.pop("theirs")
    return folder


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_folders", [])
    monkeypatch.setattr(plugins, "_runs", [])
    yield
    sys.modules.pop("theirs", None)


@pytest.fixture
def theirs(made: Path, tmp_path: Path, workplace: Path) -> Path:
    """The same run as if somebody else had made it, with the code beside it and in it."""
    folder = shutil.copytree(made, tmp_path / "theirs")
    change_info(folder / "run", directory=str(folder), signature="0" * 64)
    shutil.copy(folder / "theirs.py", folder / "run")
    return folder / "run"


def change_info(run: Path, **changes: str) -> None:
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | changes))


def test_code_that_somebody_elses_run_names_is_not_imported(theirs: Path, refused):
    run = str(theirs)
    for command, arguments in (
        (evaluate, [run]),
        (report, [run]),
        (export, [run]),
        (keep, [run]),
        (train, ["--resume", run]),
        (train, ["--resume", run, "--trust_code", "false"]),
    ):
        said = refused(command, *arguments)
        assert "names code, theirs:Goal, and was not made here by this user; --trust-code" in said
    with pytest.raises(UserError, match="--trust-code"):
        metarl.load(theirs)
    assert str(theirs.parent) not in sys.path
    assert not Path("imported").exists()


def test_it_is_where_the_user_says_so(theirs: Path, workplace: Path):
    assert train(["--resume", str(theirs), "--trust-code", "--iterations", "2"]) == 0
    assert Path("imported").exists()
    assert read_config(RunFolder.open(theirs)).iterations == 2, "it is this user's from now on"


@pytest.mark.parametrize("of_option", [True, False])
def test_the_user_may_name_the_part_or_trust_in_python(theirs: Path, made: Path, of_option: bool):
    if of_option:
        shutil.copy(made / "theirs.py", "theirs.py")
        words = ["--resume", str(theirs), "--env.family", "theirs:Goal", "--print_config"]
        with pytest.raises(SystemExit) as exit_:
            train(words)
        assert exit_.value.code == 0
    else:
        assert metarl.load(theirs, trust_code=True).iterations == 1
    assert Path("imported").exists()


def test_of_a_resumed_run_only_folders_of_this_user_are_signed(
    theirs: Path, made: Path, workplace: Path
):
    shutil.copy(made / "theirs.py", "theirs.py")
    named = ["--env.family", "theirs:Goal", "--iterations", "2"]
    assert train(["--resume", str(theirs), *named]) == 0
    assert RunFolder.open(theirs).info()["directory"] == str(workplace)
    assert read_config(RunFolder.open(theirs)).iterations == 2
    assert str(theirs.parent) not in sys.path


def test_a_warm_start_imports_no_code_that_a_checkpoint_alone_names(
    toy, runs: Path, made: Path, workplace: Path
):
    shutil.copy(made / "theirs.py", "theirs.py")
    assert train(toy("source", "--iterations", "1")) == 0
    checkpoints = RunFolder.open(runs / "source").checkpoints()
    _, state = checkpoints.load()
    state["settings"]["outer"] = {"name": "theirs:Step"}
    checkpoints.save(1, state, 0.0)
    assert train(toy("warm", "--iterations", "1", "--init", str(runs / "source"))) == 0
    assert not Path("imported").exists()


def test_a_run_of_this_user_needs_no_word(made: Path, workplace: Path):
    assert metarl.load(made / "run").iterations == 1


@pytest.mark.parametrize("what", ["part", "folder"])
def test_a_signature_is_of_the_parts_and_of_their_folders(
    made: Path, tmp_path: Path, refused, what: str
):
    run = shutil.copytree(made / "run", tmp_path / "changed")
    if what == "folder":
        change_info(run, directory=str(tmp_path))
    else:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["logging"]["sinks"] = ["theirs:Diary"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "--trust-code" in refused(evaluate, str(run))


def test_nothing_is_imported_from_the_folder_of_a_run(theirs: Path, monkeypatch, capsys):
    change_info(theirs, directory=str(theirs))
    monkeypatch.chdir(theirs)
    assert evaluate([str(theirs), "--trust-code"]) == 2
    assert "is in the folder of a run, from which nothing is imported" in capsys.readouterr().err
    assert not (theirs / "imported").exists()


def test_the_checkpoint_is_compared_before_anything_is_imported(theirs: Path, refused):
    checkpoints = CheckpointFolder(theirs / "checkpoints")
    _, state = checkpoints.load()
    state["settings"]["env"]["family"] = "point-navigation"
    checkpoints.save(1, state, 0.0)
    said = refused(evaluate, str(theirs), "--trust-code")
    assert "was made with other settings: settings.env.family is point-navigation" in said
    assert not Path("imported").exists()


def test_a_kept_copy_is_of_this_user_too(made: Path, workplace: Path, monkeypatch):
    assert keep([str(made / "run"), "--folder", "kept"]) == 0
    monkeypatch.setattr(plugins, "_folders", [])
    sys.modules.pop("theirs")
    (workplace / "theirs.py").write_text(PART)
    assert metarl.load("kept/run").iterations == 1


def test_keys_are_private_and_signatures_of_one_content(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    signed = signature({"a": 1})
    assert is_signed({"a": 1}, signed)
    assert not is_signed({"a": 2}, signed)
    assert not is_signed({"a": 1}, None)
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]
    key_file().unlink()
    assert not is_signed({"a": 1}, signed), "another user has another key"
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert signature({"a": 1}) is None
    assert not is_signed({"a": 1}, None)
