"""Paths in settings, options and arguments: what a shell makes of them, or one line."""

from pathlib import Path

import pytest

import metarl
from metarl.commands.main import evaluate, gradcheck, keep, train
from metarl.experiment.checking import checked, leaves, type_name
from metarl.experiment.overrides import EvaluateOptions
from metarl.experiment.schema import SCHEMAS
from metarl.experiment.settings import parse
from metarl.runtime.errors import UserError
from metarl.runtime.paths import PathText, expanded

IMPOSSIBLE = {
    "nul": ("a\0b", "should be a path, which has no NUL"),
    "surrogate": ("a\udce9b", "should be a path"),
    "long name": ("x" * 256, "should be a path of at most 4095 bytes and 255 in a name"),
    "long path": ("x/" * 3000, "should be a path of at most 4095 bytes and 255 in a name"),
    "loop": ("loop/data", "should be a path, and loop/data is a link to itself"),
}
PATHS = [
    *("folder", "name", "init", "data_folder", "evaluation.task_file"),
    *("task_file", "output"),
]


@pytest.fixture(autouse=True)
def home(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (workplace / "loop").symlink_to("loop")
    monkeypatch.setenv("HOME", "/home/someone")
    return workplace


def test_home_is_in_place_of_its_sign():
    assert expanded("~/runs") == "/home/someone/runs"
    assert expanded("~") == "/home/someone"
    assert expanded("a~/b") == "a~/b"
    config = parse([{"folder": "~/runs", "data": {"source": "glyphs"}, "data_folder": "~/set"}])
    assert (config.folder, config.data_folder) == ("/home/someone/runs", "/home/someone/set")


@pytest.mark.parametrize(("text", "said"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_path_that_no_file_can_have_is_refused(text: str, said: str, refused):
    with pytest.raises(UserError, match="folder should be a path"):
        checked(PathText | None, text, "folder")
    with pytest.raises(ValueError, match=said):
        expanded(text)
    for command, *words in (
        *((train, "--folder", text), (train, "--resume", text), (train, "--config", text)),
        *((evaluate, text), (gradcheck, text), (keep, "run", "--folder", text)),
    ):
        line = refused(command, *words)
        assert said in line
        assert line.isascii()
    with pytest.raises(UserError, match=said):
        metarl.load(text)


def test_every_setting_of_a_path_is_of_the_type():
    settings = {
        path: type_name(setting.annotation)
        for schema in (*SCHEMAS.values(), EvaluateOptions)
        for path, setting in leaves(schema).items()
    }
    assert {path for path, kind in settings.items() if "a path" in kind} == {*PATHS}
