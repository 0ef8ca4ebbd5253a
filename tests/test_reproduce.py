"""Every command of scripts/reproduce runs, one after the other, at toy size."""

import os
import subprocess
from pathlib import Path

import pytest

from metarl.commands.main import COMMANDS

SCRIPTS = Path(__file__).parents[1] / "scripts" / "reproduce"
NAMES = sorted(path.name for path in SCRIPTS.iterdir())
SUPERVISED = ("sinusoid.sh", "omniglot.sh")

COMMON = [
    *("--iterations", "1", "--tasks", "2", "--logging.wandb", "disabled"),
    *("--logging.report", "false", "--compile", "false"),
    *("--evaluation.every", "0", "--evaluation.tasks", "2", "--evaluation.inner_steps", "1"),
]
POLICY = [
    *("--trajectories", "2", "--env.horizon", "4", "--policy.hidden_sizes", "[4]"),
    *("--outer.cg_iterations", "2", "--evaluation.trajectories", "2"),
]
GLYPHS = ["--data", "{source: glyphs, ways: 3}"]

# In the place of ``metarl``: starting Python for every command would take a minute.
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$@" >> commands\necho >> commands\n'


def commands_of(name: str, options: list[str], folder: Path) -> list[list[str]]:
    """Words of every ``metarl`` command of a script, in order."""
    program = folder / "bin" / "metarl"
    program.parent.mkdir()
    program.write_text(RECORDER)
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    subprocess.run(["sh", str(SCRIPTS / name), *options], cwd=folder, env=environment, check=True)
    lines = (folder / "commands").read_text().splitlines()
    return [line.rstrip("\0").split("\0") for line in lines]


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize("name", NAMES)
def test_a_script_runs_at_toy_size(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarl.report.page.film", lambda *_: [])  # it starts Python for each
    options = [*COMMON, *([] if name in SUPERVISED else POLICY)]
    options += GLYPHS if name == "omniglot.sh" else []
    options += ["--model.hidden_sizes", "[4]"] if name == "sinusoid.sh" else []
    if name == "comparison.sh":  # not all of its outer steps have a conjugate gradient
        monkeypatch.setenv("SEEDS", "0")
        at = options.index("--outer.cg_iterations")
        options = options[:at] + options[at + 2 :]
    commands = commands_of(name, options, tmp_path)
    for command, *arguments in commands:
        assert COMMANDS[command](arguments) == 0, (command, arguments)
    trained = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len(trained) == sum(command == "train" for command, *_ in commands)
    assert all((run / "evaluation.json").is_file() for run in trained)
