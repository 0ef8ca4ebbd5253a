"""Runs are grouped by their settings: seeds of one experiment, whatever their names."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metarl.commands.main import evaluate, report, train
from metarl.experiment.evaluations import newest
from metarl.experiment.settings import read_config
from metarl.report import comparison, tables
from metarl.report.curves import adaptation_curves, training_curves
from metarl.report.groups import differences_by_seed, groups, intervals
from metarl.report.view import RunView
from metarl.runtime.folder import RunFolder
from metarl.runtime.record import EvaluationRecord, EvaluationSettings, Published, Row
from metarl.runtime.scores import Evaluation


def view(name: str, seed: int = 0, scores: Any = ((-2.0, -4.0), (-1.0, -1.0)), **own: Any):
    """A run of two tasks and one inner step; ``own`` are settings of its own."""
    rows = [
        Row(k, float(np.mean(row)), 0.5, float(np.mean(row)), 0.0) for k, row in enumerate(scores)
    ]
    env = {"family": "point-navigation"}
    record = EvaluationRecord(
        test="",
        measure="return",
        rows=rows,
        inner_rates=[0.1] * (len(rows) - 1),
        validation=[],
        task_fields=["x"],
        tasks=[[0.5], [1.0]],
        scores=[list(row) for row in scores],
        others=[],
        main_test="",
        problem="env",
        protocol=EvaluationSettings(env, 2, 0, None, [], trajectories=20, actions="sampled"),
        iteration=1,
        published=Published("", "", []),
        episodes_sha256="",
    )
    config = {"env": env, "seed": seed, "iterations": 10, "inner": {"rate": 0.1}, "threads": seed}
    return RunView(name, {**config, **own}, {}, [], record, None, None)


def grouped(*views: RunView) -> dict[str, list[str]]:
    return {name: [run.name for run in runs] for name, runs in groups(views).items()}


def test_what_names_share_is_the_name_of_a_group():
    runs = [view("maml-seed0"), view("maml-seed1-2026", 1), view("other-seed0", inner={"rate": 1})]
    assert grouped(*runs) == {"maml": ["maml-seed0", "maml-seed1-2026"], "other": ["other-seed0"]}
    assert grouped(view("maml-seed3", 3)) == {"maml": ["maml-seed3"]}


def test_groups_with_one_name_are_told_apart_by_what_differs():
    runs = [
        view(f"cartpole-seed{seed}-{rate}-{tasks}", seed, inner={"rate": rate}, tasks=tasks)
        for rate, tasks in ((0.1, 20), (0.5, 20), (0.5, 40))
        for seed in (0, 1)
    ]
    assert list(groups(runs)) == [
        "inner.rate 0.1, tasks 20",
        "inner.rate 0.5, tasks 20",
        "inner.rate 0.5, tasks 40",
    ]
    assert [len(group) for group in groups(runs).values()] == [2, 2, 2]
    assert list(groups(runs[:4])) == ["inner.rate 0.1", "inner.rate 0.5"]
    oracle = view("oracle-seed0", inner={"rate": 7}, observe_task=True)
    assert list(groups([*runs[:4], oracle])) == ["inner.rate 0.1", "inner.rate 0.5", "oracle"]


def test_runs_without_a_name_in_common_are_named_too():
    assert grouped(view("one"), view("two", 1)) == {"one, two": ["one", "two"]}
    many = [view(f"run{seed}", seed) for seed in range(5)]
    assert list(groups(many)) == ["run0, run1, run2, 2 more"]
    other = view("other", 0, inner={"rate": 0.5})
    assert list(groups([*many, other])) == ["inner.rate 0.1", "other"]


def test_two_runs_of_one_seed_are_not_one_curve():
    """They are of different code, say; then names tell what belongs together."""
    assert list(groups([view("a-seed0"), view("a-seed0-again")])) == ["a-seed0", "a-seed0-again"]
    runs = [view(f"{code}-seed{seed}", seed) for code in ("before", "after") for seed in (0, 1)]
    assert {name: len(found) for name, found in groups(runs).items()} == {"before": 2, "after": 2}


@pytest.mark.parametrize(
    ("setting", "alike"),
    [
        ({"threads": 4}, True),
        ({"device": "cuda", "folder": "y"}, True),
        ({"checkpoint": {"every": 3}}, True),
        ({"iterations": 11}, False),
        ({"init": "runs/other"}, False),
        ({"evaluation": {"inner_rates": [0.3]}}, False),
        ({"evaluation": {"tasks": 7}}, True),
        ({"policy": {"hidden_sizes": [8]}}, False),
    ],
)
def test_settings_that_change_no_scores_part_no_groups(setting: dict[str, Any], alike: bool):
    assert len(groups([view("x-seed0"), view("x-seed1", 1, **setting)])) == (1 if alike else 2)


def test_many_differences_make_a_short_name():
    runs = [view(f"x-seed0-{i}", outer=dict.fromkeys("abcdefgh", i)) for i in range(2)]
    assert list(groups(runs)) == [f"outer.a {i}, outer.b {i}, outer.c {i}" for i in range(2)]
    header, rows = comparison.what_differs(runs)
    assert header == ["run", "seed", *(f"outer.{k}" for k in "abcdefgh")]
    assert [row[1:] for row in rows] == [["0", *str(i) * 8] for i in range(2)]
    parts = [view("x-seed0", outer={"name": "a", "p": 1}), view("x-seed0-b", outer={"name": "b"})]
    assert list(groups(parts)) == ["outer.name a", "outer.name b"]
    assert comparison.what_differs(parts)[1] == [
        ["outer.name a", "0", "a", "1"],
        ["outer.name b", "0", "b", "–"],
    ]
    assert comparison.what_differs(runs[:1]) is None


def test_the_names_are_those_of_all_runs_where_some_lack_a_test():
    runs = [view(f"x-seed0-{rate}", inner={"rate": rate}) for rate in (0.1, 0.2)]
    assert list(groups(runs[:1], runs)) == ["inner.rate 0.1"]


def test_a_row_of_seeds_has_the_interval_over_them():
    means = [-1.0, -2.0, -4.5]
    runs = [view(f"x-seed{i}", i, [(m, m), (m + 1, m + 3)]) for i, m in enumerate(means)]
    for found, expected in zip(intervals(runs), (means, [m + 2 for m in means]), strict=True):
        assert found.mean == pytest.approx(np.mean(expected))
        low, high = stats.t.interval(0.95, 2, np.mean(expected), stats.sem(expected))
        assert found.ci95 == pytest.approx((high - low) / 2)
    _, rows = comparison.scores(runs)
    assert rows == [["x (3 seeds)", "-2.50 ± 4.48", "-0.50 ± 4.48"]]
    assert "over seeds" in comparison.over_what(runs)
    assert comparison.over_what(runs[:1]) == ""
    nothing = view("x-seed3", 3, [(np.nan, np.nan), (0, 0)])
    assert intervals([*runs, nothing])[0] == intervals(runs)[0]


def test_one_sample_has_no_interval_anywhere():
    """Of the first row one task is left; tables show a dash, JSON null, figures no bar."""
    scores, tasks = np.array([[-2.0, np.nan], [-1.0, -3.0]]), np.array([[0.5], [1.0]])
    found = Evaluation("return", tasks, ["x"], scores, np.array([1, 0]), [0.1]).record()
    record = EvaluationRecord(**{**vars(view("a").evaluation), **vars(found)})
    record = EvaluationRecord.from_json(record.to_json())
    assert [row.ci95 is None for row in record.rows] == [True, False]
    runs = [replace(view(name), evaluation=record) for name in ("a", "b")]
    assert comparison.scores(runs)[1][0] == ["a", "-2.00 ± –", "-2.00 ± 12.71"]
    assert comparison.differences(runs)[2] == [["b", "0.00 ± –", "0.00 ± 0.00"]]
    assert [row[2] for row in tables.scores(runs[0])[1]] == ["-2.00 ± –", "-2.00 ± 12.71"]
    assert tables.tracker_tables(runs[0])["returns"].rows[0][:3] == [0, -2.0, None]
    (bars,) = adaptation_curves(runs[:1]).axes[0].containers
    (segments,) = (lines.get_segments() for lines in bars.lines[2])
    assert [len(segment) > 0 for segment in segments] == [False, True]
    seeds = [view("x-seed0", 0), view("x-seed1", 1, [(np.nan, np.nan), (0, 0)])]
    assert comparison.scores(seeds)[1][0][1] == "-3.00 ± –"


def test_groups_of_the_same_seeds_are_paired_by_seed():
    first = [view(f"a-seed{i}", i, [(-i, -i), (i, i)]) for i in range(2)]
    other = [
        view(f"b-seed{i}", i, [(1 - i, 1 - i), (3 * i, 3 * i)], inner={"rate": 1}) for i in (1, 0)
    ]
    before, after = differences_by_seed(first, other)
    assert (before.mean, before.ci95) == (1.0, 0.0)
    assert after.mean == 1.0
    assert after.ci95 == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem([0.0, 2.0]))
    how, header, rows = comparison.differences([*first, *other])
    assert "over seeds" in how
    assert header == ["minus a", "0 inner steps", "1"]
    assert [row[0] for row in rows] == ["b"]
    how, header, rows = comparison.differences([*first, other[0]])  # not the same seeds
    assert "paired by task" in how
    assert header[0] == "minus a-seed0"
    assert [row[0] for row in rows] == ["a-seed1", "b-seed1"]


@pytest.fixture
def swept(runs: Path, toy_settings: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two settings times three seeds, with default names."""
    clock = itertools.count(100000)
    monkeypatch.setattr("metarl.experiment.settings.launch_id", lambda: f"20260101-{next(clock)}")
    for rate, seed in itertools.product(("0.1", "0.5"), "012"):
        own = ("--inner.rate", rate, "--seed", seed, "--evaluation.tasks", "3")
        assert train([*toy_settings, *own, "--folder", str(runs)]) == 0
    return sorted(map(str, runs.iterdir()))


@pytest.mark.usefixtures("one_figure")
def test_default_names_make_curves_and_rows_of_settings(swept: list[str], capsys):
    folders = [RunFolder.open(Path(run)) for run in swept]
    assert all(re.search(r"smoke-seed\d-20260101-\d+$", run) for run in swept)
    views = [newest(folder, read_config(folder)) for folder in folders]
    names = ["inner.rate 0.1", "inner.rate 0.5"]
    assert {name: len(found) for name, found in groups(views).items()} == dict.fromkeys(names, 3)
    labels = [c.get_label() for c in adaptation_curves(views).axes[0].containers]
    assert labels == names
    lines = [line.get_label() for line in training_curves(views).axes[0].lines]
    assert lines == [f"{n}, {when}" for n in names for when in ("after adaptation", "before")]
    _, rows = comparison.scores(views)
    assert [row[0] for row in rows] == [f"{name} (3 seeds)" for name in names]

    capsys.readouterr()
    assert report([*swept, "--videos", "0"]) == 0
    page = Path(capsys.readouterr().out.split("report: ")[1].strip()).read_text()
    assert "<h2>What differs</h2>" in page
    for name, (value, cells) in zip(names, zip(("0.1", "0.5"), rows, strict=True), strict=True):
        assert f"<td>{name}</td><td>0, 1, 2</td><td>{value}</td>" in page
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert "over seeds (Student&#39;s t)" in page or "over seeds (Student's t)" in page

    assert evaluate(swept) == 0
    out = capsys.readouterr().out
    assert "what differs" in out
    assert re.search(r"inner.rate 0.5 +0, 1, 2 +0.5\n", out)
    assert re.search(r"inner.rate 0.5 +\(3 seeds\)|inner.rate 0.5 \(3 +seeds\)", out)
    assert "minus inner.rate 0.1, paired by seed and task" in out


@pytest.mark.usefixtures("one_figure")
def test_a_report_of_one_run_compares_nothing(swept: list[str], capsys):
    assert report([swept[0], "--videos", "0"]) == 0
    page = (Path(swept[0]) / "report.html").read_text()
    assert "What differs" not in page
    assert "seeds" not in re.sub(
        r"<pre>.*?</pre>|<figcaption>.*?</figcaption>", "", page, flags=re.S
    )
    name = json.loads((Path(swept[0]) / "evaluation.json").read_text())["seed"]
    assert f"smoke-seed{name}" in page
