"""Tables on a terminal."""

import dataclasses

import numpy as np
import pytest

from metarl.report import tables
from metarl.report.view import RunView
from metarl.runtime.record import EvaluationRecord, EvaluationSettings, Published, Row
from metarl_envs import FAMILIES


@pytest.fixture
def view() -> RunView:
    """Three tasks, one inner step, and what was published of both."""
    scores = np.array([[-131.73, -140.5, -99.25], [-84.5, -79.4, -70.0]])
    problem = {"family": "half-cheetah-velocity"}
    evaluation = EvaluationRecord(
        test="",
        measure="return",
        rows=[Row(k, -123.45, 24.1, -112.5, diverged=0.0, length=200.0) for k in range(2)],
        inner_rates=[0.1],
        validation=[],
        task_fields=["velocity"],
        tasks=[[0.5], [1.0], [1.5]],
        scores=scores.tolist(),
        others=[],
        main_test="",
        problem="env",
        protocol=EvaluationSettings(problem, 3, 0, None, [], trajectories=20, actions="sampled"),
        iteration=1,
        published=Published(
            source="MAML, figure 5",
            test="",
            scores=[-129.53, -78.57],
            per_task=(scores - [[1.0, 2.0, 3.0]]).tolist(),
        ),
        task_file="goals.csv",
        episodes_sha256="",
    )
    family = FAMILIES["half-cheetah-velocity"]()
    return RunView("run", {"env": problem}, {}, [], evaluation, None, family)


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_numbers_are_whole_on_any_terminal(view: RunView, columns: str, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    tables.print_scores(view)
    out = capsys.readouterr().out
    assert "…" not in out
    for number in ("-123.45 ± 24.10", "-129.53", "-78.57", "2.00 ± 2.48"):
        assert number in out


def test_the_difference_is_ours_minus_theirs_by_task(view: RunView):
    header, rows = tables.scores(view)
    assert header[-2:] == ["published: MAML, figure 5", "difference"]
    assert [row[-1] for row in rows] == ["2.00 ± 2.48", "2.00 ± 2.48"]
    assert "difference: minus the published return, paired by task" in tables.protocol(view)
    assert "of goals" in tables.protocol(view)


def test_without_returns_of_every_task_there_is_no_difference(view: RunView):
    published = dataclasses.replace(view.evaluation.published, per_task=None)
    evaluation = dataclasses.replace(view.evaluation, published=published)
    view = dataclasses.replace(view, evaluation=evaluation)
    header, _ = tables.scores(view)
    assert header[-1] == "published: MAML, figure 5"
