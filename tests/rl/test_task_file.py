"""Held-out tasks from files, and the published returns beside ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.commands.main import evaluate, train
from metarl.experiment.evaluations import newest
from metarl.experiment.settings import read_config, read_settings
from metarl.report.tables import paired_with_published
from metarl.rl.task_file import read_task_file
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.scores import paired_differences

TASKS = Path(__file__).parents[2] / "configs" / "tasks"
GOALS = {"goal_x": [0.1, -0.2, 0.3], "goal_y": [0.0, 0.4, -0.1]}
RETURNS = [[-3.0, -4.0, -5.0], [-1.0, -2.0, -3.0]]
FILE = {"tasks": GOALS, "published": {"maml": {"source": "table 1", "returns": RETURNS}}}
CSV = "goal_x,goal_y,maml/0,maml/1\n0.1,0,-3,-1\n-0.2,0.4,-4,-2\n0.3,-0.1,-5,-3\n"

# The means that the paper prints (tables 4 and 5) or that its figure 5 is drawn from.
PAPER = {
    "half_cheetah_velocity": [-129.53, -78.57, -66.62, -60.78],
    "half_cheetah_direction": [-50.69, 293.19, 313.48, 315.65],
    "ant_velocity": [30.58, 96.74, 100.06, 101.41],
    "ant_forward_backward": [8.66, 499.15, 500.68, 499.11],
    "point_navigation": [-40.41, -11.68, -3.33, -3.23],
}
FIELDS = {"point_navigation": ["goal_x", "goal_y"]}


def fields_of(name: str) -> list[str]:
    return FIELDS.get(name, [name.rpartition("_")[2].replace("backward", "direction")])


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_files_have_the_papers_means(name: str):
    found = read_task_file(TASKS / f"{name}.json", fields_of(name))
    assert found.tasks.shape == (40, len(fields_of(name)))
    means = found.published["maml"].returns.mean(axis=1)
    np.testing.assert_allclose(means[:4], PAPER[name], atol=0.01)
    assert {"random", "oracle"} <= found.published.keys()


def test_every_file_is_tested():
    assert {path.stem for path in TASKS.iterdir()} == set(PAPER)


def test_csv_and_json_say_the_same(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(FILE))
    (tmp_path / "b.CSV").write_text(CSV)
    one, other = (read_task_file(tmp_path / n, list(GOALS)) for n in ("a.json", "b.CSV"))
    np.testing.assert_array_equal(one.tasks, np.array(list(GOALS.values())).T)
    np.testing.assert_array_equal(one.tasks, other.tasks)
    assert one.digest == other.digest
    np.testing.assert_array_equal(one.published["maml"].returns, RETURNS)
    np.testing.assert_array_equal(other.published["maml"].returns, RETURNS)
    assert one.published["maml"].source == "table 1"


def changed(**tasks: object) -> str:
    return json.dumps({**FILE, "tasks": GOALS | tasks})


def published(row: object) -> str:
    return json.dumps({**FILE, "published": {"maml": row}})


BAD = {
    "not json": ("{", "it is not valid JSON"),
    "huge": (changed(goal_y=[10**400, 1, 2]), "column goal_y should hold numbers"),
    "ragged": (changed(goal_x=[[1], [2, 3]], goal_y=[1, 2]), "column goal_x should hold numbers"),
    "a list": ("[1, 2]", "an object with `tasks`"),
    "deep": ("[" * 100_000, "nests too deep"),
    "no tasks": (json.dumps({"tasks": {"goal_x": [], "goal_y": []}}), "at least one task"),
    "a missing column": (json.dumps({"tasks": {"goal_x": [1.0]}}), "goal_x, goal_y, got goal_x"),
    "another column": (changed(speed=[1, 2, 3]), "got goal_x, goal_y, speed"),
    "text": (changed(goal_y=["a", 1, 2]), "column goal_y should hold numbers"),
    "not finite": (changed(goal_y=[float("nan"), 1, 2]), "column goal_y should hold finite"),
    "null": (changed(goal_y=[None, 1, 2]), "column goal_y should hold finite"),
    "short": (changed(goal_y=[1, 2]), "column goal_y should hold 3 numbers, one per task"),
    "one number": (changed(goal_y=3.0), "column goal_y should hold 3 numbers"),
    "returns of others": (published({"returns": [[1, 2]]}), "maml after 0 inner steps should hold"),
    "infinite returns": (published({"returns": [[1, 2, float("inf")]]}), "finite numbers"),
    "no returns": (published({}), "published maml should have a list"),
    "returns alone": (published([1, 2, 3]), "published maml should have a list"),
}
BAD_CSV = {
    "empty": ("", "got none"),
    "no rows": ("goal_x,goal_y\n", "at least one task"),
    "a short row": ("goal_x,goal_y\n1,2\n3\n", "task 2 has 1 values"),
    "twice": ("goal_x,goal_y,goal_x\n1,2,3\n", "two columns have the same name"),
    "a skipped step": ("goal_x,goal_y,maml/1\n1,2,3\n", "column maml/1 should be maml/0"),
    "text": ("goal_x,goal_y\n1,here\n", "column goal_y should hold numbers"),
    "not finite": ("goal_x,goal_y\n1,inf\n", "column goal_y should hold finite"),
    "endless": (f"goal_x,goal_y\n1,{'9' * 200_000}\n", "field larger than field limit"),
}


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [(".json", *case) for case in BAD.values()] + [(".csv", *case) for case in BAD_CSV.values()],
    ids=[*BAD, *(f"csv: {name}" for name in BAD_CSV)],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, suffix: str, text: str, message: str):
    path = tmp_path / f"tasks{suffix}"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_task_file(path, list(GOALS))
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path):
    path = tmp_path / "b.csv"
    path.write_text(CSV, encoding="utf-8-sig")
    assert read_task_file(path, list(GOALS)).tasks.shape == (3, 2)


def test_bytes_and_folders_are_refused(tmp_path: Path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.json", tmp_path, tmp_path / "none.json"):
        with pytest.raises(UserError):
            read_task_file(path, list(GOALS))


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(FILE))
    return path


def test_a_run_is_evaluated_on_the_files_tasks(toy, runs: Path, task_file: Path, capsys):
    settings = ["--evaluation.task_file", str(task_file), "--evaluation.published.method", "maml"]
    assert train([*toy("run"), *settings]) == 0
    assert "minus the published return, paired by task" in " ".join(capsys.readouterr().out.split())
    result = json.loads((runs / "run" / "evaluation.json").read_text())
    np.testing.assert_array_equal(result["tasks"], np.array(list(GOALS.values())).T)
    assert result["published"]["scores"] == [-4.0, -2.0]
    assert result["published"]["per_task"] == RETURNS
    assert result["protocol"]["tasks"] == 3


def test_the_difference_is_paired_by_task(toy, runs: Path, task_file: Path, capsys):
    settings = ["--evaluation.task_file", str(task_file), "--evaluation.published.method", "maml"]
    train([*toy("run"), *settings])
    capsys.readouterr()
    assert evaluate([str(runs / "run")]) == 0
    out = capsys.readouterr().out
    scores = np.array(json.loads((runs / "run" / "evaluation.json").read_text())["scores"])
    for row in paired_differences(np.array(RETURNS), scores):
        assert f"{row.mean:.2f} ±" in out


def test_evaluate_takes_a_file_or_draws_tasks(toy, runs: Path, task_file: Path, tmp_path: Path):
    train(toy("run"))
    out = tmp_path / "out.json"
    run = str(runs / "run")
    assert evaluate([run, "--task_file", str(task_file), "--output", str(out)]) == 0
    assert len(json.loads(out.read_text())["tasks"]) == 3
    assert evaluate([run, "--task_file", str(task_file), "--tasks", "5"]) == 2
    assert evaluate([run, "--task_file", "nowhere"]) == 2
    assert evaluate([run, "--task_file", "a" * 300]) == 2
    # A run whose own tasks come from a file
    train([*toy("other"), "--evaluation.task_file", str(task_file)])
    other = str(runs / "other")
    assert evaluate([other, "--tasks", "5", "--output", str(out)]) == 0
    assert len(json.loads(out.read_text())["tasks"]) == 5
    assert evaluate([other, "--env.goal_range", "[2,3]", "--output", str(out)]) == 0
    assert np.min(json.loads(out.read_text())["tasks"]) > 2
    assert evaluate([other, "--env.horizon", "4", "--output", str(out)]) == 0
    assert json.loads(out.read_text())["tasks"][0] == [0.1, 0.0]


def test_another_family_is_refused_by_its_name(toy, runs: Path, task_file: Path, capsys):
    train([*toy("run"), "--evaluation.task_file", str(task_file)])
    capsys.readouterr()
    assert evaluate([str(runs / "run"), "--env.family", "half-cheetah-velocity"]) == 2
    assert "env.family cannot differ from the trained one" in capsys.readouterr().err


def test_a_method_that_nobody_published_is_refused(toy, task_file: Path, capsys):
    settings = ["--evaluation.task_file", str(task_file), "--evaluation.published.method", "mmal"]
    assert train([*toy("run"), *settings]) == 2
    assert "method mmal (did you mean maml?); it has maml" in capsys.readouterr().err


def test_a_file_without_returns_serves_a_run_that_has_published_ones(
    toy, runs: Path, task_file: Path, tmp_path: Path
):
    settings = ["--evaluation.task_file", str(task_file), "--evaluation.published.method", "maml"]
    train([*toy("run"), *settings])
    plain, out = tmp_path / "plain.csv", tmp_path / "out.json"
    plain.write_text("goal_x,goal_y\n0.1,0.2\n")
    run = str(runs / "run")
    assert evaluate([run, "--task_file", str(plain), "--output", str(out)]) == 0
    assert json.loads(out.read_text())["published"]["scores"] == []


def test_a_file_in_the_current_folder_hides_no_shipped_one(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("point_navigation.json").write_text("{}")
    config: Any = read_settings(["--config", "paper/point_navigation"])[0]
    assert config.evaluation.tasks == 40


def test_only_steps_that_both_have_are_compared(toy, runs: Path, tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("goal_x,goal_y,maml/0\n0.1,0,-3\n-0.2,0.4,-4\n")
    train(
        [*toy("run"), "--evaluation.task_file", str(path), "--evaluation.published.method", "maml"]
    )
    run = RunFolder.open(runs / "run")
    view = newest(run, read_config(run), episodes=False)
    assert len(view.scores) == 2
    assert len(paired_with_published(view)) == 1


def test_a_bad_file_stops_training_before_its_folder_exists(
    toy, runs: Path, tmp_path: Path, capsys
):
    bad = tmp_path / "bad.csv"
    bad.write_text("velocity\n1\n")
    assert train([*toy("run"), "--evaluation.task_file", str(bad)]) == 2
    error = capsys.readouterr().err
    assert "should have the columns goal_x, goal_y, got velocity" in error
    assert len(error.splitlines()) == 1
    assert not RunFolder(runs / "run").path.exists()


def test_runs_with_different_task_files_are_scored_on_the_first_ones(
    toy, runs: Path, task_file: Path, tmp_path: Path
):
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps({"tasks": GOALS | {"goal_x": [0.5, 0.5, 0.5]}}))
    train([*toy("one"), "--evaluation.task_file", str(task_file)])
    train([*toy("two"), "--evaluation.task_file", str(moved)])
    digests = [
        json.loads((runs / name / "evaluation.json").read_text())["protocol"]["tasks_sha256"]
        for name in ("one", "two")
    ]
    assert digests[0] != digests[1]
    out = tmp_path / "out.json"  # side by side, both are put to the first one's tasks
    assert evaluate([str(runs / "one"), str(runs / "two"), "--output", str(out)]) == 0
    found = json.loads(out.read_text())["runs"]
    assert (
        found["one"]["tasks"] == found["two"]["tasks"] == np.array(list(GOALS.values())).T.tolist()
    )


def test_untrained_policies_score_as_the_papers_on_the_papers_goals(runs: Path):
    """-255 +- 37 there, and a straight line against the goal velocity."""
    settings = ["--config", "paper/half_cheetah_velocity", "--iterations", "0"]
    settings += ["--evaluation.inner_steps", "0", "--evaluation.trajectories", "3"]
    settings += ["--logging.report", "false", "--logging.wandb", "disabled", "--folder", str(runs)]
    scores = []
    for seed in ("0", "1", "2"):
        assert train([*settings, "--seed", seed, "--name", seed]) == 0
        result = json.loads((runs / seed / "evaluation.json").read_text())
        assert -292 < np.mean(result["scores"]) < -200
        scores.append(result["scores"][0])
        assert np.corrcoef(np.ravel(result["tasks"]), scores[-1])[0, 1] < -0.97
    # Where the goal is to stand still, only the noise of the velocity counts: the torso, which
    # recoils, would score 27 less than the centre of mass.
    file = read_task_file(TASKS / "half_cheetah_velocity.json", ["velocity"])
    slow = file.tasks[:, 0] < 0.2
    theirs = file.published["random"].returns[0][slow].mean()
    assert np.mean(scores, axis=0)[slow].mean() == pytest.approx(theirs, abs=12)
