"""Training, evaluation, report and resume on gymnasium environments with discrete actions."""

import json
from pathlib import Path

import pytest

from metarl.commands.main import evaluate, report, train
from metarl.runtime.sinks import read_metrics

MINE = '''
from dataclasses import dataclass

from metarl_envs import GymFamily


@dataclass(frozen=True, kw_only=True)
class PoleLength(GymFamily):
    """CartPole with a pole of random length."""

    env_id = "CartPole-v1"
    task_fields = ("length",)

    def sample_tasks(self, rng, n):
        return rng.uniform(0.25, 2.0, (n, 1))

    def set_task(self, env, task):
        env.unwrapped.length = task[0]
        env.unwrapped.polemass_length = task[0] * env.unwrapped.masspole


@dataclass(frozen=True, kw_only=True)
class Forgetful(PoleLength):
    def set_task(self, env, task):
        pass


@dataclass(frozen=True, kw_only=True)
class Flat(PoleLength):
    def sample_tasks(self, rng, n):
        return rng.uniform(0.25, 2.0, n)


@dataclass(frozen=True, kw_only=True)
class Raising(PoleLength):
    def set_task(self, env, task):
        env.nothing()


@dataclass(frozen=True, kw_only=True)
class Misspelt(PoleLength):
    env_id = "CartPoll-v1"


@dataclass(frozen=True, kw_only=True)
class Mortal(PoleLength):
    """Its worker dies in the second iteration."""

    def set_task(self, env, task):
        import os
        from pathlib import Path

        calls = Path("calls")
        calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
        if len(calls.read_text()) == 30 and not Path("dead").exists():
            Path("dead").touch()
            os._exit(3)
'''
OPTIONS = [
    *("--policy.name", "categorical-mlp", "--policy.hidden_sizes", "[8]", "--env.horizon", "9"),
    *("--tasks", "3", "--trajectories", "4", "--iterations", "3", "--compile", "false"),
    *("--evaluation.tasks", "3", "--evaluation.inner_steps", "1", "--evaluation.trajectories", "3"),
    *("--logging.wandb", "disabled", "--logging.report", "false", "--checkpoint.every", "1"),
]


@pytest.fixture
def poles(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (workplace / "poles.py").write_text(MINE)
    monkeypatch.delitem(__import__("sys").modules, "poles", raising=False)
    return ["--env.family", "poles:PoleLength", *OPTIONS]


def numbers(run: Path) -> list[dict[str, float]]:
    rows = read_metrics(run / "metrics.jsonl")
    return [
        {
            k: v
            for k, v in row.items()
            if not k.startswith("seconds") and k != "env_steps_per_second"
        }
        for row in rows
    ]


def test_a_users_environment_trains_alike_in_any_number_of_processes(poles: list[str], capsys):
    assert train([*poles, "--name", "alone"]) == 0
    assert train([*poles, "--name", "two", "--workers", "2"]) == 0
    alone, two = Path("runs/alone"), Path("runs/two")
    assert numbers(alone) == numbers(two)
    scores = [json.loads((run / "evaluation.json").read_text())["scores"] for run in (alone, two)]
    assert scores[0] == scores[1]
    (row, *_) = numbers(alone)
    assert 0 < row["policy/entropy"] <= 0.7
    assert row["outer/kl"] >= 0


def test_evaluate_report_and_resume_work_on_it(poles: list[str], capsys):
    assert train([*poles, "--name", "whole"]) == 0
    assert train([*poles, "--name", "part", "--iterations", "2"]) == 0
    assert train(["--resume", "runs/part", "--iterations", "3", "--workers", "2"]) == 0
    assert numbers(Path("runs/part")) == numbers(Path("runs/whole"))
    assert evaluate(["runs/part", "--workers", "1"]) == 0
    assert report(["runs/part"]) == 0
    assert "<video" not in Path("runs/part/report.html").read_text()


def test_a_set_task_that_changes_nothing_is_warned_of(poles: list[str], capsys):
    arguments = ["poles:Forgetful" if word == "poles:PoleLength" else word for word in poles]
    assert train([*arguments, "--name", "same"]) == 0
    assert "poles:Forgetful: two tasks gave equal episodes" in capsys.readouterr().err
    assert train([*poles, "--name", "different"]) == 0
    assert "equal episodes" not in capsys.readouterr().err


def test_a_worker_that_dies_costs_no_more_than_the_last_checkpoint(poles: list[str], capsys):
    arguments = ["poles:Mortal" if word == "poles:PoleLength" else word for word in poles]
    assert train([*arguments, "--name", "run", "--workers", "1"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "WorkerError: worker process" in error
    assert "died, exit code 3" in error
    assert train(["--resume", "runs/run"]) == 0
    assert len(numbers(Path("runs/run"))) == 3


def test_a_policy_of_other_actions_is_refused(poles: list[str], refused, workplace: Path):
    before = set(workplace.rglob("*"))
    said = refused(train, *poles, "--policy.name", "gaussian-mlp")
    assert "policy.name gaussian-mlp: " in said
    assert "use categorical-mlp" in said
    assert set(workplace.rglob("*")) - before == set()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("Flat", "tasks must be finite with shape"),
        ("Raising", "AttributeError"),
        ("Misspelt", "CartPoll"),
    ],
)
def test_a_mistake_in_an_own_family_is_one_line_before_anything_is_written(
    poles, refused, family, said
):
    options = ["--env.family", f"poles:{family}", *poles[2:]]
    message = refused(train, *options, "--name", "run")
    assert f"env.family poles:{family}: " in message
    assert said in message
