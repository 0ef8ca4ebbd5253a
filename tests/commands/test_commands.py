"""Commands: what they refuse, and how they read settings."""

import json
import os
import re
import runpy
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

import metarl
from metarl.__main__ import main as command_line
from metarl.commands.completion import completion
from metarl.commands.list import list_
from metarl.commands.main import evaluate, report, train
from metarl.experiment.settings import read_settings
from metarl.runtime.sinks import read_metrics
from metarl_envs import FAMILIES
from metarl_envs.point import PointNavigation

# --- bad settings

BAD_SETTINGS = [
    # unknown keys and names
    ("--taks 3", "taks is not a setting (did you mean tasks?)"),
    ("--outer.max_kll 1", "did you mean outer.max_kl?"),
    ("--env.horizont 5", "env.horizont is not a setting (did you mean env.horizon?)"),
    ("--env.family point-navigatoin", "did you mean point-navigation?"),
    ("--env.family nothing-like-it", "is unknown; there are point-navigation, half-cheetah-"),
    (
        "--inner.algorithm mamll",
        "should be one of maml, fomaml, anil, boil, cavia, meta-sgd, got mamll",
    ),
    ("--inner.algorithm reptile", "inner.algorithm should be one of"),
    ("--device tpu", "device should be one of cpu, cuda, got tpu"),
    ("--config poitn_navigation", "did you mean point_navigation?"),
    ("positional", "train takes options only, got positional"),
    ("--conf smoke", "conf is not a setting; there are advantage, "),
    # wrong types
    ("--tasks many", "tasks should be an integer >= 1, got many"),
    ("--tasks 1.5", "tasks should be an integer >= 1, got 1.5"),
    ("--inner.rate fast", "inner.rate should be a number > 0, got fast"),
    ("--inner.rates 0.1", "inner.rates should be a list, each a number > 0 or null"),
    ("--outer.hvp_symmetric 3", "outer.hvp_symmetric should be true or false, got 3"),
    (
        "--policy.hidden_sizes 100",
        "policy.hidden_sizes should be a list of at least 1, each an integer > 0",
    ),
    ("--policy 100", "policy should be a mapping, got 100"),
    ("--env 3", "env should be a mapping, got 3"),
    ("--tasks. 3", 'tasks should be an integer >= 1, got {"": "3"}'),
    (f"--tasks {'[' * 30}{']' * 30}", "tasks should be an integer >= 1, got [[["),
    ("--env.horizon x", "env.horizon should be an integer, got x"),
    ("--env.goal_range 1", "env.goal_range should be [a number, a number], got 1"),
    ("--env.goal_range [1]", "env.goal_range should be [a number, a number], got [1]"),
    ("--env.goal_range [a,b]", "env.goal_range should be [a number, a number], got [a,b]"),
    ("--logging.wandb off", "should be one of auto, online, offline, disabled, got off"),
    ("--tasks", "--tasks needs a value"),
    ("--config", "--config needs a value"),
    # values out of range
    ("--tasks 0", "tasks should be an integer >= 1, got 0"),
    ("--trajectories 0", "trajectories should be an integer >= 1, got 0"),
    ("--iterations -1", "iterations should be an integer >= 0, got -1"),
    ("--seed -1", "seed should be an integer >= 0, got -1"),
    ("--threads -1", "threads should be an integer >= 0, got -1"),
    ("--chunk_size 0", "chunk_size should be an integer > 0 or null, got 0"),
    ("--inner.rate -0.1", "inner.rate should be a number > 0, got -0.1"),
    ("--inner.rate inf", "inner.rate should be a number > 0, got inf"),
    ("--inner.rate nan", "inner.rate should be a number > 0, got nan"),
    ("--inner.rates [-0.1]", "each a number > 0 or null, got [-0.1]"),
    ("--outer.max_kl 0", "outer.max_kl should be a number > 0, got 0"),
    ("--outer.max_kl -1", "outer.max_kl should be a number > 0, got -1"),
    ("--outer.backtrack_ratio 1", "outer.backtrack_ratio should be a number > 0 and < 1, got 1"),
    ("--advantage.discount 2", "advantage.discount should be a number >= 0 and <= 1, got 2"),
    ("--policy.hidden_sizes []", "policy.hidden_sizes should be a list of at least 1, each an"),
    ("--policy.hidden_sizes [8,0]", "each an integer > 0, got [8,0]"),
    ("--policy.init_std 0", "policy.init_std should be a number > 0, got 0"),
    ("--checkpoint.keep 0", "checkpoint.keep should be an integer >= 1, got 0"),
    ("--evaluation.tasks 0", "evaluation.tasks should be an integer > 0, got 0"),
    ("--env.horizon 0", "env.horizon must be an integer of at least 1, got 0"),
    ("--env.action_scale 0", "env.action_scale must be positive"),
    ("--name a/b", "name should be one folder's name, got a/b"),
    ("--name ..", "name should be one folder's name, got .."),
    # values that contradict each other
    ("--env.goal_range [1,0]", "env.goal_range must be [low, high] with low < high"),
    (
        "--evaluation.task_file=",
        "evaluation.task_file should name a file, or be null",
    ),
    ("--inner.rates [0.1,0.2]", "inner.rates has 2 entries for 1 inner steps"),
    ("--evaluation.inner_rates [0.1]", "evaluation.inner_rates has 1 entries for 2 inner steps"),
    # places that cannot be written; root may write anywhere else
    ("--folder /dev/null/runs", "cannot write the run folder /dev/null/runs/smoke-seed0-"),
    ("--folder /proc/runs", "cannot write the run folder /proc/runs/smoke-seed0-"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_SETTINGS, ids=[b[0] for b in BAD_SETTINGS])
def test_a_bad_setting_is_refused(refused, arguments: str, said: str):
    assert said in refused(train, "--config", "smoke", *arguments.split())


def test_a_number_with_too_many_digits_is_refused(refused):
    said = refused(train, "--seed", f"0x{'f' * 5000}")
    assert "seed should be an integer >= 0, got 0xfff" in said
    assert len(said) < 1200


BAD_FILES = {
    "taks: 3": "taks is not a setting (did you mean tasks?)",
    "outer: {max_kll: 3}": "outer.max_kll is not a setting (did you mean outer.max_kl?)",
    "env: {family: point-navigation, horizont: 3}": "(did you mean env.horizon?)",
    "env: {family: [point-navigation]}": "env.family ['point-navigation'] is unknown",
    "env: {family: point-navigation, 3: 4}": "env.3 is not a setting",
    "env: {family: half-cheetah-velocity, velocity_range: [2, 0]}": "velocity_range must be",
    "env: point-navigation": 'env should be a mapping, got "point-navigation"',
    "env: null": "env should be a mapping, got null",
    "outer: 3": "outer should be a mapping, got 3",
    "outer: null": "outer should be a mapping, got null",
    "evaluation: {published: []}": "evaluation.published should be a mapping, got []",
    "tasks: null": "tasks should be an integer >= 1, got null",
    "env: {family: point-navigation, horizon: null}": "env.horizon should be an integer, got null",
    "name: [a]": 'name should be a path or null, got ["a"]',
    "resume: runs/a": "resume is not a setting for a file",
    "- tasks": "bad.yaml should hold settings",
    "tasks": "bad.yaml should hold settings",
    "": "bad.yaml should hold settings",
    "env: {family: [": "cannot read bad.yaml: while parsing a flow node",
    "name: !!python/object/apply:os.mkdir [made]": "cannot read bad.yaml: tags are not allowed",
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.items(), ids=list(BAD_FILES))
def test_a_bad_config_file_is_refused(workplace: Path, refused, text: str, said: str):
    (workplace / "bad.yaml").write_text(text)
    assert said in refused(train, "--config", "smoke", "--config", "bad.yaml")


@pytest.mark.parametrize("data", [bytes(range(256)), "ä".encode("latin-1"), b"\0\0"])
def test_a_config_file_that_is_no_text_is_refused(workplace: Path, refused, data: bytes):
    (workplace / "bad.yaml").write_bytes(data)
    assert "cannot read bad.yaml" in refused(train, "--config", "bad.yaml")


def test_a_config_that_is_missing_or_a_folder_is_refused(workplace: Path, refused):
    (workplace / "folder").mkdir()
    for name in ("missing.yaml", "folder"):
        said = refused(train, "--config", name)
        assert f"there is no config {name}; there are algorithms/adam, " in said
        assert "paper/point_navigation" in said


# --- run folders


def test_what_is_no_run_is_not_resumed(workplace: Path, refused):
    (workplace / "empty").mkdir()
    (workplace / "file").touch()
    for command, option in ((train, ["--resume"]), (evaluate, [])):
        assert "there is no run folder missing" in refused(command, *option, "missing")
        assert "there is no run folder file" in refused(command, *option, "file")
        assert "empty holds no run: config.yaml is missing" in refused(command, *option, "empty")


@pytest.fixture(scope="module")
def two_iterations(tmp_path_factory: pytest.TempPathFactory, toy_settings: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert train([*toy_settings, "--folder", str(folder), "--name", "run"]) == 0
    return folder / "run"


@pytest.fixture
def finished(workplace: Path, two_iterations: Path) -> Path:
    """A finished run of two iterations, ``./run``."""
    return shutil.copytree(two_iterations, workplace / "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config half_cheetah_velocity", "env.family is point-navigation, not half-cheetah-"),
        ("--env.family ant-goal --env.horizon 5", "env.family is point-navigation, not ant-goal"),
        ("--seed 1", "a resumed run keeps its settings: seed is 0, not 1"),
        ("--env.horizon 6", "env.horizon is 5, not 6"),
        ("--outer.max_kl 0.5", "outer.max_kl is 0.01, not 0.5"),
        ("--name other", "name is run, not other"),
        ("--iterations 1", "the run has done 2 iterations, more than 1"),
        ("--tasks 0", "tasks should be an integer >= 1, got 0"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(finished: Path, refused, arguments: str, said: str):
    assert said in refused(train, "--resume", "run", *arguments.split())


def test_a_run_is_not_overwritten(finished: Path, refused, toy):
    said = refused(train, *toy("run"), "--folder", ".")
    assert "run already holds a run; choose another --name, or go on with --resume run" in said


def test_a_run_whose_settings_are_damaged_is_refused(finished: Path, refused):
    for data, said in ((b"\xff", "cannot read run/config.yaml"), (b"taks: 1", "mean tasks?")):
        (finished / "config.yaml").write_bytes(data)
        assert said in refused(train, "--resume", "run")
        assert said in refused(evaluate, "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "RUN (run folders): needs 1 or more, got 0"),
        ("run run/../run", "run is named twice, or another run has its name"),
        ("run missing", "there is no run folder missing"),
        ("run --env.family ant-goal", "env.family cannot differ from the trained one"),
        ("run --env.goal_range [2,1]", "goal_range must be [low, high] with low < high"),
        ("run --candidate_rates []", "candidate_rates should have at least one entry"),
        (
            "run --candidate_rates [1] --inner_rates [1]",
            "so evaluation.candidate_rates must be null",
        ),
        ("run --candidate_rates [0]", "should be a list, each a number > 0 or null, got [0]"),
        ("run --taks 2", "did you mean tasks?"),
        ("run --tasks 0", "tasks should be an integer > 0 or null, got 0"),
        ("run --inner_rates [-1]", "should be a list, each a number > 0 or null, got [-1]"),
        ("run --inner_rates [.inf]", "should be a list, each a number > 0 or null, got [.inf]"),
        ("run --inner_steps 2 --inner_rates [0.1]", "has 1 entries for 2 inner steps"),
        ("run --checkpoint 7", "has no checkpoint 7; there are: 2, 1"),
        ("run --device tpu", "device should be one of cpu, cuda or null, got tpu"),
        ("run --checkpoint worst", "has no checkpoint worst; there are: 2, 1"),
        ("run --output /dev/null/x.json", "cannot write /dev/null/x.json"),
        ("run --output run", "cannot write run"),
    ],
)
def test_evaluate_refuses_bad_options(finished: Path, refused, arguments: str, said: str):
    assert said in refused(evaluate, *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "RUN (run folders): needs 1 or more, got 0"),
        ("missing", "there is no run folder missing"),
        ("run run", "run is named twice"),
        ("run --videos 9", "videos should be an integer >= 0 and <= 3, got 9"),
        ("run --output report.pdf", "the output should be a file named .html, got report.pdf"),
        ("run --output /dev/null/x.html", "cannot write /dev/null/x.html"),
    ],
)
def test_report_refuses_bad_options(finished: Path, refused, arguments: str, said: str):
    assert said in refused(report, *arguments.split())


def test_runs_without_checkpoint_or_of_another_version_or_kind_are_refused(finished: Path, refused):
    shutil.rmtree(finished / "checkpoints")
    for command in (report, evaluate):
        assert "run/checkpoints has no checkpoint last; there are: none" in refused(command, "run")
    settings = (finished / "config.yaml").read_text()
    for other in (settings + "unheard_of: 1\n", "ways: 20\n"):
        (finished / "config.yaml").write_text(other)
        for command in (report, evaluate):
            assert re.search(r"run/config.yaml: .*(unheard_of|ways)", refused(command, "run"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--env.family", "ant-goal"), "cannot be compared: env.family is ant-goal, not point-"),
        (("--env.action_scale", "0.5"), "cannot be compared: env.action_scale is 0.5, not 0.1"),
    ],
)
def test_runs_that_differ_in_the_task_family_are_not_compared(
    finished: Path, refused, toy, settings: tuple[str, ...], said: str
):
    assert train([*toy("other"), "--folder", ".", *settings]) == 0
    assert said in refused(evaluate, "run", "other")
    assert said in refused(report, "run", "other", "--output", "both.html")


@pytest.mark.usefixtures("one_figure")
def test_runs_of_different_tasks_have_a_page_for_each_task(finished: Path, toy, capsys):
    for name, settings in {
        "other": ("--env.action_scale", "0.5"),
        "again": ("--seed", "7"),
    }.items():
        assert train([*toy(name), "--folder", ".", *settings]) == 0
    capsys.readouterr()
    assert report(["run", "other", "again", "--videos", "0"]) == 0
    pages = re.findall("report: (.*)", capsys.readouterr().out)
    assert pages == ["run/comparison.html", "other/report.html"]
    assert all(Path(page).is_file() for page in pages)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_made_on_a_gpu_is_evaluated_and_resumed_without_one(finished: Path, refused, toy):
    said = refused(train, *toy("other"), "--device", "cuda")
    assert "device: there is no CUDA GPU here" in said
    settings = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(settings.replace("device: cpu", "device: cuda"))
    assert "use cpu" in refused(evaluate, "run")
    assert evaluate(["run", "--device", "cpu"]) == 0
    assert "use cpu" in refused(train, "--resume", "run", "--iterations", "3")
    assert train(["--resume", "run", "--iterations", "3", "--device", "cpu"]) == 0


def test_ctrl_c_outside_of_training_ends_the_command_in_one_line(toy, runs, monkeypatch, capsys):
    class Interrupted(PointNavigation):
        def sample_tasks(self, rng, n):
            if n == 7:  # of the evaluation
                os.kill(os.getpid(), signal.SIGINT)
            return super().sample_tasks(rng, n)

    monkeypatch.setitem(FAMILIES, "interrupted", Interrupted)
    assert train(toy("run", "--env.family", "interrupted")) == 0
    # A shell starts its background jobs with SIGINT ignored, and this may be one.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert evaluate([str(runs / "run"), "--tasks", "7"]) == 130
    finally:
        signal.signal(signal.SIGINT, previous)
    assert capsys.readouterr().err == "metarl evaluate: interrupted\n"


# --- reading settings


def read(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_overrides_keep_the_other_settings_of_the_file(toy, runs: Path, monkeypatch):
    monkeypatch.chdir(runs.parent)
    Path("mine.yaml").write_text("outer: {max_kl: 1e-3, cg_iterations: 7}\n")
    arguments = toy("run", "--outer.backtracks", "3", "--env.action_scale", "0.5")
    # The command line wins whatever the order, and a later file wins over an earlier one.
    assert train([*arguments, "--config", "mine.yaml", "--iterations", "1"]) == 0
    config = read(runs / "run")
    assert config["outer"]["max_kl"] == 1e-3
    assert config["outer"]["cg_iterations"] == 2
    assert config["outer"]["backtracks"] == 3
    assert config["outer"]["hvp_check_every"] == 1  # of smoke.yaml
    assert config["env"]["family"] == "point-navigation"
    assert config["env"]["horizon"] == 5
    assert config["env"]["action_scale"] == 0.5
    assert config["env"]["goal_range"] == [-0.5, 0.5]  # the family's own
    assert config["policy"]["activation"] == "tanh"  # the schema's own


def test_a_run_folder_says_how_the_run_was_made(toy, runs: Path):
    assert train(toy("run")) == 0
    info = json.loads((runs / "run" / "run.json").read_text())
    assert info["packages"]["torch"]
    assert set(info) >= {"created", "command", "python", "git_commit", "tracking_id"}
    assert len(read_metrics(runs / "run" / "metrics.jsonl")) == 2
    assert not list(runs.rglob("*.tmp"))


def test_a_config_is_found_by_name_and_by_path_from_any_directory(workplace: Path, capsys):
    by_name, by_path = [], []
    for name in ("smoke", "paper/ant_direction"):
        path = Path(metarl.__file__).parents[1] / "configs" / f"{name}.yaml"
        for spelling, printed in ((name, by_name), (str(path), by_path)):
            with pytest.raises(SystemExit):
                train(["--config", spelling, "--print_config"])
            printed.append(capsys.readouterr().out)
    assert by_name == by_path
    assert by_name[0] != by_name[1]


def test_a_printed_config_is_a_config(workplace: Path, capsys):
    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            train([*arguments, "--print_config"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    text = printed("--config", "smoke", "--outer.max_kl", "0.5")
    assert yaml.safe_load(text)["outer"]["max_kl"] == 0.5
    (workplace / "mine.yaml").write_text(text)
    assert printed("--config", "mine.yaml") == text


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (train, ["--resume", "--outer.max_kl", "radius delta of the trust region"]),
        (evaluate, ["--checkpoint", "last, best, or a number"]),
    ],
)
def test_help_lists_the_options(command, options: list[str], capsys):
    assert command(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in options:
        assert option in text


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--lr", "inner.rate"),
        ("--inner.lr", "inner.rate"),
        ("--random_seed", "seed or evaluation.seed"),
        ("--max-kl", "outer.max_kl"),
        ("--gamma", "advantage.discount"),
        ("--meta_batch_size", "tasks or evaluation.tasks"),
        ("--env.max_path_length", "env.horizon"),
        ("--hidden_sizes", "policy.hidden_sizes"),
    ],
)
def test_other_names_of_a_setting_are_understood(workplace, refused, option: str, meant: str):
    assert f"(did you mean {meant}?)" in refused(train, "--config", "smoke", option, "3")


def test_help_fits_three_screens_and_has_the_constants_of_what_is_named(capsys):
    assert train(["--config", "half_cheetah_velocity", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 120
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("  --env.velocity_range [0.0, 2.0] ") for line in lines)
    assert train(["--outer.name", "adam", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--outer.learning_rate" in text
    assert "--outer.max_kl" not in text


def test_help_about_an_unknown_setting_is_refused(refused, workplace):
    assert "no setting outer.hvpp (did you mean outer.hvp?)" in refused(
        train, "--help", "outer.hvpp"
    )
    assert "env.family 'nope' is unknown" in refused(train, "--env.family", "nope", "--help")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: 4\n", "mine.yaml: task is not a setting (did you mean tasks"),
        ("outter: {a: 4}\n", "mine.yaml: outter is not a setting (did you mean outer?)"),
        ('inner: {rate: "0.1"}\n', 'mine.yaml: inner.rate should be a number > 0, got "0.1"'),
        ("tasks: 1\ntasks: 4\n", "cannot read mine.yaml: tasks is given twice"),
        ("inner: {rate: [\n", "while parsing a flow node expected the node content"),
    ],
)
def test_the_file_of_a_bad_setting_is_named(workplace: Path, refused, text: str, said: str):
    (workplace / "mine.yaml").write_text(text)
    assert said in refused(train, "--config", "smoke", "--config", "mine.yaml")


def test_a_base_may_be_beside_its_config(workplace: Path):
    (workplace / "configs").mkdir()
    (workplace / "configs" / "one.yaml").write_text("tasks: 7\n")
    (workplace / "configs" / "two.yaml").write_text("base: one.yaml\n")
    config, _ = read_settings(["--config", "configs/two.yaml"])
    assert config.tasks == 7


def test_help_says_all_about_a_setting(capsys):
    assert train(["--help", "outer.backtrack"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("  --outer.backtracks 15", "      an integer >= 1"),
        "      largest number of step sizes that the line search tries.",
        *("  --outer.backtrack_ratio 0.8", "      a number > 0 and < 1"),
        "      factor between successive step sizes.",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_tab_completion_knows_all_settings(shell: str, capsys):
    assert completion([shell]) == 0
    script = capsys.readouterr().out
    for word in ("outer.max_kl", "data.amplitude_range", "candidate_rates", "paper/ant_velocity"):
        assert word in script


def test_completion_of_an_unknown_shell_is_refused(refused):
    assert "there is no shell fish; there are bash, zsh, tcsh" in refused(completion, "fish")


# --- as real commands


def test_metarl_dispatches_to_its_commands(monkeypatch, refused, capsys):
    def main(arguments: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["metarl", *arguments])
        return command_line()

    for arguments, said in (
        (["--version"], "metarl 0"),
        (["--help"], "metarl evaluate"),
        ([], "metarl evaluate"),
        (["train", "--help"], "--outer.max_kl"),
        (["evaluate", "--help"], "--inner_rates"),
        (["report", "--help"], "--videos"),
    ):
        assert main(arguments) == 0
        assert said in capsys.readouterr().out
    assert "train" in refused(main, "trian")
    assert "there is no run folder missing" in refused(main, "evaluate", "missing")


@pytest.mark.parametrize("name", ["train", "evaluate", "visualize"])
def test_the_scripts_refuse_bad_input(monkeypatch, script, refused, name: str):
    def main(arguments: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", [script(name), *arguments])
        runpy.run_path(script(name), run_name="__main__")
        raise AssertionError("a script ends with its command's code")

    options = {"train": "--config", "evaluate": "--checkpoint", "visualize": "--videos"}
    command = {"visualize": "report"}.get(name, name)
    assert refused(main, options[name], "missing").startswith(f"metarl {command}: error: ")


def test_a_script_is_started_anywhere(tmp_path: Path, start, script):
    process = start(script("visualize"), "missing")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"metarl report: error: there is no run folder missing.*\n", err)
    assert list(tmp_path.iterdir()) == []


def test_list_shows_families_algorithms_configs_and_runs(toy, runs: Path, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    train(toy("run"))
    capsys.readouterr()
    assert list_([]) == 0
    text = capsys.readouterr().out
    for word in (*FAMILIES, "meta-sgd", "Raghu et al. 2020", "trpo", "lvc", "omniglot"):
        assert word in text
    assert "paper/half_cheetah_velocity" in text
    assert "runs/run" in text
    assert list_(["configs"]) == 0
    assert "half-cheetah-velocity" not in capsys.readouterr().out
    assert list_(["famlies"]) == 2
    assert "(did you mean families?); there are families, alg" in capsys.readouterr().err
