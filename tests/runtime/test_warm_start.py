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


@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd"])
def test_a_warm_start_takes_the_parameters_and_nothing_else(toy, runs, algorithm):
    assert train(toy("first", "--iterations", "3", "--inner.algorithm", algorithm)) == 0
    warm = ("--init", str(runs / "first"))
    assert train(toy("second", "--iterations", "0", *warm)) == 0
    found, source = state_of(runs / "second"), state_of(runs / "first")
    theta = {name: p for name, p in source["meta"].items() if not name.startswith("rate:")}
    assert found["meta"].keys() == theta.keys()
    assert all(torch.equal(found["meta"][name], p) for name, p in theta.items())
    assert found["env_steps"] == 0


def test_the_average_of_a_warm_start_begins_with_its_parameters(toy_supervised, runs):
    average = ("--outer.average_decay", "0.9", "--iterations", "2")
    assert train(toy_supervised("first", *average)) == 0
    warm = ("--init", str(runs / "first"), "--iterations", "0", *average[:2])
    assert train(toy_supervised("second", *warm)) == 0
    found = state_of(runs / "second")
    theta = torch.cat([p.flatten() for p in found["meta"].values()])
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
    assert "init: body.0.weight of" in message
    assert "not [7, 2]" in message
    deep = ("--init", str(runs / "source"), "--policy.hidden_sizes", "[4, 4]")
    assert "has no parameter body" in refused(train, *toy("run", *deep))
    assert "there is no run folder nowhere" in refused(train, *toy("run", "--init", "nowhere"))
    assert not (runs / "run").exists()
