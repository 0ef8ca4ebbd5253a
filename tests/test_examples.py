"""Every example runs, at toy size, and its run can be used from another folder."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import metarl
from metarl.commands.main import evaluate

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
TOY = {
    "iterations": 1,
    "tasks": 2,
    "trajectories": 2,
    "compile": False,
    "env.horizon": 5,
    "workers": 0,
    "evaluation": {"tasks": 2, "trajectories": 2},
    "logging": {"wandb": "disabled", "report": False},
}
SUPERVISED = ("own_examples", "own_functions")
TOY_SUPERVISED = {
    **{name: TOY[name] for name in ("iterations", "tasks", "compile", "logging")},
    "evaluation": {"tasks": 2},
}
NO_TRAINING = ("load_adapt_predict",)
NEEDS_MORE = ("meta_world",)  # packages that metarl does not need
NAMES = sorted(file.stem for file in FOLDER.glob("*.py"))
TRAINED = [name for name in NAMES if name not in (*NO_TRAINING, *NEEDS_MORE)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TRAINED)
def test_an_example_trains(name, folder):
    toy = TOY_SUPERVISED if name in SUPERVISED else TOY
    run = importlib.import_module(name).main(**toy, name="toy")
    assert run.path.resolve() == folder / "runs" / "toy"
    assert run.iterations == 1
    assert run.evaluation.tasks
    assert run.evaluation.rows[1].mean == run.evaluation.rows[1].mean  # a number


def test_an_example_loads_adapts_and_acts(folder, capsys):
    example = importlib.import_module("load_adapt_predict")
    total = example.main(ROOT / "results" / "paper_half_cheetah_velocity_600")
    assert -200 < total < 0
    assert f"mean actions after it: {total:.1f}" in capsys.readouterr().out
    assert (folder / "policy.pt").is_file()


def test_the_run_of_a_script_is_found_from_another_folder(tmp_path, start_command):
    """The script's class is named by its file, whose folder the run remembers."""
    code = tmp_path / "code"
    code.mkdir()
    text = (FOLDER / "cartpole.py").read_text()
    (code / "my_pole.py").write_text(text.replace("main()", f"main(**{TOY!r}, name='toy')"))
    script = [sys.executable, str(code / "my_pole.py")]
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    process = start_command(evaluate, str(tmp_path / "runs" / "toy"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "2 held-out tasks" in out
    config = (tmp_path / "runs" / "toy" / "config.yaml").read_text()
    assert "family: my_pole:PoleLength" in config


def test_a_class_that_could_not_be_found_again_is_refused(folder):
    class Local(importlib.import_module("cartpole").PoleLength):
        pass

    with pytest.raises(metarl.UserError, match="define it at the top level of a file"):
        metarl.train({"env.family": Local}, TOY)
    assert list(folder.iterdir()) == []


def test_every_example_is_linked_from_the_docs():
    page = (ROOT / "docs" / "examples.md").read_text()
    assert [name for name in NAMES if f"examples/{name}.py" not in page] == []
