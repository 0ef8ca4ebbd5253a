"""Commands on supervised runs: what they refuse, what they print, what they keep."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from metarl.commands.main import evaluate, report, train
from metarl.experiment.settings import read_settings
from metarl.runtime.sinks import read_metrics

GLYPHS = ("--data.source", "glyphs", "--model.name", "dense", "--data.ways", "3")
MODULE = """
from torch import nn

def fine(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.BatchNorm1d(4), nn.ReLU(),
                         nn.Linear(4, outputs))

def narrow(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))

def running(shape, outputs):
    return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(),
                         nn.Linear(784, outputs))

def three(shape, outputs, more):
    return nn.Linear(1, 1)

def number(shape, outputs):
    return outputs
"""

BAD_SETTINGS = [
    ("--data.source cosine", "data.source 'cosine' is unknown; there are sinusoid, omniglot"),
    ("--data.source sinusoids", "did you mean sinusoid?"),
    ("--data.phase [0,1]", "data.phase is not a setting (did you mean data.phase_range?)"),
    ("--data.noise -1", "data.noise should be a number >= 0, got -1"),
    ("--data.ways 5", "data.ways is not a setting"),
    ("--env.horizon 5", "env is not a setting; there are checkpoint, "),
    ("--trajectories 5", "trajectories is not a setting"),
    (
        "--inner.algorithm maml2",
        "should be one of maml, fomaml, reptile, anil, boil, cavia, meta-sgd, maml++, imaml, got",
    ),
    ("--outer.max_kl 0.1", "outer.max_kl is not a setting"),
    ("--evaluation.tests [5shot]", "evaluation.tests should have K-shot or K-shot half-range"),
    ("--model.name resnet", "there are mlp, conv, dense, package.module:NAME of your own"),
    (
        "--model.name no.such:thing",
        "model.name no.such:thing does not import: ModuleNotFoundError: No module named 'no'",
    ),
    ("--model.name conv", "model.name conv"),
    ("--data_folder .", "data_folder is for images, which sinusoid has none of"),
    ("--data.source glyphs --data.ways 1", "data.ways should be an integer >= 2, got 1"),
    ("--data.source glyphs --data.ways 99", "data.ways is 99, more than the 20 classes"),
    (
        "--data.source glyphs --queries 19",
        "shots + queries is 21, more than the 20 examples",
    ),
    ("--inner.reduction class-sum", "class-sum is for classification"),
    ("--inner.algorithm reptile --inner.steps 0", "inner.steps should be at least 1 for reptile"),
    ("--evaluation.tests []", "evaluation.tests should have at least one test"),
    ("--data.source glyphs --data.size 2000", "data.size should be an integer > 0 and <= 1024"),
    (
        "--data.source glyphs --model.name mine:three",
        "mine:three: it should be a function of (shape, outputs)",
    ),
    ("--data.source glyphs --observe_task true", "observe_task is for regression"),
    ("--data.source image-folder", "--data_folder"),
    ("--data.source image-folder --data_folder missing", "missing"),
    ("--data.source omniglot --data_folder missing", "missing"),
    ("--data.source glyphs --model.name conv --data.size 8 --model.pooling max", "too small"),
    ("--data.source glyphs --model.name mine:narrow", "the model gives (3, 2) for 3 inputs"),
    ("--data.source glyphs --model.name mine:running", "layer 0 has running statistics"),
    ("--data.source glyphs --model.name mine:number", "should make a torch.nn.Module, got int"),
    ("--data.source glyphs --model.name mine:fine --inner.algorithm anil", "no parameter starts"),
]


@pytest.fixture
def mine(workplace: Path, monkeypatch) -> None:
    """A module of one's own in the working directory."""
    (workplace / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(("arguments", "said"), BAD_SETTINGS)
@pytest.mark.usefixtures("mine")
def test_a_bad_setting_is_refused(refused, toy_supervised, arguments: str, said: str):
    assert said in refused(train, *toy_supervised("run"), *arguments.split())


@pytest.mark.usefixtures("mine")
def test_a_model_of_ones_own_is_trained_with_the_statistics_of_batches(
    toy_supervised, runs: Path, capsys
):
    arguments = ("--data.source", "glyphs", "--model.name", "mine:fine")
    assert train(toy_supervised("run", *arguments)) == 0
    assert "mine:fine: batch norm now uses the statistics of the batch" in capsys.readouterr().err
    result = json.loads((runs / "run" / "evaluation.json").read_text())
    assert [other["test"] for other in result["others"]] == ["2-shot, transductive"]


def test_a_diverging_run_stops_in_one_line_and_keeps_its_last_good_checkpoint(
    toy_supervised, runs: Path, capsys
):
    settings = ("--outer.learning_rate", "1e19", "--iterations", "50")
    assert train(toy_supervised("run", *settings)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "metarl train: error: iteration " in err
    done = len(read_metrics(runs / "run" / "metrics.jsonl"))
    assert 0 < done < 50
    newest = max((runs / "run" / "checkpoints").glob("*.pt"))
    assert newest.name == f"iteration-{done:06d}.pt"
    assert f"iteration {done}:" in err


def test_without_a_compiler_training_goes_on_and_says_so_once(
    toy_supervised, runs: Path, monkeypatch, capsys
):
    monkeypatch.setattr("metarl.experiment.build.compiler_fault", lambda: "No C++ compiler found")
    assert train(toy_supervised("run", "--compile", "true")) == 0
    assert capsys.readouterr().err == (
        "metarl: warning: nothing is compiled, which is slower: No C++ compiler found\n"
    )
    assert len(read_metrics(runs / "run" / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    ("config", "iterations", "compiles"),
    [
        ("sinusoid", 1999, False),
        ("sinusoid", 2000, True),
        ("ant_goal", 49, False),
        ("ant_goal", 50, True),
    ],
)
def test_long_runs_are_compiled(config: str, iterations: int, compiles: bool, capsys):
    arguments = ["--config", config, "--iterations", str(iterations)]
    assert read_settings(arguments)[0].compile is compiles


def test_metrics_are_logged_every_so_many_iterations_and_resumed_alike(
    toy_supervised, runs: Path, capsys
):
    arguments = ("--logging.every", "4", "--checkpoint.every", "3")
    assert train(toy_supervised("run", *arguments, "--iterations", "5")) == 0
    assert train(["--resume", str(runs / "run"), "--iterations", "10"]) == 0
    rows = read_metrics(runs / "run" / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [3, 4, 7, 9]


def test_evaluate_prints_and_compares_every_test(toy_supervised, runs: Path, tmp_path, capsys):
    tests = ("--evaluation.tests", "[2-shot,3-shot half-range]")
    for name, algorithm in (("one", "maml"), ("two", "fomaml")):
        arguments = toy_supervised(name, *tests, "--inner.algorithm", algorithm)
        assert train(arguments) == 0
    capsys.readouterr()
    paths = [str(runs / "one"), str(runs / "two")]
    output = tmp_path / "both.json"
    assert evaluate([*paths, "--tasks", "7", "--steps", "2", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    for test in ("2-shot", "3-shot half-range"):
        assert f"side by side, {test}" in out
        assert f"7 held-out tasks, {test}, 2 queries" in " ".join(out.split())
    found = json.loads(output.read_text())
    one, two = found["runs"]["one"], found["runs"]["two"]
    assert one["tasks"] == two["tasks"]
    assert np.shape(one["scores"]) == np.shape(one["others"][0]["scores"]) == (3, 7)
    pairs = [(one, two), (one["others"][0], two["others"][0])]
    names = ["two - one, 2-shot", "two - one, 3-shot half-range"]
    assert list(found["differences"]) == names
    for rows, (first, other) in zip(found["differences"].values(), pairs, strict=True):
        expected = np.mean(np.subtract(other["scores"], first["scores"]), axis=1)
        assert [row["mean"] for row in rows] == pytest.approx(expected)


def test_runs_of_which_only_one_has_batch_norm_are_compared_in_what_both_have(
    toy_supervised, runs: Path, capsys
):
    assert train(toy_supervised("norm", *GLYPHS)) == 0
    assert train(toy_supervised("none", *GLYPHS, "--model.name", "mlp")) == 0
    for names in (("norm", "none"), ("none", "norm")):
        capsys.readouterr()
        assert evaluate([str(runs / name) for name in names]) == 0
        out = capsys.readouterr().out
        assert out.count("paired by task") == 1
        assert "side by side, 2-shot, transductive" in out


def test_a_comparison_of_many_inner_steps_keeps_its_names_and_numbers(
    toy_supervised, runs: Path, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("one", "two"):
        assert train(toy_supervised(name, "--evaluation.inner_steps", "10")) == 0
    capsys.readouterr()
    assert evaluate([str(runs / "one"), str(runs / "two")]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    for line in out[out.index("side by side") :].splitlines():
        if line.startswith(("one", "two")) and "±" in line:
            assert line.count("±") == 11


def test_other_tasks_and_tests_are_options_of_an_evaluation(toy_supervised, runs, tmp_path, capsys):
    assert train(toy_supervised("run")) == 0
    output = tmp_path / "other.json"
    options = ("--tests", "[9-shot]", "--queries", "5", "--data.amplitude_range", "[5,6]")
    assert evaluate([str(runs / "run"), *options, "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT as trained: amplitude_range [5.0, 6.0] instead of [0.1, 5.0]" in said
    found = json.loads(output.read_text())
    assert found["test"] == "9-shot"
    assert (np.array(found["tasks"])[:, 0] >= 5).all()


def test_a_published_row_is_beside_the_test_that_it_is_of(toy_supervised, runs, tmp_path, capsys):
    published = tmp_path / "published.yaml"
    published.write_text(
        "evaluation: {published: {source: a paper, test: '2-shot, transductive', scores: [0.25]}}"
    )
    assert train([*toy_supervised("run", *GLYPHS), "--config", str(published)]) == 0
    first, second = " ".join(capsys.readouterr().out.split()).split("held-out tasks")[1:]
    assert "2-shot, transductive" in second
    assert "a paper" not in first
    assert "a paper" in second
    assert "0.250" in second


def test_images_of_other_splits_are_not_evaluated(toy_supervised, workplace, refused):
    assert train([*toy_supervised("run", *GLYPHS), "--folder", "."]) == 0
    assert "data is no option for labelled examples" in refused(
        evaluate, "run", "--data.test_classes", "5"
    )


def test_a_value_named_like_a_setting_does_not_make_a_run_supervised(toy, workplace: Path):
    assert train([*toy("data"), "--folder", "data"]) == 0
    assert "env" in yaml.safe_load((workplace / "data" / "data" / "config.yaml").read_text())


@pytest.fixture
def both_kinds(workplace: Path, toy, toy_supervised, capsys) -> None:
    assert train([*toy("policy"), "--folder", "."]) == 0
    assert train([*toy_supervised("model"), "--folder", "."]) == 0


@pytest.mark.usefixtures("both_kinds")
def test_runs_of_the_other_kind_are_refused(refused):
    kinds = "cannot be compared: supervised learning and reinforcement learning"
    assert kinds in refused(evaluate, "policy", "model")
    assert kinds in refused(report, "policy", "model", "--output", "both.html")
    for run, options in {
        "policy": ("--queries 3", "--tests [5-shot]", "--data.noise 1", "--data_folder ."),
        "model": ("--workers 2", "--trajectories 3", "--mean_actions true", "--env.horizon 5"),
    }.items():
        for option in options:
            said = refused(evaluate, run, *option.split())
            assert "is no option of an evaluation in" in said
    said = refused(train, "--resume", "model", "--data.source", "glyphs")
    assert "data.source is sinusoid, not glyphs" in said
    assert "env is not a setting" in refused(train, "--resume", "model", "--env.horizon", "3")


def test_a_run_says_all_its_settings(toy_supervised, runs: Path, capsys):
    assert train(toy_supervised("run", *GLYPHS)) == 0
    config = yaml.safe_load((runs / "run" / "config.yaml").read_text())
    assert next(iter(config)) == "data"
    assert config["data"]["source"] == "glyphs"
    assert config["distinct_tasks"] is None
    assert config["compile"] is False
