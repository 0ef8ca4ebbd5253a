"""``run.json``: by which code a run was made."""

import subprocess
from pathlib import Path

import pytest

from metarl.runtime import origin as module
from metarl.runtime.origin import git_commit, origin


def git(*arguments: str) -> str:
    """Run git as a user whom no settings are needed of."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(workplace: Path) -> Path:
    """The user's own repository, as the working directory."""
    git("init", "--quiet")
    (workplace / "mine.py").write_text("x = 1\n")
    git("add", "mine.py")
    git("commit", "--quiet", "--message", "begin")
    return workplace


def test_a_run_knows_the_commit_of_the_directory_it_was_started_in(repository: Path):
    commit = git("rev-parse", "HEAD")
    (repository / "below").mkdir()
    assert origin()["directory_git_commit"] == commit
    assert git_commit(Path("below")) == commit
    (repository / "mine.py").write_text("x = 2\n")
    info = origin()
    assert info["directory_git_commit"] == f"{commit}-dirty"
    assert info["git_commit"] != info["directory_git_commit"]


def test_a_directory_outside_of_a_repository_has_no_commit(workplace: Path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workplace.parent))
    assert origin()["directory_git_commit"] is None


def test_without_git_there_are_no_commits(repository: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    info = origin()
    assert (info["git_commit"], info["directory_git_commit"]) == (None, None)


def test_metarl_installed_in_a_users_repository_has_no_commit_of_its_own(
    repository: Path, monkeypatch
):
    installed = repository / "venv" / "origin.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(module, "__file__", str(installed))
    info = origin()
    assert info["git_commit"] is None
    assert info["directory_git_commit"] is not None
    git("add", "venv")
    assert origin()["git_commit"].endswith("-dirty")


def test_packages_of_parts_of_ones_own_are_recorded_where_they_are_installed(workplace: Path):
    info = origin(packages=["pytest", "nobodys_package"])
    assert info["packages"]["pytest"] == pytest.__version__
    assert "nobodys_package" not in info["packages"]
    assert {*module.PACKAGES} <= {*info["packages"]}


def test_in_a_sweep_of_wandbs_the_agent_chooses_the_trackers_id(workplace: Path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    assert origin()["tracking_id"] != "chosen"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert origin()["tracking_id"] == "chosen"
