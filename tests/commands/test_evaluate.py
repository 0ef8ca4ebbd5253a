"""``metarl evaluate``: repeatable scores with honest intervals."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metarl.commands.main import evaluate, train
from metarl.rl.evaluate import PolicyEvaluation, PolicyEvaluationConfig
from metarl.runtime.scores import half_width
from metarl.runtime.sinks import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_settings: list[str]) -> Path:
    """A finished toy run of four iterations, all of them saved."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = [
        *toy_settings,
        *("--iterations", "4", "--checkpoint.keep", "9", "--evaluation.every", "1"),
        *("--evaluation.tasks", "6", "--evaluation.inner_steps", "2"),
        *("--evaluation.published.source", "a paper", "--evaluation.published.scores", "[-1.5,7]"),
        *("--folder", str(folder), "--name", "run"),
    ]
    assert train(arguments) == 0
    return folder / "run"


@pytest.fixture
def scores(run: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``scores(*options)``: what ``evaluate`` writes."""

    def evaluated(*options: str) -> dict[str, Any]:
        output = tmp_path / "new folder" / "scores.json"
        assert evaluate([str(run), "--output", str(output), *options]) == 0
        return json.loads(output.read_text())

    return evaluated


def test_scores_are_the_same_each_time_whatever_the_threads(
    run: Path, tmp_path: Path, scores, start_command
):
    first = scores()
    assert first == scores("--threads", "1") == scores("--threads", "2")
    assert first == json.loads((run / "evaluation.json").read_text())  # written after training
    process = start_command(evaluate, str(run), "--output", str(tmp_path / "other.json"))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.endswith("other.json\n")
    assert json.loads((tmp_path / "other.json").read_text()) == first


def test_scores_are_those_that_training_logged(run: Path, scores):
    for row in read_metrics(run / "metrics.jsonl"):
        found = scores("--checkpoint", str(row["iteration"] + 1))["rows"]
        for k, entry in enumerate(found):
            assert entry["mean"] == row[f"evaluation/return_{k}"]
            for name in ("ci95", "median", "length", "diverged"):
                assert entry[name] == row[f"evaluation/{name}_{k}"]


def test_the_best_checkpoint_is_the_one_with_the_best_return_in_training(run, scores, capsys):
    returns = [row["return/after"] for row in read_metrics(run / "metrics.jsonl")]
    best = scores("--checkpoint", "best")
    iterations = 1 + int(np.argmax(returns))
    assert f"{run} after {iterations} iterations" in capsys.readouterr().out
    assert best == scores("--checkpoint", str(iterations))


def test_options_change_the_protocol(scores):
    default = scores()
    assert [row["inner_steps"] for row in default["rows"]] == [0, 1, 2]
    assert default["inner_rates"] == [0.1, 0.05]
    assert np.shape(default["tasks"]) == (6, 2)
    assert np.shape(default["scores"]) == np.shape(default["lengths"]) == (3, 6)
    assert default["trajectories"] == 2

    fewer = scores("--tasks", "4", "--inner_steps", "0", "--trajectories", "3")
    assert np.shape(fewer["scores"]) == (1, 4)
    assert (fewer["trajectories"], fewer["inner_rates"]) == (3, [])

    rates = scores("--inner_rates", "[0.1,0.2]")
    assert rates["inner_rates"] == [0.1, 0.2]
    assert rates["scores"][:2] == default["scores"][:2]
    assert rates["scores"][2] != default["scores"][2]

    other = scores("--seed", "1")
    assert other["tasks"] != default["tasks"]
    assert other["scores"] != default["scores"]


def test_mean_actions_and_chosen_rates_are_options(scores):
    default = scores()
    mean = scores("--mean_actions", "true")
    assert (default["actions"], mean["actions"]) == ("sampled", "mean")
    assert mean["tasks"] == default["tasks"]
    assert mean["scores"] != default["scores"]

    chosen = scores("--candidate_rates", "[0.3,0.7]")
    assert [v["rate"] for v in chosen["validation"]] == [0.3, 0.7]
    best = max(chosen["validation"], key=lambda v: v["score"])["rate"]
    assert chosen["inner_rates"] == [best, best / 2]
    assert default["validation"] == []


def test_tasks_may_be_out_of_the_trained_range(scores, capsys):
    far = scores("--env.goal_range", "[2,3]")
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT as trained: goal_range [2.0, 3.0] instead of [-0.5, 0.5]" in said
    assert "a paper" not in said
    assert (np.array(far["tasks"]) >= 2).all()
    assert far["protocol"]["problem"]["goal_range"] == [2, 3]
    assert far["rows"][0]["mean"] < scores()["rows"][0]["mean"]


def test_steps_is_short_for_inner_steps(scores):
    assert scores("--steps", "1") == scores("--steps=1") == scores("--inner_steps", "1")


def test_several_runs_are_compared_on_the_first_ones_tasks(toy, runs: Path, tmp_path: Path, capsys):
    for name, own in {
        "first": ("--evaluation.tasks", "5", "--evaluation.trajectories", "3"),
        "second": ("--seed", "1"),
        "oracle": ("--config", "baselines/oracle", "--evaluation.inner_steps", "0"),
    }.items():
        assert train(toy(name, *own)) == 0
    before = (runs / "second" / "evaluation.json").read_bytes()
    capsys.readouterr()
    output = tmp_path / "comparison.json"
    names = ("first", "second", "oracle")
    arguments = [*(str(runs / name) for name in names), "--steps", "2"]
    assert evaluate([*arguments, "--output", str(output)]) == 0
    assert (runs / "second" / "evaluation.json").read_bytes() == before
    found = json.loads(output.read_text())
    first, second, oracle = (found["runs"][name] for name in names)
    assert np.shape(first["scores"]) == np.shape(second["scores"]) == (3, 5)
    assert np.shape(oracle["scores"]) == (1, 5), "it is not adapted"
    assert first["tasks"] == second["tasks"] == oracle["tasks"]
    assert {run["trajectories"] for run in (first, second, oracle)} == {3}

    differences = found["differences"]
    assert list(differences) == ["second - first", "oracle - first"]
    assert [len(rows) for rows in differences.values()] == [3, 3]
    for k, row in enumerate(differences["oracle - first"]):  # the same after every inner step
        means = np.mean(oracle["scores"][0]), np.mean(first["scores"][k])
        assert row["mean"] == pytest.approx(means[0] - means[1])
    out = capsys.readouterr().out
    for k, row in enumerate(differences["second - first"]):
        paired = stats.ttest_rel(second["scores"][k], first["scores"][k]).confidence_interval()
        assert row["mean"] == pytest.approx((paired.low + paired.high) / 2)
        assert row["ci95"] == pytest.approx((paired.high - paired.low) / 2)
        assert f"{row['mean']:.2f} ± {row['ci95']:.2f}" in out

    # Without an output the runs keep what they would have found alone: here only the oracle.
    assert evaluate(arguments) == 0
    assert (runs / "second" / "evaluation.json").read_bytes() == before


def test_what_a_config_leaves_open_is_the_runs_own(toy, runs: Path, capsys):
    """Evaluation.trajectories is null: as many as in training, said or not."""
    arguments = [a for a in toy("run") if a not in ("--evaluation.trajectories",)]
    arguments.pop(arguments.index("--evaluation.tasks") + 2)  # its value
    assert train(arguments) == 0
    own = (runs / "run" / "evaluation.json").read_bytes()
    capsys.readouterr()
    for options in ([], ["--trajectories", "2"], ["--inner_rates", "[0.1]"]):
        assert evaluate([str(runs / "run"), *options]) == 0
        assert "written to" in capsys.readouterr().out
        assert (runs / "run" / "evaluation.json").read_bytes() == own


def test_held_out_tasks_are_the_same_for_all_runs(toy, runs: Path):
    tasks, returns = [], []
    for seed in ("0", "1"):
        assert train(toy(seed, "--seed", seed)) == 0
        found = json.loads((runs / seed / "evaluation.json").read_text())
        tasks.append(found["tasks"])
        returns.append(found["scores"])
    assert tasks[0] == tasks[1]
    assert returns[0] != returns[1]


def test_the_table_shows_scores_with_intervals_beside_the_published_ones(scores, capsys):
    found = scores()
    out = capsys.readouterr().out
    assert found["published"] == {"source": "a paper", "test": "", "scores": [-1.5, 7.0]}
    assert re.search(r"published: a\n.* return .* paper\n", out)
    for row, published in zip(found["rows"], (r"-1\.50", r"7\.00", ""), strict=True):
        mean, width = f"{row['mean']:.2f}", f"{row['ci95']:.2f}"
        cells = rf"^ +{row['inner_steps']} .* {mean} ± {width} .* {published} *$"
        assert re.search(cells, out, re.MULTILINE), out


def test_rows_summarise_the_returns_of_every_task(scores):
    found = scores()
    for row, returns, lengths in zip(found["rows"], found["scores"], found["lengths"], strict=True):
        low, high = stats.t.interval(0.95, 5, np.mean(returns), stats.sem(returns))
        assert row["mean"] == pytest.approx((low + high) / 2)
        assert row["ci95"] == pytest.approx((high - low) / 2)
        assert row["median"] == pytest.approx(np.median(returns))
        assert row["length"] == pytest.approx(np.mean(lengths))


# --- the parts


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50).filter(lambda x: np.std(x) > 1e-6))
def test_half_width_is_that_of_students_interval(samples: list[float]):
    low, high = stats.t.interval(0.95, len(samples) - 1, np.mean(samples), stats.sem(samples))
    assert half_width(np.array(samples)) == pytest.approx((high - low) / 2, rel=1e-6)


def test_half_width_covers_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (4000, 5))
    covered = [abs(row.mean() - 3.0) <= half_width(row) for row in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_one_sample_and_equal_samples_have_no_width():
    assert np.isnan(half_width(np.array([3.0])))
    assert half_width(np.full(4, 3.0)) == 0.0


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (PolicyEvaluationConfig(inner_steps=0), []),
        (PolicyEvaluationConfig(inner_steps=3), [0.4, 0.2, 0.2]),
        (PolicyEvaluationConfig(inner_steps=2, inner_rates=[1.0, 2.0, 3.0]), [1.0, 2.0]),
    ],
)
def test_inner_rates_are_alpha_then_half_of_it(config: PolicyEvaluationConfig, rates: list[float]):
    assert config.rates(0.4) == rates


def test_too_few_inner_rates_are_refused():
    with pytest.raises(ValueError, match=r"inner_rates has 1 entries for 3 inner steps"):
        PolicyEvaluationConfig(inner_rates=[0.1])


def test_an_evaluation_as_metrics():
    evaluation = PolicyEvaluation(
        measure="return",
        tasks=np.zeros((2, 1)),
        task_fields=("velocity",),
        scores=np.array([[1.0, 3.0], [4.0, 8.0]]),
        lengths=np.array([[10.0, 20.0], [10.0, 10.0]]),
        diverged=np.array([0.0, 1.0]),
        inner_rates=[0.1],
        trajectories=4,
    )
    metrics = evaluation.metrics()
    assert metrics["evaluation/return_0"] == 2.0
    assert metrics["evaluation/return_1"] == metrics["evaluation/median_1"] == 6.0
    assert metrics["evaluation/length_0"] == 15.0
    assert metrics["evaluation/diverged_1"] == 1.0
    assert metrics["evaluation/ci95_0"] == pytest.approx(stats.t.ppf(0.975, 1) * 1.0)
    gains = {name for name in metrics if "gain" in name}
    assert gains == {"evaluation/gain_1", "evaluation/gain_ci95_1"}
    assert metrics["evaluation/gain_1"] == 4.0
    assert len(metrics.keys() - gains) == 2 * 5
