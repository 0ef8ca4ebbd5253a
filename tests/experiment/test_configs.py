"""Every YAML in configs/: it parses, nothing of it is lost, and it runs."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from metarl.commands.main import train
from metarl.experiment.configs import read_layers
from metarl.experiment.reading import merged
from metarl.experiment.schema import plain, schema_of, to_yaml
from metarl.experiment.settings import read_config, read_settings
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics

CONFIGS = Path(__file__).parents[2] / "configs"
ALL = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
OVER_SUPERVISED = ["algorithms/imaml", "algorithms/maml_plus_plus"]
"""Overlays that only supervised experiments can take."""

NAMES = [name for name in ALL if name not in OVER_SUPERVISED]
SUPERVISED = [name for name in NAMES if schema_of(read_layers(name)).task_source == "data"]
ALGORITHMS = [name for name in NAMES if name.startswith("algorithms/")]
OMNIGLOT = CONFIGS.parents[1] / "shared" / "data" / "omniglot"


def test_there_is_a_config_for_every_experiment():
    assert {"smoke", "point_navigation", "paper/point_navigation"} <= set(NAMES)
    for body in ("half_cheetah_velocity", "half_cheetah_direction", "ant_direction", "ant_goal"):
        assert {body, f"paper/{body}"} <= set(NAMES)


@pytest.mark.parametrize("name", ["sinusoid", "sinusoid_5shot"])
def test_the_papers_sinusoids_have_another_outer_step_only(name: str):
    ours, papers = (
        plain(read_settings(["--config", n, "--name", "run"])[0]) for n in (name, f"paper/{name}")
    )
    ours_outer, papers_outer = ours.pop("outer"), papers.pop("outer")
    assert (papers_outer["learning_rate"], papers_outer["average_decay"]) == (1e-3, 0)
    assert (ours_outer["learning_rate"], ours_outer["average_decay"]) == (5e-3, 0.999)
    assert ours == papers


def contains(whole: Any, part: Any) -> bool:
    """Whether ``whole`` has all of the mapping ``part``, and perhaps more."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_read_whole_and_written_whole(tmp_path: Path, name: str):
    run = RunFolder(tmp_path)
    written = to_yaml(read_settings(["--config", name, "--name", "run"])[0])
    assert contains(yaml.safe_load(written), read_layers(name)[-1])
    run.config_file.write_text(written)
    assert to_yaml(read_config(run)) == written


def test_the_bases_of_a_config_come_before_it(workplace: Path, refused):
    Path("one.yaml").write_text("tasks: 3\nseed: 1\nouter: {max_kl: 0.5}\n")
    Path("two.yaml").write_text("base: [smoke, one.yaml]\nseed: 2\n")
    config, _ = read_settings(["--config", "two.yaml", "--iterations", "7"])
    assert (config.tasks, config.seed, config.iterations) == (3, 2, 7)
    assert config.outer["max_kl"] == 0.5
    assert config.env["horizon"] == 20  # of smoke
    Path("one.yaml").write_text("base: two.yaml\n")
    assert "two.yaml has itself as a base" in refused(train, "--config", "two.yaml")
    Path("one.yaml").write_text("base: {two: three}\n")
    assert "one.yaml: base should be text or a list, each text, got" in refused(
        train, "--config", "one.yaml"
    )
    Path("one.yaml").write_text("base: nowhere\n")
    assert "there is no config nowhere" in refused(train, "--config", "one.yaml")


def without_trust_region(words: list[str], name: str) -> list[str]:
    """A command line without settings of an outer step that the config does not take."""
    outer = functools.reduce(merged, read_layers(name)).get("outer", {})
    if "name" not in outer:
        return words
    at = words.index("--outer.cg_iterations")
    return words[:at] + words[at + 2 :]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SUPERVISED])
def test_a_config_runs_one_toy_iteration(toy, runs: Path, name: str, capsys):
    words = without_trust_region(toy("run", "--iterations", "1"), name)
    assert train([*words, "--config", name]) == 0
    run = RunFolder.open(runs / "run")
    (row,) = read_metrics(run.metrics_file)
    assert row["iteration"] == 0
    assert row["env_steps"] <= 2 * 3 * 2 * 5  # two rounds, tasks, trajectories, horizon
    assert run.evaluation_file.is_file()
    assert len(run.checkpoints().all()) == 1
    out, err = capsys.readouterr()
    assert err == ""
    evaluation = yaml.safe_load(run.config_file.read_text())["evaluation"]
    published = evaluation["published"]
    for value in published["scores"][:2]:
        assert f" {value:.2f}\n" in out
    if evaluation["task_file"]:
        assert "minus the published return" in " ".join(out.split())


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_supervised_config_runs_one_toy_iteration(toy_supervised, runs: Path, name: str, capsys):
    """At toy size, but with its own network and tests."""
    config = functools.reduce(merged, read_layers(name))
    arguments = ["--config", name, *toy_supervised("run", "--iterations", "1")]
    source = ["--data.ways", "3"] if "ways" in config["data"] else []
    source += [
        "--model.filters",
        "4",
        "--data.source",
        config["data"]["source"],
        "--shots",
        str(config["shots"]),
    ]
    if config["data"]["source"] == "omniglot":
        if not OMNIGLOT.is_dir():
            pytest.skip("the Omniglot archives are not here")
        source += ["--data_folder", str(OMNIGLOT)]
    assert train([*arguments, *source]) == 0
    run = RunFolder.open(runs / "run")
    (row,) = read_metrics(run.metrics_file)
    assert np.isfinite(row["loss/after"])
    result = json.loads(run.evaluation_file.read_text())
    tests = config["evaluation"].get("tests", [f"{config['shots']}-shot"])
    assert [result["test"], *(other["test"] for other in result["others"])][0] == tests[0]
    assert len(result["others"]) >= len(tests) - 1
    assert len(run.checkpoints().all()) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["fomaml", "anil", "boil", "cavia", "meta_sgd"])
def test_an_algorithm_goes_on_top_of_a_supervised_experiment(toy_supervised, runs: Path, name: str):
    words = ["--config", "sinusoid", "--config", f"algorithms/{name}"]
    assert train([*words, *toy_supervised("run", "--iterations", "1")]) == 0
    config = read_config(RunFolder.open(runs / "run"))
    assert config.inner.algorithm == name.replace("_", "-")


@pytest.mark.parametrize("name", OVER_SUPERVISED)
def test_an_algorithm_of_supervised_models_goes_on_top_of_their_experiments(
    toy_supervised, runs: Path, name: str
):
    (overlay,) = read_layers(name)
    argv = ["--config", "sinusoid_5shot", "--config", name]
    before, after = (plain(read_settings([*w, "--name", "run"])[0]) for w in (argv[:2], argv))
    assert {key for key in before if before[key] != after[key]} == overlay.keys()
    assert contains(after, overlay)
    assert train([*argv, *toy_supervised("run", "--iterations", "1")]) == 0
    assert contains(plain(read_config(RunFolder.open(runs / "run")))["inner"], overlay["inner"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_changes_only_what_it_says_of_an_experiment(name: str):
    (overlay,) = read_layers(name)
    argv = ["--config", "half_cheetah_direction", "--name", "run"]
    before, after = (
        plain(read_settings(words)[0]) for words in (argv, [*argv[:2], "--config", name, *argv[2:]])
    )
    changed = {key for key in before if before[key] != after[key]}
    assert changed == overlay.keys()
    assert contains(after, overlay)


@pytest.mark.parametrize("baseline", ["pretrained", "random", "oracle"])
@pytest.mark.parametrize("experiment", ["point_navigation", "half_cheetah_velocity", "sinusoid"])
def test_a_baseline_changes_only_what_it_says_of_an_experiment(experiment: str, baseline: str):
    arguments = ["--config", experiment]
    alone, layered = (
        plain(read_settings(argv)[0])
        for argv in (arguments, [*arguments, "--config", f"baselines/{baseline}"])
    )
    assert layered.pop("name").startswith(f"{experiment}-{baseline}-seed0-")
    said = yaml.safe_load((CONFIGS / "baselines" / f"{baseline}.yaml").read_text())
    assert contains(layered, said)
    # Whether it pays to compile depends on the number of iterations.
    changed = {key for key in layered if layered[key] != alone[key]} - {"compile"}
    assert changed == set(said)


def test_a_name_that_looks_like_a_date_is_a_name(tmp_path: Path):
    (tmp_path / "dated.yaml").write_text("env: {family: point-navigation}\nname: 2024-01-01\n")
    config, _ = read_settings(["--config", str(tmp_path / "dated.yaml")])
    assert config.name == "2024-01-01"


@pytest.mark.parametrize(
    ("options", "length"),
    [
        (["--config", "half_cheetah_velocity"], 2e-2),
        (["--config", "half_cheetah_velocity", "--policy.activation", "tanh"], 1e-3),
        (["--config", "half_cheetah_velocity", "--outer.hvp_epsilon", "0.005"], 5e-3),
        (["--config", "paper/half_cheetah_velocity"], 1.0),
        (["--config", "point_navigation"], 1e-3),
    ],
)
def test_the_finite_difference_suits_the_network(options: list[str], length: float):
    config, _ = read_settings(options)
    assert config.outer["hvp_epsilon"] == length
