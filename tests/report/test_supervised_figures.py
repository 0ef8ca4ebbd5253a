"""Figures and pages of supervised runs: the numbers they show, read back from them."""

import hashlib
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from scipy import stats

from metarl.commands.main import report, train
from metarl.experiment.evaluations import newest, open_runs
from metarl.experiment.settings import read_config
from metarl.report.page import DRAWN
from metarl.report.plots import figures, to_png, to_svg
from metarl.report.style import COLOURS
from metarl.report.view import RunView
from metarl.runtime.record import Published, Row
from metarl.supervised.evaluate import RecordedExamples

ROOT = Path(__file__).parents[2]
TESTS = ["10-shot", "5-shot", "20-shot", "5-shot half-range"]
PUBLISHED = '{"source": "Finn et al. 2017", "test": "", "scores": [null, 0.5]}'
SMALL = [
    *("--tasks", "4", "--evaluation.tasks", "5", "--compile", "false", "--threads", "1"),
    *("--logging.wandb", "disabled", "--logging.report", "false", "--logging.every", "1"),
]
SINUSOID = [
    *("--config", "sinusoid", "--iterations", "3", "--model.hidden_sizes", "[6]", *SMALL),
    *("--evaluation.published", PUBLISHED),
]
FEW_SHOT = [
    *("--data.source", "glyphs", "--data.ways", "3", "--data.train_classes", "4"),
    *("--data.validation_classes", "0", "--data.test_classes", "4", "--data.drawings", "4"),
    *("--model.hidden_sizes", "[8]", "--iterations", "2", *SMALL),
    *("--shots", "1", "--queries", "2", "--evaluation.inner_steps", "2"),
]
RUNS = {
    "maml-seed0": [*SINUSOID, "--evaluation.inner_steps", "2"],
    "maml-seed1": [*SINUSOID, "--evaluation.inner_steps", "2", "--seed", "1"],
    "fomaml": [*SINUSOID, "--evaluation.inner_steps", "2", "--inner.algorithm", "fomaml"],
    "oracle": [
        *(*SINUSOID, "--observe_task", "true", "--inner.steps", "0"),
        *("--evaluation.inner_steps", "0"),
    ],
    "glyphs": [*FEW_SHOT, "--model.name", "mlp"],
    "norm": [*FEW_SHOT, "--model.name", "dense"],  # which has batch norm
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs, those of ``RUNS``."""
    folder = tmp_path_factory.mktemp("runs")
    for name, arguments in RUNS.items():
        assert train([*arguments, "--folder", str(folder), "--name", name]) == 0
    return folder


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[str, RunView]:
    runs = open_runs([str(folder / name) for name in RUNS])
    return {run.name: newest(run, read_config(run)) for run in runs}


def line(axes, label):
    """x and y of the one line with a label."""
    (found,) = [x for x in axes.lines if x.get_label() == label]
    return np.array(found.get_data())


def error_bars(axes):
    """Of every curve with error bars, by label: x, y, and low and high end [K, 2]."""
    found = {}
    for container in axes.containers:
        curve, _, (bars,) = container
        found[container.get_label()] = (*curve.get_data(), np.array(bars.get_segments())[:, :, 1])
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_interval(samples, low_and_high):
    expected = stats.t.interval(0.95, len(samples) - 1, np.mean(samples), stats.sem(samples))
    np.testing.assert_allclose(low_and_high, expected)


def with_scores(view, scores):
    """The run with other scores [steps + 1, M] in its first test."""
    rows = [Row(k, float(np.mean(x)), 0.1, 0.0, 0.0) for k, x in enumerate(scores)]
    tasks = [[1.0] * len(view.evaluation.task_fields)] * np.shape(scores)[1]
    changed = {"scores": np.asarray(scores).tolist(), "rows": rows, "tasks": tasks}
    rates = [0.01] * (len(scores) - 1)
    evaluation = replace(view.evaluation, inner_rates=rates, **changed)
    return replace(view, evaluation=evaluation, episodes=None)


# --- which figures there are


def test_every_kind_of_run_has_its_figures(views):
    for name in ("maml-seed0", "oracle"):
        assert list(figures([views[name]])) == ["training", "adaptation", "fits"]
    for name in ("glyphs", "norm"):
        assert list(figures([views[name]])) == ["training", "adaptation", "images"]
    assert list(figures([views["fomaml"], views["oracle"]])) == ["training", "adaptation", "fits"]
    assert list(figures([views["glyphs"], views["norm"]])) == ["training", "adaptation"]
    lost = replace(views["maml-seed0"], episodes=None, metrics=[])
    assert list(figures([lost])) == ["adaptation"]


# --- scores on held-out tasks


def test_one_run_has_a_line_per_test(views):
    view = views["maml-seed0"]
    figure = figures([view])["adaptation"]
    (axes,) = figure.axes
    bars = error_bars(axes)
    assert list(bars) == TESTS
    assert legend(figure) == [*TESTS, "Finn et al. 2017"]
    for test, evaluation in zip(TESTS, [view.evaluation, *view.evaluation.others], strict=True):
        assert evaluation.test == test
        x, y, ends = bars[test]
        np.testing.assert_array_equal(x, [0, 1, 2])
        np.testing.assert_allclose(y, np.mean(evaluation.scores, axis=1))
        for scores, low_and_high in zip(evaluation.scores, ends, strict=True):
            assert_interval(scores, low_and_high)
    np.testing.assert_array_equal(line(axes, "Finn et al. 2017"), [[1], [0.5]])  # 0 is a gap
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "MSE on held-out tasks"
    np.testing.assert_array_equal(axes.get_xticks(), [0, 1, 2])


def test_several_runs_have_a_panel_per_test_and_a_line_per_name(views):
    compared = [views[name] for name in ("maml-seed0", "maml-seed1", "fomaml", "oracle")]
    figure = figures(compared)["adaptation"]
    assert [axes.get_title() for axes in figure.axes] == TESTS
    assert legend(figure) == ["maml", "fomaml", "oracle", "Finn et al. 2017"]
    for axes, test in zip(figure.axes, TESTS, strict=True):
        one, other, fomaml, oracle = (view.tests()[test] for view in compared)
        bars = error_bars(axes)
        assert list(bars) == ["maml", "fomaml"]
        for k in range(3):
            assert_interval(fomaml.scores[k], bars["fomaml"][2][k])
            means = [one.scores[k].mean(), other.scores[k].mean()]
            np.testing.assert_allclose(bars["maml"][1][k], np.mean(means))
            low, high = stats.t.interval(0.95, 1, np.mean(means), stats.sem(means))
            np.testing.assert_allclose(bars["maml"][2][k], [low, high])  # over seeds
        x, y = line(axes, "oracle")
        np.testing.assert_array_equal(x, [0, 2])
        np.testing.assert_allclose(y, oracle.scores.mean())
        assert axes.get_yscale() == "log"
    published = ["Finn et al. 2017" in [x.get_label() for x in axes.lines] for axes in figure.axes]
    assert published == [True, False, False, False]  # it is of the main test


def test_the_accuracy_is_drawn_on_a_linear_axis(views):
    (axes,) = figures([views["glyphs"]])["adaptation"].axes
    assert list(error_bars(axes)) == ["glyphs"]  # it has but one test
    assert axes.get_yscale() == "linear"
    assert axes.get_ylabel() == "accuracy on held-out tasks"


def test_a_test_that_only_some_runs_have_shows_those(views):
    figure = figures([views["norm"], views["glyphs"]])["adaptation"]
    assert [axes.get_title() for axes in figure.axes] == ["1-shot", "1-shot, transductive"]
    both, one = (error_bars(axes) for axes in figure.axes)
    assert list(both) == ["norm", "glyphs"]
    assert list(one) == ["norm"]
    colours = [axes.containers[0].lines[0].get_color() for axes in figure.axes]
    assert colours[0] == colours[1]


def test_points_of_tests_without_adaptation_stand_side_by_side(views):
    (axes,) = figures([views["oracle"]])["adaptation"].axes
    bars = error_bars(axes)
    assert list(bars) == TESTS
    places = [x[0] for x, _, _ in bars.values()]
    assert len(set(places)) == 4
    assert -0.2 < min(places) == -max(places)  # around 0 inner steps


@pytest.mark.parametrize("half_width", [0.99999, 3.0])
def test_an_interval_that_reaches_zero_leaves_the_means_in_view(views, half_width):
    off = half_width / stats.t.ppf(0.975, 1)
    scores = np.array([[1.0, 1.1], [1 - off, 1 + off]])
    view = with_scores(views["maml-seed0"], scores)
    view = replace(view, evaluation=replace(view.evaluation, others=[]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures([view])["adaptation"]
        to_svg(figure, "x")
    low, high = figure.axes[0].get_ylim()
    assert 0.1 < low < 0.5  # a published 0.5 is the least
    assert high > 1 + half_width


@pytest.mark.parametrize("values", [np.nan, 0.0])
def test_nothing_to_draw_on_a_logarithmic_axis_breaks_nothing(views, values):
    view = with_scores(views["maml-seed0"], np.full((2, 3), values))
    none = Published("", "", [])
    view = replace(view, evaluation=replace(view.evaluation, others=[], published=none))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_svg(figures([replace(view, metrics=[])])["adaptation"], "x")


def test_many_inner_steps_have_few_ticks(views):
    view = with_scores(views["glyphs"], np.full((51, 2), 0.5))
    ticks = figures([view])["adaptation"].axes[0].get_xticks()
    assert len(ticks) <= 12
    np.testing.assert_array_equal(ticks, np.round(ticks))


# --- training


def test_a_run_that_logged_once_is_seen(views):
    view = replace(views["maml-seed0"], metrics=rows([2.0]))
    (axes,) = figures([view])["training"].axes
    (drawn,) = axes.lines
    assert drawn.get_marker() == "o"
    np.testing.assert_array_equal(drawn.get_data(), ([1.0], [2.0]))


def rows(values, measure="MSE", every=1):
    return [
        {"iteration": every * i + every - 1, f"{measure}/after": y, "loss/after": -1.0}
        for i, y in enumerate(values)
    ]


def test_training_is_drawn_against_iterations(views):
    for name, measure, scale in (("fomaml", "MSE", "log"), ("glyphs", "accuracy", "linear")):
        view = views[name]
        (axes,) = figures([view])["training"].axes
        x, y = line(axes, name)
        np.testing.assert_array_equal(x, np.arange(len(view.metrics)) + 1)
        np.testing.assert_allclose(y, [row[f"{measure}/after"] for row in view.metrics])
        assert len(axes.lines) == 1  # so few are not smoothed
        assert axes.get_yscale() == scale
        assert axes.get_xlabel() == "iterations"
        assert axes.get_ylabel() == f"{measure} in training, after adaptation"


def test_many_iterations_are_a_running_mean_with_all_of_them_behind_it(views):
    values = 1.0 + np.random.default_rng(0).random(120)
    (axes,) = figures([replace(views["fomaml"], metrics=rows(values, every=10))])["training"].axes
    smooth = line(axes, "fomaml")
    (raw,) = [x for x in axes.lines if x.get_label() != "fomaml"]
    x = 10 * np.arange(1, 121)
    np.testing.assert_array_equal(raw.get_data(), [x, values])
    np.testing.assert_array_equal(smooth[0], x)
    # Over five iterations; at the ends over those that there are.
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(120)]
    np.testing.assert_allclose(smooth[1], expected)
    assert raw.get_alpha() < 0.5


def test_iterations_without_a_score_are_left_out_of_the_mean(views):
    values = [1.0] * 30 + [None] * 40 + [3.0] * 30
    (axes,) = figures([replace(views["fomaml"], metrics=rows(values))])["training"].axes
    _, y = line(axes, "fomaml")
    np.testing.assert_allclose(y[:31], 1.0)
    np.testing.assert_allclose(y[69:], 3.0)
    assert np.isnan(y[35:65]).all()


def test_training_of_seeds_is_their_mean_over_the_iterations_that_all_logged(views):
    one = replace(views["maml-seed0"], metrics=rows([1.0, 2.0, 3.0, 4.0]))
    other = replace(views["maml-seed1"], metrics=rows([5.0, 7.0], every=2))
    figure = figures([one, other])["training"]
    (axes,) = figure.axes
    assert legend(figure) == ["maml"]
    np.testing.assert_allclose(line(axes, "maml"), [[2, 4], [3.5, 5.5]])
    vertices = axes.collections[0].get_paths()[0].vertices
    for x, samples in ((2, [2.0, 5.0]), (4, [4.0, 7.0])):
        ends = vertices[vertices[:, 0] == x, 1]
        assert_interval(samples, [ends.min(), ends.max()])


# --- fits


def truth(view, m, x):
    amplitude, phase = view.evaluation.tasks[m]
    return amplitude * np.sin(x - phase)


def test_fits_are_the_functions_that_are_scored(views):
    view = views["maml-seed0"]
    figure = figures([view])["fits"]
    assert legend(figure) == [
        *("truth", "before adaptation", "after 1 inner step", "after 2 inner steps", "support")
    ]
    assert len(figure.axes) == 3
    for m, axes in enumerate(figure.axes):
        x, y = line(axes, "truth")
        assert len(x) == 100  # queries
        assert (np.diff(x) >= 0).all()
        np.testing.assert_allclose(y, truth(view, m, x), atol=1e-5)
        support_x, support_y = line(axes, "support")
        assert len(support_x) == 10
        np.testing.assert_allclose(support_y, truth(view, m, support_x), atol=1e-5)
        for k, name in enumerate(legend(figure)[1:4]):
            found_x, found_y = line(axes, name)
            np.testing.assert_array_equal(found_x, x)
            np.testing.assert_allclose(np.mean((found_y - y) ** 2), view.scores[k, m], rtol=1e-4)
        task, scores = axes.get_title().split("\n")
        assert task == view.task_name(m)
        assert scores == "MSE " + " → ".join(f"{x:.3f}" for x in view.scores[:, m])


def test_of_many_inner_steps_the_first_and_the_last_are_drawn(views):
    view = views["maml-seed0"]
    twice = view.episodes._replace(outputs=view.episodes.outputs[[0, 1, 1, 0, 2]])
    scores = view.scores[[0, 1, 1, 0, 2]]
    figure = figures([replace(with_scores(view, scores), episodes=twice)])["fits"]
    expected = ["before adaptation", "after 1 inner step", "after 4 inner steps"]
    assert legend(figure)[1:4] == expected
    order = np.argsort(twice.query_inputs[0, :, 0])
    for k, name in zip((0, 1, 4), expected, strict=True):
        np.testing.assert_array_equal(line(figure.axes[0], name)[1], twice.outputs[k, 0, order, 0])
    once = view.episodes._replace(outputs=view.episodes.outputs[:2])
    figure = figures([replace(with_scores(view, scores[:2]), episodes=once)])["fits"]
    assert legend(figure)[1:3] == expected[:2]
    assert figure.axes[0].get_title().count("→") == 1


def test_fits_of_several_runs_are_columns_of_the_same_tasks(views):
    compared = [views[name] for name in ("maml-seed0", "maml-seed1", "fomaml", "oracle")]
    figure = figures(compared)["fits"]
    grid = np.reshape(figure.axes, (3, 3))
    shown = [views[name] for name in ("maml-seed0", "fomaml", "oracle")]  # one of the seeds
    assert [axes.get_title().split("\n")[0] for axes in grid[0]] == [v.name for v in shown]
    for m, column in np.ndindex(3, 3):
        axes, view = grid[m, column], shown[column]
        x, y = line(axes, "truth")
        np.testing.assert_allclose(y, truth(view, m, x), atol=1e-5)
        name = "prediction" if view.name == "oracle" else "after 2 inner steps"
        _, found = line(axes, name)
        np.testing.assert_allclose(np.mean((found - y) ** 2), view.scores[-1, m], rtol=1e-4)
        assert axes.get_ylim() == grid[m, 0].get_ylim()
    assert [axes.get_ylabel() for axes in grid[:, 0]] == [
        f"{compared[0].task_name(m)}\ny" for m in range(3)
    ]


def test_a_prediction_far_off_hides_no_task(views):
    view = views["maml-seed0"]
    outputs = view.episodes.outputs.copy()
    outputs[1, 0] = 1e6
    outputs[2, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off = replace(view, episodes=view.episodes._replace(outputs=outputs))
        for figure in (figures([off])["fits"], figures([off, views["oracle"]])["fits"]):
            to_svg(figure, "x")
            for axes in figure.axes:
                low, high = axes.get_ylim()
                assert -60 < low < high < 60


# --- images


def signs(axes):
    """Texts below the images: [(number, sign, colour)]."""
    found = []
    for text in axes.texts:
        if match := re.fullmatch(r"(\d+)([✓✗])", text.get_text()):
            found.append((int(match[1]), match[2], to_hex(text.get_color())))
    return found


@pytest.mark.parametrize("name", ["glyphs", "norm"])
def test_images_are_marked_right_or_wrong(views, name):
    view = views[name]
    figure = figures([view])["images"]
    assert len(figure.axes) == 3
    for m, axes in enumerate(figure.axes):
        found = signs(axes)
        assert len(found) == 2 * 6  # before and after, two queries of each of three classes
        for k, of_step in ((0, found[::2]), (2, found[1::2])):
            right = [sign == "✓" for _, sign, _ in of_step]
            np.testing.assert_allclose(np.mean(right), view.scores[k, m])
            # The queries are in the order of their classes.
            numbers = [number for number, _, _ in of_step]
            assert right == [n == c for n, c in zip(numbers, [0, 0, 1, 1, 2, 2], strict=True)]
            colours = {True: COLOURS[2], False: COLOURS[1]}
            assert [colour for _, _, colour in of_step] == [colours[r] for r in right]
        frames = [to_hex(p.get_edgecolor()) for p in axes.patches if isinstance(p, Rectangle)]
        assert sum(frame in COLOURS for frame in frames) == 6
        last = [colour for _, _, colour in found[1::2]]
        assert [frame for frame in frames if frame in COLOURS] == last
        progress = f"{view.scores[0, m]:.3f} → {view.scores[-1, m]:.3f}"
        assert f"task {m + 1}, accuracy {progress}" in [text.get_text() for text in axes.texts]


def test_images_are_those_of_the_task(views):
    recorded = views["glyphs"].episodes
    figure = figures([views["glyphs"]])["images"]
    for m, axes in enumerate(figure.axes):
        drawn = [np.asarray(image.get_array()) for image in axes.images]
        assert len(drawn) == 3 + 6
        # Rows of classes: a support image, two queries.
        for n in range(3):
            expected = [recorded.support_inputs[m, n], *recorded.query_inputs[m, 2 * n : 2 * n + 2]]
            for image, pixels in zip(drawn[3 * n : 3 * n + 3], expected, strict=True):
                np.testing.assert_allclose(image, np.repeat(pixels[0][..., None], 3, -1))
                assert image.std() > 0.1  # a glyph


def fake_images(ways, shots, queries, channels, steps=1):
    rng = np.random.default_rng(0)

    def targets(examples):
        return np.tile(np.repeat(np.arange(ways), examples), (2, 1))

    return RecordedExamples(
        rng.random((2, ways * shots, channels, 4, 4), dtype=np.float32),
        targets(shots),
        rng.random((2, ways * queries, channels, 4, 4), dtype=np.float32),
        targets(queries),
        rng.normal(size=(steps + 1, 2, ways * queries, ways)),
    )


def test_images_may_have_colours_and_so_many_are_shown(views):
    recorded = fake_images(5, 6, 15, 3)
    figure = figures([replace(views["glyphs"], episodes=recorded)])["images"]
    for m, axes in enumerate(figure.axes):
        assert len(axes.images) == 5 * (5 + 4)
        first = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(first, recorded.support_inputs[m, 0].transpose(1, 2, 0))
    figure = figures([replace(views["glyphs"], episodes=fake_images(25, 1, 1, 1))])["images"]
    assert [len(axes.images) for axes in figure.axes] == [40, 40]
    numbers = {n for n, _, _ in signs(figure.axes[0])}
    assert max(numbers) > 19  # which it may be taken for


def test_images_of_a_model_that_does_not_adapt_have_one_answer(views):
    view = replace(views["glyphs"], episodes=fake_images(2, 1, 3, 1, steps=0))
    figure = figures([view])["images"]
    assert len(signs(figure.axes[0])) == 6
    assert "→" not in "".join(text.get_text() for text in figure.texts)


# --- files


@pytest.mark.parametrize("names", [["fomaml"], ["fomaml", "oracle"], ["norm"]])
def test_figures_render_without_warnings_and_load_nothing(views, names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in figures([views[n] for n in names]).items():
            assert to_png(figure).startswith(b"\x89PNG")
            svg = to_svg(figure, name)
            assert set(re.findall(rb'href="(.)', svg)) <= {b"#", b"d"}  # data: of images


def test_equal_figures_give_equal_files_in_every_process(folder, views):
    program = (
        "import hashlib, sys\n"
        "from metarl.report.plots import figures, to_svg\n"
        "from metarl.experiment.evaluations import newest, open_runs\n"
        "from metarl.experiment.settings import read_config\n"
        "for run in open_runs(sys.argv[1:]):\n"
        "    for name, figure in figures([newest(run, read_config(run))]).items():\n"
        "        print(name, hashlib.sha256(to_svg(figure, name)).hexdigest())\n"
    )
    names = ("fomaml", "norm")
    found = subprocess.run(
        [sys.executable, "-c", program, *(str(folder / name) for name in names)],
        env={
            **{"PYTHONHASHSEED": "3", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # where the fonts are listed already
        },
        capture_output=True,
        text=True,
        check=True,
    )
    own = [item for name in names for item in figures([views[name]]).items()]
    assert len(own) == 6
    assert found.stdout.splitlines() == [
        f"{name} {hashlib.sha256(to_svg(figure, name)).hexdigest()}" for name, figure in own
    ]


# --- the page


def text_of(page):
    return re.sub(r"<[^>]*>", "", page.read_text())


def test_the_page_has_the_scores_of_every_test(folder, tmp_path):
    page = tmp_path / "page.html"
    assert report([str(folder / "fomaml"), "--output", str(page)]) == 0
    html, text = page.read_text(), text_of(page)
    result = json.loads((folder / "fomaml/evaluation.json").read_text())
    assert "<h2>MSE</h2>" in html
    assert "sinusoid, after\n3 iterations" in text
    for evaluation in (result, *result["others"]):
        assert f"<h3>{evaluation['test']}</h3>" in html
        assert f"fomaml: 5 held-out tasks, {evaluation['test']}, 100 queries; mean MSE" in text
        for row in evaluation["rows"]:
            cell = f"<td>{row['mean']:.3f} ± {row['ci95']:.3f}</td>"
            assert html.count(cell) >= 2  # above, and in the details
        for of_step in evaluation["scores"]:
            for value in of_step:
                assert f"<td>{value:.3f}</td>" in html
    # In the comparison and in the details of the main test, which it is of.
    name = "published: Finn et al. 2017"
    assert html.count(f"<td>{name}</td>") == html.count(f"<th>{name}</th>") == 1
    assert "episode length" not in text
    assert html.count("<svg") == 3
    assert {path.name for path in (tmp_path / "page_files").iterdir()} == {DRAWN} | {
        f"{name}.{kind}" for name in ("training", "adaptation", "fits") for kind in ("svg", "png")
    }


@pytest.mark.usefixtures("one_figure")
def test_the_page_of_several_runs_compares_them_in_every_test(folder, tmp_path):
    page = tmp_path / "page.html"
    names = ("maml-seed0", "fomaml", "oracle")
    assert report([*(str(folder / name) for name in names), "--output", str(page)]) == 0
    html, text = page.read_text(), text_of(page)
    results = [json.loads((folder / name / "evaluation.json").read_text()) for name in names]
    tests = [[result, *result["others"]] for result in results]
    for first, *others in zip(*tests, strict=True):
        assert html.count(f"<h3>{first['test']}</h3>") == 2 + 2 * len(names)
        for other in others:
            for k, scores in enumerate(first["scores"]):
                own = other["scores"][min(k, len(other["scores"]) - 1)]
                assert f"{np.subtract(own, scores).mean():.3f} ± " in text
    assert "All: 5 held-out tasks, 10-shot" in text
    assert not [path for path in (tmp_path / "page_files").iterdir() if path.is_dir()]


@pytest.mark.usefixtures("one_figure")
def test_the_page_of_a_classifier_is_of_its_accuracy(folder, tmp_path):
    page = tmp_path / "page.html"
    assert report([str(folder / "norm"), "--output", str(page)]) == 0
    html, text = page.read_text(), text_of(page)
    assert "<h2>Accuracy</h2>" in html
    for test in ("1-shot", "1-shot, transductive"):
        assert f"5 held-out tasks, 3-way {test}, 2 queries of every class; mean accuracy" in text
    assert "class_0" in text
    assert "accuracy of\nevery held-out task" in text


@pytest.mark.usefixtures("one_figure")
def test_runs_with_tests_of_their_own_are_compared_where_both_were_tested(folder, tmp_path):
    page = tmp_path / "page.html"
    runs = [str(folder / name) for name in ("norm", "glyphs")]
    assert report([*runs, "--output", str(page)]) == 0
    text = text_of(page)
    assert "All: 5 held-out tasks, 3-way 1-shot, 2" in text
    assert "norm: 5 held-out tasks, 3-way 1-shot, transductive, 2" in text


@pytest.mark.usefixtures("one_figure")
def test_a_long_evaluation_lists_its_first_tasks(folder, tmp_path):
    arguments = [*RUNS["oracle"], "--evaluation.tasks", "130", "--evaluation.tests", "[10-shot]"]
    place = ["--folder", str(tmp_path), "--name", "long"]
    assert train([*arguments, *place, "--evaluation.queries", "3"]) == 0
    assert report([str(tmp_path / "long")]) == 0
    html = (tmp_path / "long/report.html").read_text()
    assert "MSE of\nthe first 100 held-out tasks" in html
    assert "<td>100</td>" in html
    assert "<td>101</td>" not in html
