"""Labelled examples of a user's own: tensors and datasets become few-shot tasks, or one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import metarl
from metarl.commands.main import evaluate, train
from metarl.experiment.sources import make_source
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose
from metarl.supervised.labelled import checked_splits
from metarl.supervised.task_data import TaskRequest

X = torch.arange(24.0).reshape(6, 4)
Y = torch.tensor([7, 3, 7, 3, 7, 7])
TRAIN, TEST = (X, Y), (X + 100, Y + 10)
LAST_NAN = torch.where(X == 23, torch.nan, X)


class Listed(Dataset):
    """A dataset of what is in a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Streamed(IterableDataset):
    def __iter__(self):
        return iter([*zip(X.numpy(), Y.tolist(), strict=True)])


@pytest.mark.parametrize(
    "train_split",
    [
        TRAIN,
        [X.double(), Y.to(torch.int16)],
        (X.numpy()[::-1][::-1], Y.tolist()),
        (X.int().tolist(), Y.numpy()),
        (X.numpy().astype(np.uint16), Y.numpy().astype(np.uint16)),
        (X.clone().requires_grad_(), Y),
        (X, (Y == 7).long(), ["3", "7"]),
        TensorDataset(X, Y),
        Listed([*zip(X.tolist(), Y.numpy(), strict=True)]),
        Streamed(),
    ],
    ids=[
        "tensors",
        "types",
        "strides",
        "lists",
        "words",
        "gradients",
        "names",
        "tensor",
        "map",
        "stream",
    ],
)
def test_tensors_arrays_and_datasets_give_the_same_examples(train_split):
    found = checked_splits({"test": TEST, "train": train_split})
    assert list(found) == ["train", "test"]
    assert found["train"].names == ("3", "7")
    assert [rows.tolist() for rows in found["train"].of_class] == [[1, 3], [0, 2, 4, 5]]
    assert found["train"].inputs.dtype == torch.float32
    assert torch.equal(found["train"].inputs, X)
    assert found["test"].names == ("13", "17")


def test_bytes_stand_for_numbers_from_0_to_1():
    pixels = (X * 10).to(torch.uint8)
    found = checked_splits({"train": (pixels, Y), "test": TEST})["train"]
    torch.testing.assert_close(found[np.arange(6)], X / 25.5)


BAD = [
    ([TRAIN, TEST], "load should return a mapping of splits, got list"),
    ({"train": TRAIN}, "there is no test split"),
    ({"test": TEST}, "there is no train split"),
    ({"train": TRAIN, "test": TEST, "val": TEST}, "val is not a split; splits are train, valid"),
    ({"train": TRAIN, "test": (X[:0], Y[:0])}, "the test split is empty"),
    ({"train": TRAIN, "test": Listed([])}, "the test split is empty"),
    ({"train": TRAIN, "test": None}, "the test split should be (inputs, labels) or a torch.utils"),
    ({"train": (X, Y[:5]), "test": TEST}, "the train split has 6 inputs and 5 labels"),
    ({"train": (LAST_NAN, Y), "test": TEST}, "train split are not finite, as those of example 5"),
    ({"train": (X * 1e300, Y), "test": TEST}, "train split are not finite"),
    ({"train": (X.to(torch.cfloat), Y), "test": TEST}, "should be real numbers [n, ...], got"),
    ({"train": (X[:, 0], Y), "test": TEST}, "should be real numbers [n, ...], got float32 [6]"),
    ({"train": (X, Y.float()), "test": TEST}, "should be integers [n], got float32 [6]"),
    ({"train": (X, Y[:, None]), "test": TEST}, "should be integers [n], got int64 [6, 1]"),
    ({"train": (X, "abcdef"), "test": TEST}, "labels of the train split should be numbers in a"),
    ({"train": ({1, 2}, Y), "test": TEST}, "should be a tensor or an array, got set"),
    ({"train": (X, Y, ["a", "b"]), "test": TEST}, "from 0 to 1, as there are 2 names, got 3 to 7"),
    ({"train": (X, Y * 0, ["a", "a"]), "test": TEST}, "two classes of the train split have the sa"),
    ({"train": TRAIN, "test": (X[:, 1:], Y + 10)}, "test split have shape [3], those of train [4]"),
    ({"train": TRAIN, "test": TRAIN}, "the splits leak: 3 is in train and in test"),
    (
        {"train": Listed([(X[0], 1), (X[0, 1:], 1)]), "test": TEST},
        "example 1 of the train split ha",
    ),
    ({"train": Listed([(X[0], 1.5)]), "test": TEST}, "of example 0 of the train split should be a"),
    ({"train": Listed([X[0]]), "test": TEST}, "should be (input, label), got Tensor"),
    (
        {"train": Listed([(object(), 1)]), "test": TEST},
        "should be a tensor or an array, got object",
    ),
]


@pytest.mark.parametrize(("splits", "said"), BAD, ids=[said for _, said in BAD])
def test_examples_that_are_not_sound_are_refused(splits, said: str):
    with pytest.raises((ValueError, UserError)) as error:
        checked_splits(splits)
    assert said in str(error.value)


MINE = """
from dataclasses import dataclass

import torch

from metarl.supervised import LabelledSet


@dataclass(frozen=True)
class Blobs(LabelledSet):
    \"\"\"Args: shift: of everything.\"\"\"

    shift: float = 0.0

    def load(self, folder):
        labels = torch.arange(12).repeat(6)
        noise = torch.randn(72, 5, generator=torch.Generator().manual_seed(0))
        x = labels[:, None] + 0.1 * noise + self.shift
        train = labels < 8
        return {"train": (x[train], labels[train]), "test": (x[~train], labels[~train])}


class Bare(Blobs):
    pass


@dataclass(frozen=True)
class Lacking(LabelledSet):
    shift: float = 0.0


@dataclass(frozen=True)
class Fails(Blobs):
    def load(self, folder):
        raise OSError("no disk")


@dataclass(frozen=True)
class NotFinite(Blobs):
    def load(self, folder):
        return super().load(folder) | {"test": (torch.full((9, 5), torch.inf), torch.arange(9))}


@dataclass(frozen=True)
class Named(Blobs):
    source: str = "here"


class Plain:
    task_fields, input_shape, variants = ("slope",), (1,), ()

    def draw(self, what): ...
    def require(self, what): ...


blobs = Blobs()
"""
SMALL = [
    *("--data.ways", "3", "--shots", "2", "--queries", "3", "--tasks", "3", "--iterations", "2"),
    *("--compile", "false", "--evaluation.tasks", "4", "--logging.wandb", "disabled"),
    *("--logging.report", "false"),
]


@pytest.fixture
def mine(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of one's own in the working directory."""
    (workplace / "mine_labelled.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mine_labelled", raising=False)
    return workplace


REFUSED = [
    ("Blobs --data.ways 5", "data.ways is 5, more than the 4 classes of the test split"),
    ("Blobs --queries 5", "shots + queries is 7, more than the 6 examples of class 8 in the test "),
    ("Blobs --evaluation.candidate_rates [0.1]", "there are no validation examples"),
    ("Blobs --data.shft 1", "data.shft is not a setting (did you mean data.shift?)"),
    ("Blobs --model.name conv", "inputs should be images [channels, height, width], these are [5]"),
    ("Bare", "it should be a frozen dataclass (@dataclass(frozen=True)), got Bare"),
    ("Lacking", "it should define load, got Lacking"),
    ("Fails", "data.source mine_labelled:Fails: OSError: no disk"),
    ("NotFinite", "data.source mine_labelled:NotFinite: inputs of the test split are not finite"),
    ("Named", "data.source mine_labelled:Named: call its field source something else"),
    ("blobs", "it should be a class with task_fields, input_shape, draw"),
    ("Plain", "it should be a frozen dataclass, got Plain"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[a for a, _ in REFUSED])
@pytest.mark.usefixtures("mine")
def test_a_set_that_will_not_do_is_refused_before_the_run_begins(refused, arguments: str, said):
    words = ["--data.source", *f"mine_labelled:{arguments}".split()]
    assert said in refused(train, *SMALL, "--name", "run", *words)


def test_a_set_of_ones_own_is_trained_on_and_its_splits_stay(mine: Path, refused, capsys):
    import mine_labelled  # type: ignore[import-not-found]

    small = {
        "shots": 2, "queries": 3, "tasks": 3, "iterations": 2, "compile": False,
        "evaluation": {"tasks": 4}, "logging": {"report": False, "wandb": "disabled"},
    }  # fmt: skip
    data = {"source": mine_labelled.Blobs, "ways": 3, "shift": 1}
    run = metarl.train({"data": data}, small, {"name": "run", "folder": "."})
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["data"] == {"source": "mine_labelled:Blobs", "ways": 3, "shift": 1.0}
    with pytest.raises(UserError, match="give the class Blobs, with its settings beside it"):
        metarl.train({"data": {"source": mine_labelled.Blobs(shift=1)}}, small)
    before = json.loads((run.path / "evaluation.json").read_text())["scores"]
    assert evaluate(["run"]) == 0
    assert json.loads((run.path / "evaluation.json").read_text())["scores"] == before
    assert "data is no option for labelled" in refused(evaluate, "run", "--data.shift", "2")


@pytest.mark.usefixtures("mine")
def test_tasks_are_drawn_from_the_examples_as_they_are():
    source = make_source({"source": "mine_labelled:Blobs", "ways": 4, "shift": 2.0}, None)
    assert source.input_shape == (5,)
    what = TaskRequest(0, Purpose.EVALUATION_TASKS, 0, tasks=20, shots=2, queries=3)
    tasks, (support, query) = source.draw(what)
    for batch, each in ((support, 2), (query, 3)):
        assert batch.inputs.shape == (20, 4 * each, 5)
        label = (batch.inputs.mean(-1) - 2).round().numpy() - 8
        np.testing.assert_array_equal(np.take_along_axis(tasks, batch.targets.numpy(), 1), label)
