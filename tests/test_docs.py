"""README and docs: their code runs, their links lead somewhere, and README stays short."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.commands.main import COMMANDS
from metarl.experiment.settings import read_settings
from metarl.experiment.sweeps import planned

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TOY = [
    *("--iterations", "1", "--tasks", "2", "--trajectories", "2", "--compile", "false"),
    *("--evaluation.tasks", "2", "--evaluation.trajectories", "2", "--threads", "1"),
    *("--logging.wandb", "disabled", "--logging.report", "false", "--env.horizon", "5"),
]

TOY_SUPERVISED = [
    *("--iterations", "1", "--tasks", "2", "--compile", "false", "--threads", "1"),
    *("--evaluation.tasks", "2", "--logging.wandb", "disabled", "--logging.report", "false"),
]


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def examples(page: Path) -> list[tuple[str, str, str]]:
    """Files with a name in their first line, and the command that follows them."""
    found = []
    code = blocks(page)
    for (kind, text), (following, command) in pairwise(code):
        if kind == "python" and (name := re.match(r"# (\w+\.py)\n", text)):
            assert following == "bash", f"{name[1]} in {page.name} needs the command that uses it"
            found.append((name[1], text, command))
    return found


EXAMPLES = [(page, *example) for page in PAGES for example in examples(page)]


@pytest.mark.parametrize(
    ("page", "name", "text", "command"), EXAMPLES, ids=[f"{e[0].name}-{e[1]}" for e in EXAMPLES]
)
def test_an_example_with_its_command_trains(
    page: Path, name: str, text: str, command: str, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    Path(name).write_text(text)
    metarl, train, *words = shlex.split(command)
    assert (metarl, train) == ("metarl", "train")
    toy = TOY_SUPERVISED if "--data.source" in words else TOY
    assert COMMANDS[train]([*words, *toy, "--name", "toy"]) == 0


def commands(page: Path) -> list[str]:
    """``metarl train`` with settings that need no file and no run, from blocks and from tables."""
    text = "\n".join(block for kind, block in blocks(page) if kind == "bash")
    lines = [line.partition(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(metarl train [^`]*)`", page.read_text().replace("\n", " "))
    own = re.compile(r"--resume|--help|--print_config|\.csv|\w+:\w+|\.\.\.|~|NAME")
    return [line for line in lines if line.startswith("metarl train") and not own.search(line)]


COMMAND_LINES = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=[c[1][:60] for c in COMMAND_LINES])
def test_a_command_of_the_docs_has_settings_that_exist(
    page: Path, line: str, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, _, *words = shlex.split(line)
    config, resumed = read_settings(words)
    assert resumed is None
    assert str(config.name) in line or "-seed" in str(config.name)


def test_the_docs_have_many_commands():
    assert len(COMMAND_LINES) >= 10


def sweeps(page: Path) -> list[str]:
    """``metarl sweep`` with its options, without what the shell does with its output."""
    text = "\n".join(block for kind, block in blocks(page) if kind == "bash")
    lines = re.findall(r"^metarl sweep .*", text.replace("\\\n", " "), re.MULTILINE)
    return [re.split(r" [>|#]", line)[0] for line in lines]


SWEEP_LINES = [(page, line) for page in PAGES for line in sweeps(page)]


@pytest.mark.parametrize(("page", "line"), SWEEP_LINES, ids=[c[0].name for c in SWEEP_LINES])
def test_a_sweep_of_the_docs_is_allowed(page: Path, line: str):
    _, _, *words = shlex.split(line)
    assert len(planned([word for word in words if word != "--print"])) > 1


def test_scripts_in_the_docs_are_bash(tmp_path: Path):
    scripts = [
        text
        for page in PAGES
        for kind, text in blocks(page)
        if kind == "bash" and text.startswith("#!")
    ]
    assert scripts
    for text in scripts:
        (tmp_path / "script.sh").write_text(text)
        subprocess.run(["bash", "-n", str(tmp_path / "script.sh")], check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_programs_in_the_docs_compile(page: Path):
    for kind, text in blocks(page):
        if kind == "python":
            compile(text, page.name, "exec")


def test_the_page_about_python_runs(tmp_path: Path, monkeypatch):
    """As printed, but trained at toy size."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    small = {
        **{"iterations": 2, "tasks": 2, "trajectories": 2, "compile": False, "env.horizon": 5},
        **{"evaluation": {"tasks": 2, "trajectories": 2}, "logging": {"report": False}},
        "logging.wandb": "disabled",
    }
    train = metarl.train
    monkeypatch.setattr(
        "metarl.train", lambda *configs, **kwargs: train(*configs, small, **kwargs), raising=False
    )
    log = {
        "observations": np.zeros((4, 20)),
        "actions": np.full((4, 6), 0.1),
        "rewards": np.arange(4.0),
        "final_observation": np.zeros(20),
    }
    for kind, text in blocks(ROOT / "docs" / "python.md"):
        assert kind == "python"
        exec(compile(text, "python.md", "exec"), dict(log))
    assert (tmp_path / "policy.pt").is_file()
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_docs_name_exist(page: Path):
    named = re.findall(
        r"`((?:metarl|envs|scripts|tests|configs|examples)/[\w/.-]+\.\w+)`", page.read_text()
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_site_builds_without_a_warning(tmp_path: Path):
    """Every link, every module of the reference."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Descent" in (tmp_path / "site/own_problems/index.html").read_text()
    assert (
        "metarl.core.outer.step.OuterStep" in (tmp_path / "site/reference/index.html").read_text()
    )


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 170
    assert max(map(len, lines)) <= 110
