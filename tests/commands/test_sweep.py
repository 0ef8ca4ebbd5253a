"""``metarl sweep``: every combination of some settings."""

import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from metarl.commands.completion import completion
from metarl.commands.sweep import sweep
from metarl.commands.train import train
from metarl.experiment.reading import read_words
from metarl.experiment.settings import asked, parse, read_settings
from metarl.experiment.sweeps import LARGEST, LONGEST_NAME, planned
from metarl.report.view import without_seed
from metarl.runtime.folder import RunFolder

SWEPT = ["--config", "cartpole", "--grid", "inner.rate=[0.1,0.5]", "--grid", "seed=[0,1,2]"]


def config_of(words):
    return parse(asked(read_words(words)[1])[0])


def test_a_sweep_prints_a_command_for_every_combination(workplace: Path, capsys):
    assert sweep([*SWEPT, "--tasks", "4", "--print", "--grid", "outer.max_kl=[0.01, 2e-2]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0] == (
        "metarl train --config cartpole --tasks 4 --inner.rate 0.1 --seed 0 --outer.max_kl 0.01 "
        "--name cartpole-rate=0.1-max_kl=0.01-seed0 --resume auto"
    )
    found = set()
    for line in lines:
        metarl, command, *words = shlex.split(line)
        assert (metarl, command) == ("metarl", "train")
        config, resumed = read_settings(words)
        assert resumed is None
        assert config.tasks == 4
        found.add((config.name, config.inner.rate, config.outer["max_kl"], config.seed))
    assert len({name for name, *_ in found}) == 12
    expected = {(rate, kl, seed) for rate in (0.1, 0.5) for kl in (0.01, 0.02) for seed in range(3)}
    assert {values[1:] for values in found} == expected
    assert len({without_seed(name) for name, *_ in found}) == 4
    assert not list(workplace.iterdir())


@pytest.mark.parametrize(
    "values",
    [
        "policy.hidden_sizes=[[8],[8,8],[88]]",
        "policy.hidden_sizes=[[1,2],[12]]",
        "name_of_nothing.yaml",
        "inner.rates=[[0.1],null]",
        "policy=[{name: gaussian-mlp, activation: relu},{name: gaussian-mlp, activation: tanh}]",
        "evaluation.published.source=['','--x','it is $5; `rm`','null','1',\"it's\",ä,ö,'A','a']",
        f"evaluation.published.source=[{'x' * 300}, {'x' * 299}y]",
        "config=[smoke, point_navigation]",
    ],
)
def test_names_are_safe_and_commands_say_the_values_again(workplace: Path, values: str):
    if values.endswith(".yaml"):
        (workplace / "a b.yaml").write_text("tasks: 3\n")
        (workplace / "ab").mkdir()
        (workplace / "ab" / "a b.yaml").write_text("tasks: 4\n")
        values = "config=['a b.yaml','ab/a b.yaml']"
    runs = planned(["--config", "point_navigation", "--grid", values, "--seed", "3"])
    names = [run.name.casefold() for run in runs]
    assert len(set(names)) == len(names) > 1
    key, _, texts = values.partition("=")
    ((_, word),) = read_words([f"--{key}={texts}"])[1]
    for run, value in zip(runs, word.value, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9.+_=-]+", run.name)
        assert run.name.endswith("-seed3")
        assert len(run.name) <= LONGEST_NAME
        words = shlex.split(run.command)[2:]
        said = [text for option, text in read_words(words)[1] if option == key]
        assert said[-1].value == value or (isinstance(value, str) and said[-1] == value)
        assert config_of(words).name == run.name


def test_the_last_part_of_a_key_is_its_name_where_it_is_the_only_one(workplace: Path):
    grids = ("tasks=[2]", "evaluation.tasks=[3]", "outer.max_kl=[0.1]")
    words = [word for grid in grids for word in ("--grid", grid)]
    (run,) = planned(["--config", "smoke", *words, "--name", "mine"])
    assert run.name == "mine-tasks=2-evaluation.tasks=3-max_kl=0.1-seed0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "needs at least one grid, such as --grid inner.rate=[0.1,0.5]"),
        ("--grid seed", "--grid seed: should be KEY=[VALUE,...]"),
        ("--grid =[1]", "should be KEY=[VALUE,...]"),
        ("--grid seed=3", "--grid seed: should be a list, such as"),
        ("--grid seed=[0", "--grid seed: should be a list"),
        ("--grid seed=[]", "--grid seed: the list is empty"),
        ("--grid seed=[0,1,0]", "--grid seed: 0 is given twice"),
        ("--grid seed=[0] --grid seed=[1]", "--grid seed is given twice"),
        ("--grid seed=[0] --seed 1", "seed has a grid and a value"),
        ("--grid name=[a]", "every run of a sweep has a name of its own"),
        ("--grid folder=[a]", "every run of a sweep has a name of its own"),
        ("--grid seed=[0] --resume auto", "sweep takes no --resume"),
        ("--grid seed=[0] --print_config 1", "sweep takes no --print_config"),
        ("--grid seed=[0] more", "sweep takes options only, got more"),
        ("--grid seed=[0,-1]", "seed should be an integer >= 0, got -1 (with --seed -1)"),
        ("--grid inner.rat=[1]", "inner.rat is not a setting (did you mean inner.rate?)"),
        ("--grid seed=[0] --taks 3", "taks is not a setting (did you mean tasks?)"),
        ("--grid outer=[{}] --grid outer.max_kl=[1]", "set the same thing"),
        (
            "--grid inner.steps=[1,2] --inner.rates [0.1]",
            "inner.rates has 1 entries for 2 inner steps (with --inner.steps 2)",
        ),
        ("--config nothing --grid seed=[0]", "there is no config nothing"),
    ],
)
@pytest.mark.parametrize("printed", [["--print"], []])
def test_a_bad_sweep_is_refused_before_anything_begins(
    workplace: Path, refused, arguments: str, said: str, printed: list[str]
):
    assert said in refused(sweep, "--config", "smoke", *arguments.split(), *printed)


def test_a_sweep_that_is_too_large_is_refused(workplace: Path, refused):
    seeds = str([*range(LARGEST // 2 + 1)]).replace(" ", "")
    arguments = ("--grid", f"seed={seeds}", "--grid", "tasks=[2,3]", "--print")
    assert "10,002 combinations; at most 10,000" in refused(sweep, *arguments)


def test_a_sweep_goes_on_after_a_failed_run(toy, runs: Path, capfd):
    """A run of other settings has the first name."""
    assert train([*toy("s-seed0"), "--seed", "7"]) == 0
    arguments = [*toy("s"), "--grid", "seed=[0,1]"]
    capfd.readouterr()
    assert sweep(arguments) == 1
    out, err = capfd.readouterr()
    assert "[2/2] metarl train --config smoke" in out
    assert "seed is 7, not 0" in err
    assert re.search(r"s-seed0 +2\n", out)
    assert re.search(r"s-seed1 +0\n", out)
    assert RunFolder.open(runs / "s-seed1").info()["command"][:2] == ["metarl", "train"]
    assert RunFolder.open(runs / "s-seed1").load_evaluation() is not None


def test_a_signal_stops_the_run_and_the_sweep_goes_on_later(
    toy, runs: Path, start_command, wait_for_rows
):
    long = [*toy("s"), "--iterations", "1000000", "--grid", "seed=[0,1]"]
    process = start_command(sweep, *long)
    wait_for_rows(process, runs / "s-seed0", 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "stopped; to go on" in out
    assert re.search(r"s-seed0 +0\n", out)
    assert re.search(r"s-seed1 +not begun\n", out)
    assert not (runs / "s-seed1").exists()
    assert RunFolder.open(runs / "s-seed0").checkpoints().all()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_a_killed_sweep_leaves_no_run_behind(toy, runs: Path, start_command, wait_for_rows):
    long = [*toy("s"), "--iterations", "1000000", "--grid", "seed=[0]"]
    process = start_command(sweep, *long)
    wait_for_rows(process, runs / "s-seed0", 1)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        time.sleep(0.01)
    assert os.path.isfile(runs / "s-seed0" / "config.yaml")


def _state(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_help_and_completion_know_the_sweep(capsys):
    assert sweep(["--help"]) == 0
    assert "--grid KEY=[VALUE,...]" in capsys.readouterr().out
    assert completion(["bash"]) == 0
    script = capsys.readouterr().out
    (listed,) = re.findall(r"_shtab_metarl_sweep_option_strings=\((.*)\)", script)
    options = listed.replace("'", "").split()
    assert {"--grid", "--print", "--config", "--outer.max_kl"} <= {*options}
    assert "--resume" not in options
