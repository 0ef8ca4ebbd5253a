"""``--init`` and ``--resume auto``."""

from pathlib import Path

import pytest
import torch

import metarl
from metarl.commands.main import evaluate, train
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics


def state_of(run: Path) -> dict:
    return RunFolder.open(run).checkpoints().load()[1]["learner"]


def test_auto_begins_goes_on_and_says_that_it_is_done(assert_same_outcome, toy, runs, capsys):
    def auto(iterations: int) -> list[str]:
        return [*toy("run", "--resume", "auto"), "--iterations", str(iterations)]

    assert train(auto(3)) == 0
    assert train(auto(5)) == 0
    assert "from iteration 3" in capsys.readouterr().out
    assert train(toy("whole", "--iterations", "5")) == 0
    assert_same_outcome(runs / "run", runs / "whole")
    capsys.readouterr()
    before = (runs / "run" / "evaluation.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as ended:
        train(auto(5))
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert out == f"done: {runs / 'run'} has 5 iterations and their evaluation\n"
    assert err == ""
    assert (runs / "run" / "evaluation.json").stat().st_mtime_ns == before
    (runs / "run" / "evaluation.json").unlink()
    assert train(auto(5)) == 0, "its evaluation is still to do"
    assert (runs / "run" / "evaluation.json").is_file()


def test_auto_goes_on_with_a_run_whose_outer_step_an_overlay_switched(workplace, runs):
    """A config that it builds on has settings of another outer step."""
    words = ["--config", "point_navigation_sparse", "--config", "algorithms/promp"]
    words += ["--tasks", "2", "--trajectories", "2", "--env.horizon", "5", "--compile", "false"]
    words += ["--evaluation.tasks", "2", "--evaluation.trajectories", "2", "--name", "run"]
    words += ["--logging.wandb", "disabled", "--logging.report", "false", "--resume", "auto"]
    for iterations in ("1", "2"):
        assert train([*words, "--folder", str(runs), "--iterations", iterations]) == 0
    assert len(read_metrics(runs / "run" / "metrics.jsonl")) == 2


def test_auto_needs_a_name_and_equal_settings(toy, refused):
    assert "needs a --name" in refused(train, "--config", "smoke", "--resume", "auto")
    assert train(toy("run", "--iterations", "1")) == 0
    message = refused(train, *toy("run", "--resume", "auto", "--seed", "7"))
    assert "seed is 0, not 7" in message


def test_train_in_python_goes_on_where_it_is_asked_to(runs, tmp_path):
    settings = {
        **{"folder": str(runs), "name": "run", "compile": False, "tasks": 2, "trajectories": 2},
        **{"logging": {"wandb": "disabled", "report": False}, "evaluation.tasks": 2},
    }
    first = metarl.train("smoke", {**settings, "iterations": 1}, resume=True)
    run = metarl.train("smoke", {**settings, "iterations": 2}, resume=True)
    assert (first.iterations, run.iterations) == (1, 2)
    metrics = run.path / "metrics.jsonl"
    before = metrics.read_bytes()
    assert metarl.train("smoke", {**settings, "iterations": 2}, resume=True).iterations == 2
    assert metrics.read_bytes() == before
    with pytest.raises(metarl.UserError, match="already holds a run"):
        metarl.train("smoke", settings)


def test_a_warm_start_takes_the_parameters_and_nothing_else(toy, runs):
    assert train(toy("first", "--iterations", "3")) == 0
    warm = ("--init", str(runs / "first"))
    assert train(toy("second", "--iterations", "0", *warm)) == 0
    found, source = state_of(runs / "second"), state_of(runs / "first")
    assert found["meta"].keys() == source["meta"].keys()
    assert all(torch.equal(found["meta"][name], p) for name, p in source["meta"].items())
    assert found["env_steps"] == 0


def test_a_warm_start_takes_learned_rates_where_both_runs_learn_them(toy, runs, capsys):
    learned = ("--inner.algorithm", "meta-sgd")
    assert train(toy("first", "--iterations", "1", *learned)) == 0
    source = state_of(runs / "first")["meta"]
    warm = ("--init", str(runs / "first"), "--iterations", "0")
    assert train(toy("both", *learned, *warm)) == 0
    found = state_of(runs / "both")["meta"]
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], p) for name, p in source.items())
    capsys.readouterr()
    assert train(toy("neither", *warm)) == 0
    assert "are not used: inner.algorithm maml learns none" in capsys.readouterr().err
    found = state_of(runs / "neither")["meta"]
    assert not any(name.startswith("rate:") for name in found)
    assert all(torch.equal(found[name], source[name]) for name in found)
    warm = ("--init", str(runs / "neither"), "--iterations", "0")
    assert train(toy("new", *learned, "--inner.rate", "0.25", *warm)) == 0
    found = state_of(runs / "new")["meta"]
    assert all((p == 0.25).all() for name, p in found.items() if name.startswith("rate:"))


def test_a_warm_start_takes_the_average_that_evaluations_use(toy_supervised, runs):
    average = ("--outer.average_decay", "0.9")
    assert train(toy_supervised("first", *average, "--iterations", "2")) == 0
    warm = ("--init", str(runs / "first"), "--iterations", "0")
    assert train(toy_supervised("second", *average, *warm)) == 0
    found, source = state_of(runs / "second"), state_of(runs / "first")
    theta = torch.cat([p.flatten() for p in found["meta"].values()])
    assert torch.equal(theta, source["outer"]["average"])
    assert torch.equal(found["outer"]["average"], theta)
    assert found["outer"]["step"] == 0


def test_a_warm_run_needs_its_source_only_to_begin(assert_same_outcome, toy, runs):
    assert train(toy("source", "--iterations", "2")) == 0
    warm = ("--init", str(runs / "source"))
    assert train(toy("whole", "--iterations", "4", *warm)) == 0
    assert train(toy("run", "--iterations", "2", *warm)) == 0
    (runs / "source").rename(runs / "elsewhere")
    assert train(["--resume", str(runs / "run"), "--iterations", "4"]) == 0
    assert_same_outcome(runs / "run", runs / "whole")
    assert evaluate([str(runs / "run")]) == 0
    cold = toy("cold", "--iterations", "4")
    assert train(cold) == 0
    first = [read_metrics(runs / name / "metrics.jsonl")[0] for name in ("whole", "cold")]
    assert first[0]["return/before"] != first[1]["return/before"]


def test_a_warm_start_that_does_not_fit_is_refused(toy, runs, refused):
    assert train(toy("source", "--iterations", "1")) == 0
    wide = ("--init", str(runs / "source"), "--policy.hidden_sizes", "[7]")
    message = refused(train, *toy("run", *wide))
    assert "do not fit this run: body.0.weight has shape [4, 2]" in message
    assert "not [7, 2]; policy.hidden_sizes is [4], not [7]" in message
    deep = ("--init", str(runs / "source"), "--policy.hidden_sizes", "[4, 4]")
    message = refused(train, *toy("run", *deep))
    assert "it has no body" in message
    assert "policy.hidden_sizes is [4], not [4, 4]" in message
    assert "there is no run folder nowhere" in refused(train, *toy("run", "--init", "nowhere"))
    assert not (runs / "run").exists()


def test_going_on_in_python_needs_a_name():
    with pytest.raises(metarl.UserError, match="resume=True needs a name"):
        metarl.train("smoke", resume=True)
