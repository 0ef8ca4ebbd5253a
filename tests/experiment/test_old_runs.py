"""Runs of earlier versions load, evaluate to the same digits, resume bit for bit.

``old_runs/`` holds small runs as earlier versions wrote them, each with ``continued.pt``: the
checkpoint that the same version wrote when it resumed the run. ``settings.json`` has every setting
of version 0.1.0.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from metarl.commands.main import evaluate, report, train
from metarl.experiment.registries import SOURCES
from metarl.experiment.resolution import resolve
from metarl.experiment.schema import SCHEMAS, plain
from metarl.experiment.settings import read_config
from metarl.runtime.checkpoint import from_bytes
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.history import CHANGES, Added, Removed, Renamed, upgraded
from metarl.supervised.labelled import LabelledSet
from metarl_envs import FAMILIES

OLD = Path(__file__).parents[1] / "old_runs"
NAMES = sorted(path.name for path in OLD.iterdir() if path.is_dir())
EXPECTED_SUM = 5561.983919799328
"""Of ``same_arithmetic``, where the old runs were written."""

OTHER_ROUNDING = {"first-maml"}
"""Old runs whose version added up in another order, so that they go on with other last bits."""

SETTINGS = json.loads((OLD / "settings.json").read_text())


@pytest.fixture(params=NAMES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of every old run in turn."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


def same_arithmetic() -> bool:
    """Whether this machine rounds as the one that wrote the old runs."""
    x = torch.linspace(-3, 3, 64 * 64).reshape(64, 64)
    y = torch.tanh(x @ x.T / 64).exp()
    return float(y.double().sum()) == EXPECTED_SUM


def scores_in(path: Path) -> np.ndarray:
    """Scores of an evaluation of any version."""
    result = json.loads(path.read_text())
    return np.array(result.get("scores") or result["returns"], dtype=float)


@pytest.mark.skipif(not same_arithmetic(), reason="this machine rounds in another way")
def test_digits_and_bits_are_compared_exactly_here():
    """Elsewhere the tests below allow for rounding, which this skip shows."""


def test_there_are_runs_of_every_kind():
    assert {"maml", "meta-sgd", "pretrained", "sinusoid-averaged", "first-maml"} <= set(NAMES)


def test_an_old_run_evaluates_to_the_same_digits(old: Path, tmp_path: Path):
    expected = scores_in(old / "evaluation.json")
    output = tmp_path / "again.json"
    assert evaluate([str(old), "--output", str(output)]) == 0
    found = scores_in(output)
    if same_arithmetic():
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_an_old_run_goes_on_as_its_own_version_would(old: Path):
    expected = from_bytes((old / "continued.pt").read_bytes())["learner"]
    iterations = yaml.safe_load((old / "config.yaml").read_text())["iterations"]
    assert train(["--resume", str(old), "--iterations", str(2 * iterations)]) == 0
    checkpoint, state = RunFolder.open(old).checkpoints().load()
    assert checkpoint.iteration == 2 * iterations
    found = state["learner"]
    assert found["meta"].keys() == expected["meta"].keys()
    exact = same_arithmetic() and old.name not in OTHER_ROUNDING
    for name, value in expected["meta"].items():
        if exact:
            assert torch.equal(found["meta"][name], value), name
        # Conjugate gradient on finite differences magnifies last bits.
        torch.testing.assert_close(found["meta"][name], value, rtol=1e-2, atol=2e-3)
    counters = [key for key in expected if key not in ("meta", "adam")]
    assert [found[key] for key in counters] == [expected[key] for key in counters]
    # From now on it is a run of today.
    assert upgraded(yaml.safe_load((old / "config.yaml").read_text())) == plain(
        read_config(RunFolder.open(old))
    )


@pytest.mark.usefixtures("one_figure")
def test_old_and_new_runs_stand_side_by_side(tmp_path: Path, capsys):
    runs = [shutil.copytree(OLD / name, tmp_path / name) for name in ("meta-sgd", "pretrained")]
    page = tmp_path / "page.html"
    assert report([*map(str, runs), "--output", str(page), "--videos", "0"]) == 0
    assert page.is_file()
    new = tmp_path / "new"
    settings = (OLD / "meta-sgd" / "config.yaml").read_text()
    (tmp_path / "new.yaml").write_text(settings.replace("name: meta-sgd", "name: new"))
    assert train(["--config", str(tmp_path / "new.yaml"), "--folder", str(tmp_path)]) == 0
    capsys.readouterr()
    assert evaluate([str(runs[0]), str(new), "--output", str(tmp_path / "both.json")]) == 0
    differences = json.loads((tmp_path / "both.json").read_text())["differences"]
    assert differences["new - meta-sgd"][1]["tasks"] == 4


def test_a_run_of_an_old_paper_config_keeps_its_own_task(tmp_path: Path):
    """Before the rllab profile, a body was rewarded for the velocity of its torso."""
    run = RunFolder(tmp_path)
    shutil.copy(OLD / "maml" / "config.yaml", run.config_file)
    config: Any = read_config(run)
    assert config.env["velocity_of"] == "torso"
    assert config.env["observation"] == "gymnasium"
    assert config.outer["inner_hessian"] == "finite-difference"  # as the run's config says


def test_a_removed_setting_is_refused_only_where_it_was_used(tmp_path: Path):
    settings = yaml.safe_load((OLD / "first-sinusoid" / "config.yaml").read_text())
    assert settings["outer"]["half_life"] is None
    assert "half_life" not in upgraded(settings)["outer"]
    settings["outer"]["half_life"] = 1000
    with pytest.raises(UserError, match=r"outer\.half_life 1000, which metarl no longer has"):
        upgraded(settings)


def test_settings_of_today_pass_through_unchanged():
    for schema in SCHEMAS.values():
        settings = plain(resolve(schema()))
        assert upgraded(settings) == settings
    assert upgraded({"outer": "nonsense", "env": 3}).items() >= {"env": 3}.items()


def test_a_run_of_a_later_version_is_named_where_it_is_not_understood(tmp_path: Path, capsys):
    run = RunFolder(shutil.copytree(OLD / "maml", tmp_path / "later"))
    run.config_file.write_text("teleport: true\n" + run.config_file.read_text())
    (run.path / "run.json").write_text('{"packages": {"metarl": "99.1.0"}}')
    assert evaluate([str(run.path)]) == 2
    error = capsys.readouterr().err
    assert "written by metarl 99.1.0, newer than this" in error
    assert len(error.splitlines()) == 1


def paths(settings: Any, where: str = "") -> set[str]:
    """Every setting by its path."""
    if not isinstance(settings, dict) or where in ("env", "data"):
        return {where}
    return {
        path
        for key, value in settings.items()
        for path in paths(value, f"{where}.{key}".strip("."))
    }


def known(kind: str, family: str = "") -> set[str]:
    """Paths that the table of changes explains, for policies or supervised models."""
    return {
        change.new if isinstance(change, Renamed) else change.path
        for change in CHANGES
        if not isinstance(change, Removed)
        and (not isinstance(change, Added) or change.kind in ("", kind))
        and (not isinstance(change, Added) or not family or family in change.where[1])
    }


def gone() -> set[str]:
    """Paths that no longer are, and why the table says so."""
    removed = {change.path for change in CHANGES if isinstance(change, Removed)}
    return removed | {change.old for change in CHANGES if isinstance(change, Renamed)}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_new_setting_says_what_the_code_did_before(kind: str):
    """Add a row to metarl.runtime.history.CHANGES for what this test names."""
    first, today = paths(SETTINGS["settings"][kind]), paths(plain(resolve(SCHEMAS[kind]())))
    assert today - first <= known("env" if kind.startswith("reinforcement") else "data")
    assert first - today <= gone()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_new_constant_of_a_family_says_what_the_code_did_before(name: str):
    first = SETTINGS["families"].get(name)
    if first is None:
        pytest.skip("the family is younger than settings.json")
    today = {f.name for f in dataclasses.fields(FAMILIES[name])}
    assert {f"env.{key}" for key in today - first.keys()} <= known("env", name)
    assert {f"env.{key}" for key in first.keys() - today} <= gone()


@pytest.mark.parametrize("name", SOURCES)
def test_every_new_setting_of_a_source_says_what_the_code_did_before(name: str):
    first = SETTINGS["sources"].get(name)
    if first is None:
        pytest.skip("the source is younger than settings.json")
    if issubclass(SOURCES[name], LabelledSet):
        first = first | SETTINGS["sources"]["few-shot"]
    today = {f.name for f in dataclasses.fields(SOURCES[name])}
    assert {f"data.{key}" for key in today - first.keys()} <= known("data")
    assert {f"data.{key}" for key in first.keys() - today} <= gone()
