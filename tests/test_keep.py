"""Runs that are kept: whole, small, and runs as any."""

import json
import math
import shutil
from pathlib import Path

import pytest

from metarl import keep as keeping
from metarl.cli import evaluate, keep, report, train
from metarl.metrics import read_metrics
from metarl.run import RunFolder


@pytest.fixture
def finished(toy, runs: Path, tmp_path: Path, monkeypatch) -> Path:
    """A finished run of two iterations, in ``runs/``; results go to ``results/`` beside it."""
    monkeypatch.chdir(tmp_path)
    assert train(toy("run")) == 0
    return runs / "run"


def files_of(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


KEPT = {
    *("config.yaml", "run.json", "metrics.jsonl", "evaluation.json"),
    *("checkpoints/iteration-000002.pt", "checkpoints/iteration-000002.json"),
}


def test_what_is_kept_is_small_and_whole(finished: Path, tmp_path: Path, capsys):
    assert keep([str(finished)]) == 0
    kept = tmp_path / "results" / "run"
    assert capsys.readouterr().out.startswith("kept in results/run: 2 iterations, ")
    assert files_of(kept) == KEPT
    assert list((tmp_path / "results").iterdir()) == [kept]  # nothing is left beside it
    assert len(read_metrics(kept / "metrics.jsonl")) == 2


def test_a_kept_run_evaluates_to_its_digits_and_reports(finished: Path, tmp_path: Path):
    keep([str(finished)])
    kept, again = tmp_path / "results" / "run", tmp_path / "again.json"
    assert evaluate([str(kept), "--output", str(again)]) == 0
    one, other = (json.loads(p.read_text()) for p in (kept / "evaluation.json", again))
    assert one["scores"] == other["scores"]
    assert evaluate([str(kept)]) == 0
    assert files_of(kept) == KEPT | {"episodes.npz"}
    page = tmp_path / "page.html"
    assert report([str(kept), str(finished.rename(finished.with_name("other")))]) == 0
    assert report([str(kept), "--videos", "0", "--output", str(page)]) == 0
    assert "<svg" in page.read_text()


def test_a_kept_run_goes_on_and_is_kept_again(toy, finished: Path, tmp_path: Path):
    keep([str(finished)])
    kept = tmp_path / "results" / "run"
    assert train(["--resume", str(kept), "--iterations", "4"]) == 0
    assert keep([str(kept)]) == 0
    expected = {name.replace("000002", "000004") for name in KEPT}
    assert files_of(kept) == expected
    assert train(toy("uninterrupted", "--iterations", "4")) == 0
    whole = RunFolder(tmp_path / "runs" / "uninterrupted").checkpoints().load()[1]
    parts = RunFolder(kept).checkpoints().load()[1]
    assert all(
        (parts["learner"]["meta"][n] == p).all() for n, p in whole["learner"]["meta"].items()
    )
    rows = read_metrics(kept / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]


def test_a_run_that_grew_takes_the_place_of_its_younger_self(
    finished: Path, tmp_path: Path, capsys
):
    keep([str(finished)])
    assert keep([str(finished)]) == 0  # again: the same
    train(["--resume", str(finished), "--iterations", "3"])
    assert keep([str(finished)]) == 0
    shutil.copytree(tmp_path / "results" / "run", tmp_path / "grown")
    capsys.readouterr()
    train(["--resume", "results/run", "--iterations", "5"])
    assert keep(["results/run"]) == 0
    assert keep([str(finished)]) == 2
    assert "holds the same run, further on" in capsys.readouterr().err


def test_another_run_is_not_replaced(toy, finished: Path, tmp_path: Path, capsys):
    keep([str(finished)])
    train(toy("second", "--seed", "1"))
    capsys.readouterr()
    assert keep(["runs/second", "--name", "run"]) == 2
    assert "results/run holds something else; choose another --name" in capsys.readouterr().err
    assert keep(["runs/second", "runs/run", "--name", "both"]) == 2
    assert keep(["runs/second", "--name", "other"]) == 0
    assert "name: other" in (tmp_path / "results" / "other" / "config.yaml").read_text()


def damage_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "iteration-000002.pt"
    path.write_bytes(path.read_bytes()[:-100])


def log_more(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(
        "\n".join([*rows, rows[-1].replace(": 1,", ": 7,", 1)]) + "\n"
    )


HALF_WRITTEN = {
    "no config": (lambda run: (run / "config.yaml").unlink(), "holds no run"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "no metrics.jsonl"),
    "no checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), "it has no checkpoint"),
    "a truncated checkpoint": (damage_checkpoint, "is damaged"),
    "killed": (log_more, "has logged 8 iterations, but its newest checkpoint is after 2"),
    "no evaluation": (
        lambda run: (run / "evaluation.json").unlink(),
        "has no evaluation of its last checkpoint",
    ),
}


@pytest.mark.parametrize("case", HALF_WRITTEN)
def test_a_half_written_run_is_refused_in_one_line(finished: Path, tmp_path: Path, case, capsys):
    break_it, message = HALF_WRITTEN[case]
    break_it(finished)
    capsys.readouterr()
    assert keep([str(finished)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize("command", [evaluate, report])
def test_a_truncated_or_foreign_folder_is_refused_in_one_line(command, finished: Path, capsys):
    keep([str(finished)])
    damage_checkpoint(Path("results/run"))
    Path("results/foreign").mkdir()
    Path("results/foreign/notes.txt").write_text("hello")
    for run in ("results/run", "results/foreign"):
        capsys.readouterr()
        assert command([run]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_too_large_a_run_is_refused(finished: Path, monkeypatch, capsys):
    monkeypatch.setattr(keeping, "LIMIT", 1000)
    assert keep([str(finished)]) == 2
    assert "more than the 1,000 of a kept run" in capsys.readouterr().err
    assert not list(Path("results").iterdir())


def test_a_run_that_is_not_finished_may_be_kept(toy, runs: Path, tmp_path: Path, monkeypatch):
    """As a training that goes on later: stopped cleanly, not evaluated yet."""
    monkeypatch.chdir(tmp_path)
    train(toy("run"))
    config = (runs / "run" / "config.yaml").read_text()
    (runs / "run" / "config.yaml").write_text(config.replace("\niterations: 2", "\niterations: 9"))
    (runs / "run" / "evaluation.json").unlink()
    assert keep(["runs/run"]) == 0
    assert train(["--resume", "results/run", "--iterations", "3"]) == 0


def test_metrics_are_thinned_to_the_same_rows_again():
    rows = [{"iteration": i, "x": i / 3} for i in range(1000)]
    rows[612]["evaluation/return_0"] = 1.0
    thin = keeping._thinned(rows, 1000)
    kept = [row["iteration"] for row in thin]
    assert kept[0] == 0
    assert kept[-1] == 999
    assert 612 in kept
    assert len(kept) <= keeping.ROWS + 2
    assert keeping._thinned(thin, 1000) == thin
    assert math.isclose(thin[5]["x"], rows[kept[5]]["x"], rel_tol=1e-5)


def test_the_command_line_of_a_kept_run_names_no_folder_of_the_machine(finished: Path):
    info = json.loads((finished / "run.json").read_text())
    info["command"] = [
        "/opt/venv/bin/metarl",
        "train",
        "--config",
        "/home/me/x.yaml",
        "--seed",
        "1",
    ]
    (finished / "run.json").write_text(json.dumps(info))
    keep([str(finished)])
    kept = json.loads(Path("results/run/run.json").read_text())["command"]
    assert kept == ["metarl", "train", "--config", "x.yaml", "--seed", "1"]
