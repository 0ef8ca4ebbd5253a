"""The data and the code that a run was trained with, and what is said when they are others."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import metarl
from metarl.commands.main import evaluate, report, train
from metarl.experiment import evaluations, provenance
from metarl.experiment.settings import read_config
from metarl.runtime.folder import RunFolder
from metarl.supervised.labelled import LabelledTensors

SMALL = [
    *("--data.source", "image-folder", "--data.size", "8", "--data.channels", "1"),
    *("--data.ways", "2", "--shots", "1", "--queries", "1", "--tasks", "2", "--iterations", "1"),
    *("--compile", "false", "--evaluation.tasks", "3", "--evaluation.inner_steps", "1"),
    *("--logging.wandb", "disabled", "--logging.report", "false", "--folder", "."),
]
OWN = {"train": "abc", "test": "de"}
OTHER = {"train": "xy", "test": "bcz"}


def write_images(folder: Path, splits: dict[str, str], shade: int = 0) -> str:
    """Two images of every class, which is a letter."""
    for split, classes in splits.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                image = Image.new("L", (8, 8), ord(name) + i + shade)
                image.putpixel((i, 0), 0)
                image.save(folder / split / name / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` on the images in ``own``, ``twin`` on others of the same settings in ``other``."""
    place = tmp_path_factory.mktemp("place")
    data = {name: write_images(place / name, splits) for name, splits in
            {"own": OWN, "moved": OWN, "other": OTHER}.items()}  # fmt: skip
    for name, folder in {"run": data["own"], "twin": data["other"]}.items():
        words = [*SMALL, "--folder", str(place), "--name", name, "--data_folder", folder]
        assert train(words) == 0
    return place


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_run_knows_its_classes_and_a_hash_of_their_examples(here: Path):
    data = RunFolder.open(Path("run")).load_data()
    assert {split: record.classes for split, record in data.items()} == {
        "train": {"a": 2, "b": 2, "c": 2},
        "test": {"d": 2, "e": 2},
    }
    saved = json.loads(Path("run/evaluation.json").read_text())
    assert saved["data_sha256"] == data["test"].sha256
    assert "other_data" not in saved


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"train": 1}', b"\xff", b"[" * 9999])
def test_a_damaged_record_is_as_none(damage: bytes, tmp_path: Path):
    (tmp_path / "data.json").write_bytes(damage)
    assert RunFolder(tmp_path).load_data() == {}


@pytest.mark.parametrize("change", ["inputs", "labels", "names", "kind"])
def test_the_hash_is_of_all_that_tasks_are_drawn_from(change: str):
    inputs, labels = torch.zeros(4, 3, dtype=torch.uint8), torch.tensor([0, 0, 1, 1])

    def digest(inputs=inputs, labels=labels, names=("a", "b")) -> str:
        return LabelledTensors(inputs, labels, names).record.sha256

    other: dict[str, Any] = {
        "inputs": {"inputs": inputs + torch.tensor([[0, 0, 1], *[[0, 0, 0]] * 3])},
        "labels": {"labels": torch.tensor([0, 1, 0, 1])},
        "names": {"names": ("a", "c")},
        "kind": {"inputs": inputs.float()},
    }[change]
    assert digest() == digest(inputs.clone()) != digest(**other)


def test_the_same_images_elsewhere_are_the_runs_own(here: Path, capsys):
    before = Path("run/evaluation.json").read_bytes()
    assert evaluate(["run", "--data_folder", "moved"]) == 0
    out, err = capsys.readouterr()
    assert "written to run/evaluation.json" in out
    assert (Path("run/evaluation.json").read_bytes(), err) == (before, "")


def test_other_images_are_evaluated_and_never_kept_as_the_runs_own(here: Path, capsys):
    before = Path("run/evaluation.json").read_bytes()
    assert evaluate(["run", "--data_folder", "other"]) == 0
    out, err = capsys.readouterr()
    assert "NOT as trained: data of other" in " ".join(out.split())
    assert "not kept, because" in out
    assert err == ("metarl: warning: run was trained on 2 of the 3 test classes: b, c\n")
    assert evaluate(["run", "--data_folder", "other", "--output", "scores.json"]) == 0
    assert json.loads(Path("scores.json").read_text())["other_data"] == "other"
    assert Path("run/evaluation.json").read_bytes() == before


def test_runs_on_other_data_have_no_differences_by_task(here: Path, capsys):
    assert evaluate(["run", "twin", "--output", "both.json"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "on other data than run, so without differences: twin" in out
    assert "minus" not in out
    assert json.loads(Path("both.json").read_text())["differences"] == {}
    assert report(["run", "twin", "--output", "both.html", "--videos", "0"]) == 0
    page = Path("both.html").read_text()
    assert "n other data than run, so without differences: twin" in page
    assert "Differences on the same tasks" not in page
    assert "test data" in page  # in the table of what differs


def test_a_resumed_run_keeps_its_data(here: Path, capsys, tmp_path: Path):
    folder = RunFolder.open(Path("run"))
    learner = evaluations.load(folder, read_config(folder)).learner
    provenance.require_same_data(folder, learner)
    other = write_images(tmp_path / "brighter", OWN, shade=50)
    config = replace(read_config(folder), data_folder=other)
    provenance.require_same_data(folder, evaluations.load(folder, config).learner)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        f"metarl: warning: the {split} examples of run are not those that it was begun with"
        for split in ("train", "test")
    ]
    assert train(["--resume", "run", "--iterations", "2", "--data_folder", "other"]) == 2
    assert (
        "run was begun with other data: class a of its train split had 2 examples, not 0; "
        "start a new run instead" in capsys.readouterr().err
    )


def test_a_run_of_an_earlier_version_has_no_record_and_nothing_is_said(here: Path, capsys):
    record = Path("twin/data.json")
    data = record.read_bytes()
    record.unlink()
    try:
        folder = RunFolder.open(Path("twin"))
        config = replace(read_config(folder), data_folder="own")
        trained = evaluations.load(folder, config)
        assert evaluations.is_own(trained)
        assert evaluations.evaluated(trained, keep=False).evaluation.other_data is None
    finally:
        record.write_bytes(data)
    assert capsys.readouterr().err == ""


LINES = """
from dataclasses import dataclass

from metarl.supervised import RegressionFamily


@dataclass(frozen=True, kw_only=True)
class Lines(RegressionFamily):
    task_fields = ("slope",)

    def sample_tasks(self, rng, n):
        return rng.uniform(-1, 1, (n, 1))

    def targets(self, tasks, inputs):
        return tasks[:, None] * inputs
"""


def test_code_of_the_users_own_that_has_changed_is_named(
    toy_supervised, workplace: Path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mine_lines", raising=False)
    module = workplace / "mine_lines.py"
    module.write_text(LINES)
    words = [*toy_supervised("run"), "--folder", "."]
    assert train([*words, "--data.source", "mine_lines:Lines"]) == 0
    assert evaluate(["run"]) == 0
    assert capsys.readouterr().err == ""
    module.write_text(LINES.replace("-1, 1", "-2, 2"))
    warning = "metarl: warning: run was begun with other code of mine_lines:Lines\n"
    metarl.load("run")
    assert capsys.readouterr().err == warning
    assert train(["--resume", "run", "--iterations", "3"]) == 0
    assert capsys.readouterr().err == warning
