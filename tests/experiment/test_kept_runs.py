"""Runs that are kept: whole, small, and runs as any."""

import json
import math
import shutil
from pathlib import Path

import pytest

from metarl.commands.main import evaluate, keep, report, train
from metarl.experiment import kept_runs
from metarl.experiment.settings import read_config
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics


@pytest.fixture(scope="module")
def trained(toy_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    assert train([*toy_settings, "--folder", str(folder), "--name", "run"]) == 0
    return folder / "run"


@pytest.fixture
def finished(trained: Path, runs: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of that run, in ``runs/``; results go to ``results/`` beside it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, runs / "run")


def files_of(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


NO_PROCESS = 999_999_999  # more than any system numbers

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


@pytest.mark.usefixtures("one_figure")
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
    "its run.json is damaged": (
        lambda run: (run / "run.json").write_text("{"),
        "has no readable run.json",
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


def test_nothing_is_kept_where_one_of_several_is_half_written(toy, finished: Path, capsys):
    train(toy("second"))
    damage_checkpoint(Path("runs/second"))
    capsys.readouterr()
    assert keep(["runs/run", "runs/second"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("results").exists()


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
    monkeypatch.setattr(kept_runs, "LIMIT", 1000)
    assert keep([str(finished)]) == 2
    assert "more than the 1,000 of a kept run" in capsys.readouterr().err
    assert not list(Path("results").iterdir())


def test_a_run_that_is_not_finished_may_be_kept(finished: Path):
    """As a training that goes on later: stopped cleanly, not evaluated yet."""
    config = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(config.replace("\niterations: 2", "\niterations: 9"))
    (finished / "evaluation.json").unlink()
    assert keep(["runs/run"]) == 0
    assert train(["--resume", "results/run", "--iterations", "3"]) == 0


@pytest.mark.parametrize("every", [1, 7, 100])
def test_metrics_are_thinned_to_the_same_rows_again(every: int):
    rows = [{"iteration": i, "x": i / 3, "n": 1e7 + i} for i in range(every - 1, 3000, every)]
    rows[5]["evaluation/return_0"] = 1.0
    thin = kept_runs._thin(rows)
    kept = [row["iteration"] for row in thin]
    assert {rows[0]["iteration"], rows[5]["iteration"], rows[-1]["iteration"]} <= set(kept)
    assert min(len(rows), kept_runs.ROWS) <= len(kept) <= kept_runs.ROWS + 3
    assert kept_runs._thin(thin) == thin
    by_iteration = {row["iteration"]: row for row in rows}
    for row in thin:
        assert math.isclose(row["x"], by_iteration[row["iteration"]]["x"], rel_tol=1e-5)
        assert row["n"] == by_iteration[row["iteration"]]["n"]  # a counter is not rounded


def test_the_command_line_of_a_kept_run_names_no_folder_of_the_machine(finished: Path):
    info = json.loads((finished / "run.json").read_text())
    info["command"] = ["/bin/metarl", "train", "--config=/home/me/x.yaml", "--folder", "/tmp/r"]
    (finished / "run.json").write_text(json.dumps(info))
    keep([str(finished)])
    kept = json.loads(Path("results/run/run.json").read_text())["command"]
    assert kept == ["metarl", "train", "--config=x.yaml", "--folder", "r"]


def test_a_kept_run_names_no_folder_of_the_machine_it_was_kept_on(
    finished: Path, trained: Path, tmp_path: Path
):
    assert keep([str(finished), "--folder", str(tmp_path / "kept")]) == 0
    folder = tmp_path / "kept" / "run"
    assert read_config(RunFolder(folder)).folder == "kept"
    for name in ("config.yaml", "run.json"):
        text = (folder / name).read_text()
        assert str(tmp_path) not in text
        assert str(trained.parent) not in text
    assert evaluate([str(folder)]) == 0


def test_a_run_in_training_is_not_tidied_in_place(finished: Path, capsys):
    before = files_of(finished)
    assert keep([str(finished), "--folder", "runs"]) == 2
    assert "runs/run is the run itself; choose another --folder" in capsys.readouterr().err
    assert files_of(finished) == before


def test_files_of_the_user_stay(finished: Path):
    keep([str(finished)])
    Path("results/run/notes.txt").write_text("good")
    assert keep(["results/run"]) == 0
    assert Path("results/run/notes.txt").read_text() == "good"


@pytest.mark.parametrize("replaced", [True, False])
def test_what_a_killed_process_was_replacing_is_ended(finished: Path, replaced: bool):
    keep([str(finished)])
    old = Path(f"results/.run.{NO_PROCESS}.old")
    if replaced:
        old.mkdir()
    else:
        Path("results/run").rename(old)
    (old / "notes.txt").write_text("good")
    Path(f"results/.run.{NO_PROCESS}.new").mkdir()
    assert keep([str(finished)]) == 0
    assert [*Path("results").iterdir()] == [Path("results/run")]
    assert Path("results/run/notes.txt").read_text() == "good"


@pytest.mark.parametrize("name", ["x/y", "..", "/tmp/z"])
def test_a_name_is_of_one_folder(finished: Path, name: str, capsys):
    assert keep([str(finished), "--name", name]) == 2
    assert "should be one folder's name" in capsys.readouterr().err


@pytest.mark.usefixtures("one_figure")
def test_a_report_without_videos_takes_the_kept_evaluation(finished: Path):
    keep([str(finished)])
    file = Path("results/run/evaluation.json")
    evaluation = json.loads(file.read_text())
    evaluation["rows"][0]["mean"] = 123.0
    file.write_text(json.dumps(evaluation))
    assert report(["results/run", "--videos", "0"]) == 0
    assert "123.00" in Path("results/run/report.html").read_text()
    assert json.loads(file.read_text()) == evaluation


@pytest.mark.usefixtures("one_figure")
def test_the_file_of_held_out_tasks_goes_with_the_run(toy, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("goals.csv").write_text("goal_x,goal_y\n0.1,0.2\n0.3,-0.1\n")
    assert train([*toy("run"), "--evaluation.task_file", "goals.csv"]) == 0
    Path("goals.csv").unlink()
    assert keep(["runs/run"]) == 0
    shutil.move("results/run", "elsewhere")
    for run in ("runs/run", "elsewhere"):
        assert evaluate([run, "--output", "out.json"]) == 0
        assert json.loads(Path("out.json").read_text())["tasks"] == [[0.1, 0.2], [0.3, -0.1]]
    assert train(["--resume", "elsewhere", "--iterations", "3"]) == 0
    assert evaluate(["elsewhere", "--tasks", "3", "--output", "out.json"]) == 0
    assert report(["elsewhere", "--videos", "0"]) == 0
