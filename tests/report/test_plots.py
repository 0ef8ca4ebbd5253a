"""Figures of runs: the numbers they draw, read back from them, and what they do not touch."""

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from PIL import Image
from scipy import stats

from metarl.experiment.build import make_learner
from metarl.experiment.schema import RLExperiment
from metarl.report.groups import groups
from metarl.report.plots import DIAGNOSTICS, INK, figures, to_png, to_svg
from metarl.report.tables import protocol
from metarl.report.view import RunView
from metarl.rl.evaluate import PolicyEvaluation, RecordedRollouts
from metarl.runtime.record import EvaluationRecord, EvaluationSettings, Published
from metarl_envs.registry import SIMULATED

ROOT = Path(__file__).parents[2]

GARBAGE = 1e6  # what follows an episode's end in a recording, to be seen nowhere

RETURNS = np.array([[-40.0, -30.0, -44.0], [-10.0, -13.0, -19.0], [-3.0, -2.0, -7.0]])

# The task family of a run decides which figures of its episodes there are.
OF_EPISODES = {
    "point-navigation": ["paths"],
    "half-cheetah-velocity": ["velocity"],
    "half-cheetah-direction": ["velocity"],
    "ant-direction": ["paths", "heading"],
    "ant-forward-backward": ["paths", "heading"],
    "ant-velocity": ["velocity"],
    "ant-goal": ["paths"],
    "hopper-params": ["velocity"],
    "walker-params": ["velocity"],
    "half-cheetah-params": ["velocity"],
    "ant-params": ["paths"],
}


def moving(family, velocity, steps=30, lengths=None):
    """Episodes that go straight at ``velocity`` [K, M, N, D] in m/s, D coordinates or fewer."""
    velocity = np.asarray(velocity, dtype=float)
    start = family.initial_state(np.random.default_rng(0), np.zeros((1, family.task_dim))).qpos[0]
    start[: family.position(start).shape[-1]] = 0
    qpos = np.tile(start, (*velocity.shape[:-1], steps + 1, 1))
    way = velocity[..., None, :] * family.dt * np.arange(steps + 1)[:, None]
    qpos[..., : way.shape[-1]] += way
    lengths = np.broadcast_to(steps if lengths is None else lengths, velocity.shape[:-1]).copy()
    qpos[np.arange(steps + 1) > lengths[..., None]] = GARBAGE
    return RecordedRollouts(qpos, np.zeros((*velocity.shape[:-1], steps)), lengths)


def metric_rows(iterations=4, **values):
    """Rows of metrics.jsonl: ``name=series`` for some, with "__" for the "/" of a name."""
    i = np.arange(iterations)
    rows = {
        "iteration": i,
        "env_steps": 1000.0 * (i + 1),
        "return/before": -40.0 + i,
        "return/before_ci95": 0 * i + 4.0,
        "return/after": -30.0 + 5 * i,
        "return/after_ci95": 0.5 + i,
        "outer/kl": 0.008 + 0.001 * (i % 2),
        "outer/loss_before": 0.0 * i,
        "outer/loss_after": -0.02 - 0.01 * i,
        "outer/backtrack": i % 2,
        "diagnosis/fresh_improvement": 0.001 * i,
        "diagnosis/fresh_kl": 0.009 + 0.001 * i,
        "diagnosis/cosine_of_halves": 0.2 - 0.1 * i,
        "outer/cg_residual": 0.1 / (i + 1),
        "outer/hvp_error": 1e-3 / (i + 1),
        "baseline/explained_variance_before": 0.1 * i,
        "policy/std": 0.9**i,
        "policy/entropy": 1 - 0.1 * i,
        "inner/gradient_norm": 2.0 - 0.1 * i,
        "inner/kl": 0.02 + 0.001 * i,
        "return/gain": 10.0 + 4 * i,
        "success/before": 0.01 * i,
        "success/after": 0.1 * i,
    }
    rows |= {name.replace("__", "/"): series for name, series in values.items()}
    return [
        {name: x if x is None else float(x) for name, x in zip(rows, row, strict=True)}
        for row in zip(*rows.values(), strict=True)
    ]


def make_view(
    name="run",
    family="point-navigation",
    tasks=None,
    returns=RETURNS,
    episodes=None,
    metrics=(),
    inner_steps=1,
    published=None,
    trained=None,
):
    """A run to draw; by default of three tasks, without metrics and episodes.

    Args:
        trained: constants of the family that were others in training.
        episodes: those of the first tasks, or the arguments of ``moving`` for some.
    """
    built = SIMULATED[family]()
    returns = np.asarray(returns, dtype=float)
    if tasks is None:
        tasks = built.sample_tasks(np.random.default_rng(0), returns.shape[1])
    if isinstance(episodes, dict):
        episodes = moving(built, **episodes)
    evaluation = PolicyEvaluation(
        measure="return",
        tasks=np.asarray(tasks, dtype=float),
        task_fields=built.task_fields,
        scores=returns,
        lengths=np.ones_like(returns),
        diverged=np.zeros(len(returns)),
        inner_rates=[0.1] * (len(returns) - 1),
        trajectories=20,
    )
    env = json.loads(json.dumps({"family": family, **dataclasses.asdict(built)}))
    taken = EvaluationSettings(env, len(tasks), 0, None, [], trajectories=20, actions="sampled")
    record = EvaluationRecord(
        **vars(evaluation.record()),
        others=[],
        main_test="",
        problem="env",
        protocol=taken,
        iteration=1,
        published=Published(test="", **(published or {"source": "", "scores": []})),
        episodes_sha256="",
    )
    seed = re.search(r"-seed(\d+)", name)
    config = {
        "env": env | (trained or {}),
        "seed": int(seed[1]) if seed else 0,
        "inner": {"steps": inner_steps},
        "outer": {"max_kl": 0.01},
    }
    return RunView(
        name=name,
        config=config,
        info={},
        metrics=metrics,
        evaluation=EvaluationRecord.from_json(record.to_json()),  # NaN becomes null
        episodes=episodes,
        family=built,
    )


def whole_view(family, metrics=None, **kwargs):
    """A run with all that can be drawn of it: two tasks, one inner step, two trajectories each."""
    velocity = np.array([[0.1], [-0.2]]) * np.array([1.0, 0.5])
    axes = 1 if family.startswith("half-cheetah") else 2
    velocity = np.broadcast_to(velocity[..., :axes], (2, 2, 2, axes))
    episodes = {"velocity": velocity, "lengths": np.array([30, 17])}
    metrics = metric_rows() if metrics is None else metrics
    returns = RETURNS[:2, :2]
    return make_view(family=family, returns=returns, episodes=episodes, metrics=metrics, **kwargs)


def only_axes(views, name):
    (axes,) = figures(views)[name].axes
    return axes


def line(axes, label):
    """x and y of the one line with a label."""
    (found,) = [x for x in axes.lines if x.get_label() == label]
    return np.array(found.get_data())


def error_bars(axes):
    """Of every curve with error bars, by label: x, y, and low and high end [K, 2]."""
    found = {}
    for container in axes.containers:
        curve, _, (bars,) = container
        ends = np.array(bars.get_segments())
        np.testing.assert_array_equal(ends[:, 0, 0], curve.get_xdata())
        found[container.get_label()] = (*curve.get_data(), ends[:, :, 1])
    return found


def band(axes, index=0):
    """x, low and high end of a filled band."""
    vertices = axes.collections[index].get_paths()[0].vertices
    x = np.unique(vertices[:, 0])
    ends = [vertices[vertices[:, 0] == value, 1] for value in x]
    return x, [y.min() for y in ends], [y.max() for y in ends]


def arrow(axes):
    """Direction [2] of the one arrow in a panel, in the units of its ends."""
    (found,) = [text for text in axes.texts if isinstance(text, Annotation)]
    return np.subtract(found.xy, found.xyann)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_interval(samples, low_and_high):
    expected = stats.t.interval(0.95, len(samples) - 1, np.mean(samples), stats.sem(samples))
    np.testing.assert_allclose(low_and_high, expected)


# --- which figures there are


@pytest.mark.parametrize("name", SIMULATED)
def test_the_family_decides_how_episodes_are_drawn(name):
    drawn = list(figures([whole_view(name)]))
    # Tasks of random dynamics have no order.
    by_task = [] if name.endswith("-params") else ["by_task"]
    assert drawn == ["training", "adaptation", *by_task, *OF_EPISODES[name], "diagnostics"]


def test_without_episodes_none_are_drawn():
    view = make_view(metrics=metric_rows())
    assert list(figures([view])) == ["training", "adaptation", "by_task", "diagnostics"]


def test_without_metrics_there_is_no_training():
    views = [whole_view("ant-direction", metrics=[])]
    assert list(figures(views)) == ["adaptation", "by_task", "paths", "heading"]
    assert list(figures([make_view("one"), make_view("other")])) == ["adaptation"]


def test_several_runs_are_compared_by_their_returns_only():
    views = [whole_view("ant-direction", name=name) for name in ("one", "other")]
    assert list(figures(views)) == ["training", "adaptation"]
    views.append(make_view("untrained", "ant-direction"))
    assert list(figures(views)) == ["training", "adaptation"]


# --- returns on held-out tasks

PER_TASK = [[-9.0, -8.0, -7.0], [-3.0, -2.0, -1.0]]


def of_published(view, per_task):
    means = [float(np.mean(row)) for row in per_task]
    published = Published("paper", "", means, per_task)
    return dataclasses.replace(
        view, evaluation=dataclasses.replace(view.evaluation, published=published)
    )


def test_returns_are_drawn_against_what_tasks_ask_for_beside_the_published_ones():
    tasks = [[0.5], [0.1], [1.7], [1.0], [0.3]]
    returns = -np.arange(10.0).reshape(2, 5)
    theirs = (returns - 3).tolist()
    view = make_view("ours", "half-cheetah-velocity", tasks=tasks, returns=returns)
    panels = figures([of_published(view, theirs)])["by_task"].axes
    assert [axes.get_title() for axes in panels] == ["before adaptation", "after 1 inner step"]
    for k, axes in enumerate(panels):
        assert axes.get_xlabel() == "velocity"
        np.testing.assert_array_equal(line(axes, "ours"), [np.ravel(tasks), returns[k]])
        np.testing.assert_array_equal(line(axes, "paper"), [np.ravel(tasks), theirs[k]])


def test_goals_are_put_in_a_row_by_their_distance():
    view = make_view(tasks=[[0.3, 0.4], [0.0, -0.1], [0.0, 0.0]])
    axes = figures([view])["by_task"].axes[0]
    assert axes.get_xlabel() == "distance of the goal (m)"
    np.testing.assert_allclose(line(axes, "run")[0], [0.5, 0.1, 0.0])


def test_directions_stand_beside_each_other():
    tasks, theirs = [[1.0], [-1.0], [1.0]], PER_TASK
    view = of_published(make_view("ours", "half-cheetah-direction", tasks=tasks), theirs)
    axes = figures([view])["by_task"].axes[0]
    assert list(axes.get_xticks()) == [-1, 1]
    assert (line(axes, "ours")[0] < np.ravel(tasks)).all()
    assert (line(axes, "paper")[0] > np.ravel(tasks)).all()


def test_adaptation_shows_mean_and_interval_over_tasks():
    axes = only_axes([make_view()], "adaptation")
    x, y, ends = error_bars(axes)["run"]
    np.testing.assert_array_equal(x, [0, 1, 2])
    np.testing.assert_allclose(y, [-38.0, -14.0, -4.0])
    for samples, low_and_high in zip(RETURNS, ends, strict=True):
        assert_interval(samples, low_and_high)
    np.testing.assert_array_equal(axes.get_xticks(), [0, 1, 2])


def test_adaptation_of_several_runs():
    views = [make_view("one"), make_view("other", returns=RETURNS[:2] + 1)]
    figure = figures(views)["adaptation"]
    bars = error_bars(figure.axes[0])
    assert list(bars) == legend(figure) == ["one", "other"]
    np.testing.assert_allclose(bars["one"][1], [-38.0, -14.0, -4.0])
    np.testing.assert_allclose(bars["other"][1], [-37.0, -13.0])
    one, other = (container.lines[0] for container in figure.axes[0].containers)
    assert one.get_color() != other.get_color()
    assert one.get_marker() != other.get_marker()


def test_a_run_that_does_not_adapt_is_a_horizontal_line():
    figure = figures([make_view("maml"), make_view("oracle", returns=RETURNS[1:2])])["adaptation"]
    axes = figure.axes[0]
    assert list(error_bars(axes)) == ["maml"]
    assert sorted(legend(figure)) == ["maml", "oracle"]
    np.testing.assert_allclose(line(axes, "oracle"), [[0, 2], [-14.0, -14.0]])
    x, low, high = band(axes, index=-1)
    np.testing.assert_array_equal(x, [0, 2])
    for ends in zip(low, high, strict=True):
        assert_interval(RETURNS[1], ends)
    # Alone it is a point, as there is nothing to go along.
    ((x, y, _),) = error_bars(only_axes([make_view(returns=RETURNS[1:2])], "adaptation")).values()
    np.testing.assert_allclose([x, y], [[0], [-14.0]])


def test_the_published_row_is_drawn_beside_ones_own():
    published = {"source": "Finn et al. 2017", "scores": [-40.41, -11.68]}
    figure = figures([make_view(published=published)])["adaptation"]
    np.testing.assert_array_equal(
        line(figure.axes[0], "Finn et al. 2017"), [[0, 1], [-40.41, -11.68]]
    )
    assert sorted(legend(figure)) == ["Finn et al. 2017", "run"]
    nameless = only_axes([make_view(published=published | {"source": ""})], "adaptation")
    np.testing.assert_array_equal(line(nameless, "published")[1], [-40.41, -11.68])


def test_the_published_row_is_not_drawn_beside_scores_of_other_tasks():
    published = {"source": "a paper", "scores": [-40.41, -11.68]}
    view = make_view(published=published, trained={"goal_range": [-1.0, 1.0]})
    assert legend(figures([view])["adaptation"]) == ["run"]
    assert "NOT as trained: goal_range [-0.5, 0.5] instead of [-1.0, 1.0]" in protocol(view)
    assert "NOT as trained" not in protocol(make_view())


def test_runs_whose_names_alone_look_like_seeds_are_curves_of_their_own():
    other = make_view("maml-seed1", inner_steps=2)  # another experiment
    assert list(groups([make_view("maml-seed0"), other])) == ["inner.steps 1", "inner.steps 2"]
    twice = [make_view("maml-seed0-20260101"), make_view("maml-seed0-20260102")]  # the same seed
    assert list(groups(twice)) == ["maml-seed0-20260101", "maml-seed0-20260102"]
    seeds = [make_view("maml-seed0-20260101"), make_view("maml-seed1")]
    assert list(groups([*seeds, make_view("pre-seeded")])) == ["maml", "pre-seeded"]


def test_runs_that_differ_in_the_seed_are_one_curve():
    returns = [RETURNS, RETURNS + 3, RETURNS[:2] - 6]  # the last has a step less
    views = [make_view(f"maml-seed{seed}", returns=r) for seed, r in enumerate(returns)]
    views.append(make_view("other"))
    bars = error_bars(only_axes(views, "adaptation"))
    assert list(bars) == ["maml", "other"]
    x, y, ends = bars["maml"]
    np.testing.assert_array_equal(x, [0, 1])
    np.testing.assert_allclose(y, [-39.0, -15.0])
    assert_interval([-38.0, -35.0, -44.0], ends[0])  # over seeds, each the mean of its tasks
    assert_interval([-14.0, -11.0, -20.0], ends[1])


def test_diverged_tasks_are_left_out():
    returns = RETURNS.copy()
    returns[1, 2] = np.nan
    _, y, ends = error_bars(only_axes([make_view(returns=returns)], "adaptation"))["run"]
    np.testing.assert_allclose(y, [-38.0, -11.5, -4.0])
    assert_interval([-10.0, -13.0], ends[1])
    views = [make_view("x-seed0", returns=returns), make_view("x-seed1")]
    _, y, ends = error_bars(only_axes(views, "adaptation"))["x"]
    np.testing.assert_allclose(y, [-38.0, (-11.5 - 14.0) / 2, -4.0])
    assert_interval([-11.5, -14.0], ends[1])


# --- training


def test_training_is_drawn_against_env_steps():
    figure = figures([make_view(metrics=metric_rows(3))])["training"]
    (axes,) = figure.axes
    steps = [1000, 2000, 3000]
    np.testing.assert_array_equal(line(axes, "run, after adaptation"), [steps, [-30, -25, -20]])
    np.testing.assert_array_equal(line(axes, "run, before"), [steps, [-40, -39, -38]])
    np.testing.assert_allclose(  # the metrics' own interval
        band(axes), [steps, [-30.5, -26.5, -22.5], [-29.5, -23.5, -17.5]]
    )
    assert axes.get_xlabel() == "env steps"
    assert sorted(legend(figure)) == ["run, after adaptation", "run, before"]


def test_training_without_inner_steps_has_one_curve():
    axes = only_axes([make_view("oracle", metrics=metric_rows(), inner_steps=0)], "training")
    assert [x.get_label() for x in axes.lines] == ["oracle"]
    np.testing.assert_array_equal(line(axes, "oracle")[1], [-30, -25, -20, -15])


def test_training_of_seeds_is_their_mean():
    after = ([-14.0, -9.0, 0.0, 7.0], [-10.0, -8.0, -6.0], [-12.0, -4.0, 3.0])
    env_steps = ([100, 190, 270, 400], [100, 200, 300], [100, 210, 330])
    views = [
        make_view(
            f"maml-seed{i}",
            metrics=metric_rows(len(x), return__after=y, return__before=y, env_steps=x),
        )
        for i, (x, y) in enumerate(zip(env_steps, after, strict=True))
    ]
    axes = only_axes(views, "training")
    assert len(axes.lines) == 2
    x, y = line(axes, "maml, after adaptation")
    np.testing.assert_allclose(x, [100, 200, 300])  # up to where all have got
    np.testing.assert_allclose(y, [-12, -7, -1])
    np.testing.assert_allclose(line(axes, "maml, before"), [x, y])
    _, low, high = band(axes)
    for i in range(3):
        assert_interval([y[i] for y in after], [low[i], high[i]])


def test_runs_without_metrics_are_left_out_of_training():
    views = [make_view("one", metrics=metric_rows()), make_view("random")]
    axes = only_axes(views, "training")
    assert {x.get_label() for x in axes.lines} == {"one, after adaptation", "one, before"}


def test_missing_returns_are_gaps():
    rows = metric_rows(4, return__after=[-3, None, -2, -1])
    x, y = line(only_axes([make_view(metrics=rows)], "training"), "run, after adaptation")
    np.testing.assert_array_equal(x, [1000, 2000, 3000, 4000])
    np.testing.assert_array_equal(y, [-3, np.nan, -2, -1])


# --- episodes


def test_progress_is_drawn_against_minutes_of_training_without_evaluations():
    none = np.array([None] * 4)
    scores = {f"evaluation__return_{k}": none.copy() for k in (0, 1)}
    scores |= {f"evaluation__ci95_{k}": none.copy() for k in (0, 1)}
    for row, base in ((1, -40.0), (3, -20.0)):
        for k in (0, 1):
            scores[f"evaluation__return_{k}"][row] = base + 5 * k
            scores[f"evaluation__ci95_{k}"][row] = 2.0 + k
    seconds = np.array([30.0, 60.0, 90.0, 120.0])
    view = make_view(metrics=metric_rows(seconds__iteration=seconds, **scores))
    axes = only_axes([view], "progress")
    for k, name in enumerate(("before adaptation", "after 1 inner step")):
        drawn = [[1.5, 5.0], [-40 + 5 * k, -20 + 5 * k]]
        np.testing.assert_allclose(line(axes, name), drawn)
        _, low, high = band(axes, k)
        np.testing.assert_allclose(np.subtract(high, low), 2 * (2.0 + k))
    assert "progress" not in figures([make_view(metrics=metric_rows())])


def test_progress_counts_iterations_that_were_not_logged():
    scores = {f"evaluation__{name}_0": np.array([-40.0, -20.0]) for name in ("return", "ci95")}
    rows = metric_rows(2, seconds__iteration=np.array([30.0, 60.0]), **scores)
    rows[0]["iteration"], rows[1]["iteration"] = 9.0, 19.0
    axes = only_axes([make_view(metrics=rows)], "progress")
    np.testing.assert_allclose(line(axes, "before adaptation")[0], [5.0, 15.0])


def test_the_velocity_over_time_and_the_goal():
    # Half-cheetahs of three held-out tasks, two of them recorded: 1 m/s before adaptation, then
    # nearer to the goal; 0.05 s per env step.
    velocity = np.array([[1.0, 1.0], [1.4, 0.5]])[:, :, None, None]
    view = make_view(
        family="half-cheetah-velocity",
        tasks=[[1.5], [0.25], [9.0]],
        episodes={"velocity": velocity, "steps": 40},
    )
    figure = figures([view])["velocity"]
    assert [axes.get_title() for axes in figure.axes] == ["velocity 1.50", "velocity 0.25"]
    time = 0.05 * np.arange(10, 41)  # the first ten env steps are in the first mean
    for axes, goal, last in zip(figure.axes, (1.5, 0.25), (1.4, 0.5), strict=True):
        for label, value in (("before adaptation", 1.0), ("after 1 inner step", last)):
            x, y = line(axes, label)
            np.testing.assert_allclose(x, time)
            np.testing.assert_allclose(y, value)
        np.testing.assert_allclose(line(axes, "goal")[1], goal)
    assert legend(figure) == ["before adaptation", "after 1 inner step", "goal"]


def test_the_velocity_is_the_mean_of_the_episodes_that_go_on():
    velocity = np.array([1.0, 3.0, 100.0])[None, None, :, None]
    lengths = np.array([40, 25, 9])  # the last is over before there is a mean over ten env steps
    view = make_view(
        family="half-cheetah-velocity",
        episodes={"velocity": velocity, "steps": 50, "lengths": lengths},
    )
    (axes,) = figures([view])["velocity"].axes
    x, y = line(axes, "before adaptation")
    np.testing.assert_allclose(x, 0.05 * np.arange(10, 41))
    np.testing.assert_allclose(y, [2.0] * 16 + [1.0] * 15)


def test_the_velocity_of_an_ant_is_that_along_x():
    view = make_view(
        family="ant-velocity",
        tasks=[[2.0]],
        returns=RETURNS[:, :1],
        episodes={"velocity": np.array([0.7, -5.0])[None, None, None]},
    )
    (axes,) = figures([view])["velocity"].axes
    np.testing.assert_allclose(line(axes, "before adaptation")[1], 0.7)
    np.testing.assert_allclose(line(axes, "goal")[1], 2.0)


def test_the_wanted_direction_of_a_half_cheetah_is_an_arrow():
    view = make_view(
        family="half-cheetah-direction",
        tasks=[[1.0], [-1.0]],
        returns=RETURNS[:, :2],
        episodes={"velocity": np.full((1, 2, 1, 1), -0.5)},
    )
    forwards, backwards = figures([view])["velocity"].axes
    for axes, sign in ((forwards, 1), (backwards, -1)):
        np.testing.assert_allclose(line(axes, "before adaptation")[1], -0.5)
        assert "goal" not in [x.get_label() for x in axes.lines]
        assert arrow(axes)[0] == 0
        assert np.sign(arrow(axes)[1]) == sign


def heading_view(angles, moved, **kwargs):
    """Ants [K, M, N] that move along ``moved`` (degrees) and should along ``angles`` [M]."""
    moved = np.radians(moved)
    velocity = 0.5 * np.stack([np.cos(moved), np.sin(moved)], axis=-1)
    returns = np.zeros((len(moved), len(angles)))
    return make_view(
        family="ant-direction",
        tasks=np.radians(angles)[:, None],
        returns=returns,
        episodes={"velocity": velocity, **kwargs},
    )


def test_the_heading_is_0_degrees_towards_the_goal_and_180_away_from_it():
    view = heading_view([50.0, 300.0], [[[230.0], [120.0]], [[50.0], [300.0]]], steps=40)
    figure = figures([view])["heading"]
    for axes in figure.axes:
        x, y = line(axes, "before adaptation")
        np.testing.assert_allclose(x, 0.05 * np.arange(20, 41))  # over twenty env steps
        np.testing.assert_allclose(y, 180, atol=1e-4)
        np.testing.assert_allclose(line(axes, "after 1 inner step")[1], 0, atol=1e-4)
        np.testing.assert_allclose(line(axes, "chance")[1], 90)
        assert axes.get_ylim() == (0, 180)
    assert legend(figure) == ["before adaptation", "after 1 inner step", "chance"]


@pytest.mark.parametrize(
    ("goal", "moved", "off"),
    [
        (175.0, [-175.0], 10),  # the shorter way round
        (355.0, [20.0], 25),
        (90.0, [60.0, 120.0], 30),  # to both sides is no heading straight on
        (0.0, [0.0, 90.0, 180.0], 90),
    ],
)
def test_the_heading_is_an_angle_to_either_side(goal, moved, off):
    (axes,) = figures([heading_view([goal], [[moved]])])["heading"].axes
    np.testing.assert_allclose(line(axes, "before adaptation")[1], off, atol=1e-6)


def test_the_heading_looks_at_no_episode_that_is_over():
    view = heading_view([0.0], [[[0.0, 90.0, 180.0]]], steps=50, lengths=np.array([40, 25, 19]))
    (axes,) = figures([view])["heading"].axes
    x, y = line(axes, "before adaptation")
    np.testing.assert_allclose(x, 0.05 * np.arange(20, 41))
    np.testing.assert_allclose(y, [45] * 6 + [0] * 15, atol=1e-6)


def test_paths_are_those_of_the_episodes_up_to_their_end():
    velocity = np.zeros((3, 2, 2, 2))  # inner steps, tasks, trajectories, coordinates
    velocity[:] = [[0.01, 0.0], [0.0, -0.02]]
    velocity[1] *= 2
    lengths = np.array([30, 10])
    view = make_view(
        tasks=[[0.5, 0.25], [-0.1, 3.0], [9.0, 9.0]],
        episodes={"velocity": velocity, "lengths": lengths},
    )
    figure = figures([view])["paths"]
    grid = np.reshape(figure.axes, (2, 3))
    assert [axes.get_title() for axes in grid[0]] == [
        *("before adaptation", "after 1 inner step", "after 2 inner steps")
    ]
    assert grid[0, 0].get_ylabel().startswith("goal_x 0.50, goal_y 0.25")
    assert grid[1, 0].get_ylabel().startswith("goal_x -0.10, goal_y 3.00")
    for k, m in np.ndindex(3, 2):
        axes = grid[m, k]
        along_x, along_y = (np.array(x.get_data()) for x in axes.lines[:2])
        factor = 2 if k == 1 else 1
        np.testing.assert_allclose(along_x, [factor * 0.01 * np.arange(31), np.zeros(31)])
        np.testing.assert_allclose(along_y, [np.zeros(11), -factor * 0.02 * np.arange(11)])
        (star,) = [x for x in axes.lines if x.get_marker() == "*"]
        np.testing.assert_array_equal(np.ravel(star.get_data()), [[0.5, 0.25], [-0.1, 3.0]][m])
        assert axes.get_aspect() == 1
        # All of a task's panels show the same, with the goal in it.
        reach = 1.1 * [0.6, 3.0][m]
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-reach, reach))


def test_paths_show_the_wanted_direction():
    view = heading_view([30.0, 240.0], [[[0.0], [90.0]]])
    for axes, degrees in zip(figures([view])["paths"].axes, (30.0, 240.0), strict=True):
        x, y = arrow(axes)
        assert np.degrees(np.arctan2(y, x)) % 360 == pytest.approx(degrees)
        assert np.hypot(x, y) < axes.get_xlim()[1]
        assert axes.get_xlim()[1] > 30 * 0.05 * 0.5  # all of the path is in view


# --- diagnostics


def diagnostics(view):
    axes = {x.get_title(): x for x in figures([view])["diagnostics"].axes}
    return {name: axes[title] for name, (title, _) in DIAGNOSTICS.items() if title in axes}


def test_diagnostics_draw_their_metrics_over_iterations():
    rows = metric_rows(4)
    panels = diagnostics(make_view(metrics=rows))
    for name, axes in panels.items():
        assert axes.get_title() == DIAGNOSTICS[name][0]
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(x, [1, 2, 3, 4])  # as the files in checkpoints/ are named
        if name != "outer/improvement":
            np.testing.assert_array_equal(y, [row[name] for row in rows])
    np.testing.assert_allclose(
        panels["outer/improvement"].lines[0].get_ydata(), [0.02, 0.03, 0.04, 0.05]
    )
    logarithmic = {name for name, axes in panels.items() if axes.get_yscale() == "log"}
    assert logarithmic == {"outer/cg_residual", "outer/hvp_error"}


def test_the_kl_is_drawn_with_the_radius_of_the_trust_region():
    axes = diagnostics(make_view(metrics=metric_rows()))["outer/kl"]
    _, radius = axes.lines
    np.testing.assert_array_equal(radius.get_ydata(), 0.01)
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 0.01


def test_missing_metrics_are_left_out():
    rows = metric_rows(4, outer__kl=[0.005, None, 0.003, None], outer__hvp_error=[1e-3, None, 0, 1])
    rows = [{k: x for k, x in row.items() if k != "inner/gradient_norm"} for row in rows]
    rows[1].pop("outer/loss_after")  # a step that found nothing
    panels = diagnostics(make_view(metrics=rows, inner_steps=0))
    x, y = panels["outer/kl"].lines[0].get_data()
    np.testing.assert_array_equal([x, y], [[1, 3], [0.005, 0.003]])
    x, y = panels["outer/hvp_error"].lines[0].get_data()  # a logarithmic axis has no place for 0
    np.testing.assert_array_equal([x, y], [[1, 4], [1e-3, 1]])
    np.testing.assert_array_equal(panels["outer/improvement"].lines[0].get_xdata(), [1, 3, 4])
    assert panels.keys() == DIAGNOSTICS.keys() - {"inner/gradient_norm", "policy/entropy"}


def test_metrics_are_called_as_learners_call_them():
    learner = make_learner(
        RLExperiment(
            env={"family": "point-navigation", "horizon": 4},
            policy={"name": "gaussian-mlp", "hidden_sizes": [4]},
            outer={"name": "trpo", "curvature_fraction": 1},
            **{"tasks": 2, "trajectories": 2, "threads": 1, "diagnose_every": 1},
        )
    )
    assert metric_rows(1)[0].keys() <= {"iteration"} | learner.iterate(0).keys()
    assert DIAGNOSTICS.keys() <= {"outer/improvement"} | metric_rows(1)[0].keys()


# --- files


@pytest.mark.parametrize("name", SIMULATED)
def test_every_figure_of_every_family_renders_without_warnings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures([whole_view(name)])
        # The others do not depend on the family and take long: once is enough.
        some = drawn if name == "point-navigation" else {"by_task", *OF_EPISODES[name]} & {*drawn}
        for figure in some:
            assert to_svg(drawn[figure], "x").endswith(b"</svg>\n")


@pytest.mark.parametrize("seeds", [1, 2])
def test_returns_of_nothing_but_diverged_episodes_break_nothing(seeds):
    returns = RETURNS.copy()
    returns[1, 2] = np.nan
    rows = metric_rows(3, return__after=[-1, None, None], return__after_ci95=[1, None, None])
    views = [make_view(f"x-seed{i}", returns=returns, metrics=rows) for i in range(seeds)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures(views)
        for name in ("training", "adaptation"):
            to_svg(drawn[name], name)


@pytest.mark.parametrize("steps", [5, 30])  # of the horizon; a mean is over 10 or 20
@pytest.mark.parametrize(
    ("name", "drawn", "axes"),
    [("half-cheetah-velocity", "velocity", 1), ("ant-direction", "heading", 2)],
)
def test_episodes_that_end_at_once_break_nothing(name, drawn, axes, steps):
    episodes = {"velocity": np.ones((2, 2, 2, axes)), "steps": steps, "lengths": 3}
    view = make_view(family=name, returns=RETURNS[:2, :2], episodes=episodes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures([view])[drawn]
        to_svg(figure, "x")
    for panel in figure.axes:
        assert len(line(panel, "before adaptation")[0]) == 0


def test_equal_figures_give_equal_files():
    drawn = [figures([whole_view("ant-direction", metrics=[])]) for _ in range(2)]
    one, other = ({k: to_svg(figure, k) for k, figure in of_once.items()} for of_once in drawn)
    assert one == other
    assert len(set(one.values())) == 4


def attributes(svg):
    for element in ElementTree.fromstring(svg).iter():
        for name, value in element.attrib.items():
            yield name.rpartition("}")[2], value


@pytest.mark.parametrize("name", ["point-navigation", "half-cheetah-direction", "ant-direction"])
def test_svg_files_load_nothing(name):
    published = {"source": "A & B <2017>", "scores": [-1.0, -2.0]}
    view = whole_view(name, published=published, metrics=[])
    for figure in figures([view]).values():
        svg = to_svg(figure, "x")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert not tags & {"script", "image", "foreignObject", "link", "iframe", "a"}
        assert b"@import" not in svg
        for attribute, value in attributes(svg):
            if attribute in ("href", "src"):
                assert value.startswith("#")
            assert set(re.findall(r"url\(['\"]?(.)", value)) <= {"#"}
            assert not attribute.startswith("on")


def test_figures_on_one_page_do_not_share_what_they_refer_to():
    def referred(svg):
        found = set(re.findall(rb'url\(#(\w+)\)|href="#(\w+)"', svg))
        return {first or second for first, second in found}

    figure = figures([whole_view("ant-direction", metrics=[])])["paths"]
    one, other = (referred(to_svg(figure, salt)) for salt in ("paths", "heading"))
    assert one
    assert not one & other


def test_svg_text_is_text_in_the_ink_that_pages_replace():
    svg = to_svg(figures([make_view("<run> & 'run'")])["adaptation"], "x")
    texts = [t for t in ElementTree.fromstring(svg).iter() if t.tag.endswith("}text")]
    assert "<run> & 'run'" in [text.text for text in texts]
    assert "inner steps" in [text.text for text in texts]
    coloured = [text for text in texts if "fill:" in text.get("style", "")]
    assert coloured
    assert all(INK in text.get("style") for text in coloured)


def test_png_files_are_white_and_as_wide_as_the_figure():
    drawn = figures([whole_view("point-navigation", metrics=[])])
    for name, size in (("adaptation", (960, 600)), ("paths", (765, 765))):
        picture = Image.open(io.BytesIO(to_png(drawn[name]))).convert("RGBA")
        assert picture.size == size  # 150 pixels per inch
        assert picture.getpixel((0, 0)) == (255, 255, 255, 255)
        colours = {to_hex(np.array(c) / 255) for _, c in picture.getcolors(1 << 24)}
        assert INK in colours


def test_figures_leave_the_settings_of_matplotlib_alone():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = dict(matplotlib.rcParams)
        figure = figures([whole_view("ant-direction")])["adaptation"]
        assert dict(matplotlib.rcParams) == before
        to_svg(figure, "x")
        to_png(figure)
        assert dict(matplotlib.rcParams) == before


APART = """
import hashlib, runpy, sys

tests = runpy.run_path(sys.argv[1])
figures = tests["figures"]([tests["whole_view"]("ant-direction", metrics=[])])
for name, figure in figures.items():
    print(name, hashlib.sha256(tests["to_svg"](figure, name)).hexdigest())
tests["to_png"](figures["adaptation"])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_figures_need_no_pyplot_and_are_the_same_in_every_process(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", APART, __file__],
        env={
            **{"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PYTHONHASHSEED": "3"},
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # where the fonts are listed already
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stderr == ""
    assert found.returncode == 0
    own = figures([whole_view("ant-direction", metrics=[])])
    assert found.stdout.splitlines() == [
        f"{name} {hashlib.sha256(to_svg(figure, name)).hexdigest()}" for name, figure in own.items()
    ]


def test_fields_of_tasks_are_no_mathematics():
    view = whole_view("point-navigation", metrics=[])
    fields = dataclasses.replace(view.evaluation, task_fields=["$\\frac{", "y$"])
    for figure in figures([dataclasses.replace(view, evaluation=fields)]).values():
        to_svg(figure, "x")


def test_names_are_no_mathematics_but_powers_of_ten_are():
    """Log axes have ticks like 10^-1, drawn as such; a name with dollars is drawn as it is."""
    rows = metric_rows()
    figure = figures([make_view("a$\\b$", metrics=rows)])
    for name in ("training", "adaptation", "diagnostics"):
        text = re.sub("<!--.*?-->", "", to_svg(figure[name], "x").decode(), flags=re.DOTALL)
        assert "mathdefault" not in text
    assert "a$\\b$" in to_svg(figure["adaptation"], "x").decode()
