"""Parts of a user's own: found by name, checked, recorded in the run, found again."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from metarl.commands.main import evaluate, report, train
from metarl.core.params import flatten
from metarl.experiment import evaluations
from metarl.experiment.settings import read_config
from metarl.runtime.folder import RunFolder
from metarl.runtime.sinks import read_metrics
from metarl_envs import BatchedEnv

PARTS = Path(__file__).parents[1] / "own_parts.py"
SMALL = [
    *("--logging.wandb", "disabled", "--logging.report", "false"),
    *("--compile", "false", "--threads", "1"),
    *("--tasks", "3", "--evaluation.tasks", "2", "--evaluation.inner_steps", "1"),
]
POLICY = [
    *("--env.family", "mine:HeavyCheetah", "--env.horizon", "12"),
    *("--policy.name", "mine:two_heads", "--policy.channels", "3"),
    *("--inner.loss", "mine:squared_loss", "--baseline.name", "mine:Critic"),
    *("--outer.name", "mine:HeavyBall", "--outer.rate", "0.02"),
    *("--logging.sinks", "[mine:Diary]", "--trajectories", "3", "--evaluation.trajectories", "2"),
    *SMALL,
]
MODEL = [
    *("--data.source", "mine:Lines", "--data.steepest", "3", "--model.name", "mine:network"),
    *("--outer.name", "mine:HeavyBall", "--outer.rate", "0.05"),
    *SMALL,
]
FUNCTIONS = [
    *("--data.source", "mine:Planes", "--data.steepest", "3", "--data.noise", "0.1"),
    *("--outer.name", "mine:HeavyBall", "--evaluation.candidate_rates", "[0.01,0.02]"),
    *SMALL,
]
CLASSES = [
    *("--data.source", "mine:Patterns", "--data.each", "6", "--data.ways", "3"),
    *("--model.name", "dense", "--shots", "2", "--queries", "3", "--outer.name", "mine:HeavyBall"),
    *("--evaluation.candidate_rates", "[0.01,0.1]"),
    *SMALL,
]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder outside the repository with the file ``mine.py`` in it."""
    shutil.copy(PARTS, tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    "parts",
    [POLICY, MODEL, FUNCTIONS, CLASSES],
    ids=["policy", "model", "functions", "classes"],
)
def test_parts_of_ones_own_train_resume_and_are_found_again_from_another_folder(
    mine: Path, tmp_path_factory, monkeypatch, capsys, parts: list[str]
):
    whole, half = ["--iterations", "4", "--name", "whole"], ["--iterations", "2", "--name", "half"]
    assert train([*parts, *whole]) == 0
    assert train([*parts, *half]) == 0
    assert train(["--resume", "runs/half", "--iterations", "4"]) == 0
    learners = [
        evaluations.load(run, read_config(run)).learner
        for run in (RunFolder(Path("runs/whole")), RunFolder(Path("runs/half")))
    ]
    states = [learner.state_dict() for learner in learners]
    assert np.array_equal(*(flatten(state["meta"]) for state in states))
    assert np.array_equal(*(state["outer"]["mean"] for state in states)), "the momentum goes on"

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for command, *options in ((evaluate,), (report, "--videos", "1")):
        sys.modules.pop("mine")  # as in a new process
        sys.path.remove(str(mine))
        monkeypatch.setattr("metarl.experiment.plugins._folders", [])
        assert command([str(mine / "runs/whole"), *options]) == 0
    err = capsys.readouterr().err
    assert "drawing pictures failed" not in err


def test_a_run_records_its_parts_with_their_settings(mine: Path):
    assert train([*POLICY, "--iterations", "1", "--name", "one"]) == 0
    recorded = yaml.safe_load(Path("runs/one/config.yaml").read_text())
    assert recorded["env"]["mass_range"] == [0.5, 2.0]
    assert recorded["outer"] == {"name": "mine:HeavyBall", "rate": 0.02}
    assert (mine / "runs/one/diary.txt").read_text().startswith("0 ")


def test_switching_the_outer_step_drops_the_settings_of_the_other(mine: Path):
    """A config's trust region says nothing to Adam."""
    Path("trpo.yaml").write_text("outer: {max_kl: 0.02, hvp_epsilon: 0.02}\n")
    Path("adam.yaml").write_text("outer: {name: adam, learning_rate: 0.01}\n")
    run = [*("--env.horizon", "5", "--iterations", "1", "--trajectories", "2"), *SMALL]
    assert train(["--config", "trpo.yaml", "--config", "adam.yaml", *run, "--name", "a"]) == 0
    assert train(["--config", "trpo.yaml", "--outer.name", "adam", *run, "--name", "b"]) == 0
    for name, rate in (("a", 0.01), ("b", 0.001)):
        outer = yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text())["outer"]
        assert outer["name"] == "adam"
        assert outer["learning_rate"] == rate
        assert "outer/gradient_norm" in read_metrics(Path(f"runs/{name}/metrics.jsonl"))[0]


def test_an_outer_step_has_a_loss_of_its_own(mine: Path):
    """ProMP, from outside: epochs of Adam on a clipped surrogate and the KL on support data."""
    run = ["--env.horizon", "20", "--iterations", "3", "--trajectories", "5", *SMALL]
    step = ["--outer.name", "mine:RepeatedAdam", "--outer.learning_rate", "0.003"]
    assert train([*run, *step, "--name", "promp"]) == 0
    rows = read_metrics(Path("runs/promp/metrics.jsonl"))
    assert all(abs(row["outer/first"]) < 1e-5 for row in rows), "ratios and KL before the update"
    assert all(row["outer/last"] < row["outer/first"] for row in rows)


def test_a_critic_sees_what_the_policy_sees(mine: Path):
    """The oracle's observations have the task in them."""
    run = ["--env.horizon", "5", "--iterations", "1", "--trajectories", "2", *SMALL]
    told = ["--observe_task", "true", "--inner.steps", "0", "--evaluation.inner_steps", "0"]
    assert train(["--baseline.name", "mine:Critic", *run, *told, "--name", "oracle"]) == 0


def test_a_trust_region_trains_a_model(mine: Path):
    assert train(["--data.source", "sinusoid", "--outer.name", "trpo", "--iterations", "5", *SMALL,
                  "--outer.inner_hessian", "exact", "--outer.hvp_epsilon", "0.01",
                  "--name", "model"]) == 0  # fmt: skip
    rows = read_metrics(Path("runs/model/metrics.jsonl"))
    accepted = [row for row in rows if row["outer/accepted"]]
    assert len(accepted) >= 3
    assert all(0 < row["outer/kl"] <= 0.01 for row in accepted)
    assert all(row["outer/loss_after"] < row["outer/loss_before"] for row in accepted)
    assert rows[0]["outer/hvp_error"] < 0.05


BAD = {
    "--outer.name nothing": "outer.name 'nothing' is unknown; there are trpo, adam",
    "--outer.name nowhere:Step": "outer.name nowhere:Step does not import: ModuleNotFoundError",
    "--outer.name mine:HeavyBal": "mine has no HeavyBal (did you mean HeavyBall?)",
    "--outer.name mine:Diary": "it should be a subclass of OuterStep, got Diary",
    "--outer.name mine:HeavyBall --outer.rat 1": "did you mean outer.rate?",
    "--env.family mine:Critic": "it should be a subclass of Family, got Critic",
    "--env.family mine:HeavyCheetah --env.mass_range [1]": "env.mass_range should",
    "--policy.name mine:two_heads --policy.hidden [1]": "policy.hidden is not a setting",
    "--policy.name mine:not_a_policy": "it should make a torch.nn.Module, got int",
    "--policy.name mine:raises": "policy.name mine:raises: RuntimeError: out of ideas",
    "--policy.name mine:not_a_distribution": "should return a Distribution",
    "--policy.name mine:batch_normed": "with batch norm an action depends on other observations",
    "--policy.name mine:squashed": "Squashed.log_prob does not fit Squashed.sample",
    "--inner.loss mine:Diary.close": "should be a function of (policy, params, batch)",
    "--inner.loss reinforced": "inner.loss 'reinforced' is unknown (did you mean reinforce?)",
    "--baseline.name mine:HeavyBall": "it should be a subclass of Baseline, got HeavyBall",
    "--logging.sinks [mine:HeavyBall]": "it should be a class with log, show, close",
    "--data.source mine:Diary": "it should be a class with task_fields, input_shape, draw",
}


@pytest.mark.parametrize("options", BAD)
def test_a_bad_part_is_refused_in_one_line_before_the_run_begins(mine: Path, options: str, capsys):
    code = train([*options.split(), "--name", "run", "--logging.wandb", "disabled"])
    err = capsys.readouterr().err
    assert code == 2
    assert BAD[options] in err
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_policy_that_draws_random_numbers_ends_in_one_line(mine: Path, capsys):
    run = ["--env.horizon", "5", "--iterations", "1", "--trajectories", "2", *SMALL]
    assert train(["--policy.name", "mine:noisy", *run, "--name", "run"]) == 2
    assert "the policy is not the one that sampled" in capsys.readouterr().err


@pytest.mark.parametrize(
    "compiled", ["false", pytest.param("true", marks=pytest.mark.needs_compiler)]
)
def test_discrete_actions_of_a_distribution_of_ones_own_learn(mine: Path, compiled: str):
    run = [*("--env.family", "mine:Compass", "--env.horizon", "20", "--policy.name", "mine:Moves")]
    run += ["--tasks", "8", "--trajectories", "10", "--iterations", "8", "--outer.max_kl", "0.05"]
    run += ["--inner.rate", "0.5", "--evaluation.tasks", "4", "--evaluation.mean_actions", "true"]
    run += ["--logging.wandb", "disabled", "--logging.report", "false", "--compile", compiled]
    assert train([*run, "--name", "moves"]) == 0
    rows = read_metrics(Path("runs/moves/metrics.jsonl"))
    assert all(0 <= row["policy/entropy"] <= np.log(4) + 1e-5 for row in rows)
    assert all(0.25 <= row["policy/largest_probability"] <= 1 for row in rows)
    assert rows[-1]["return/after"] > rows[0]["return/after"] + 0.5


def test_tasks_reach_the_physics_and_the_rewards(mine: Path):
    """Each simulation has its task's mass, after a reset of some of them too; rewards are noisy
    with numbers of the task's own generator."""
    sys.path.append(str(mine))
    from mine import HeavyCheetah  # type: ignore[import-not-found]

    family, tasks = HeavyCheetah(horizon=5), np.array([[0.5], [1.0], [2.0]])
    env = BatchedEnv(family, 3, 2)

    def play(env: BatchedEnv, tasks, seeds) -> tuple[np.ndarray, np.ndarray]:
        env.reset(tasks, [np.random.default_rng(seed) for seed in seeds])
        steps = [env.step(np.full((*env.shape, 6), 0.3)) for _ in range(5)]
        return np.stack([s.observation for s in steps]), np.stack([s.reward for s in steps])

    observations, rewards = play(env, tasks, [7, 7, 7])
    mass = env.simulator.batch.expand("body_mass").sum(1).reshape(3, 2)
    np.testing.assert_allclose(mass, family.model.body_mass.sum() * np.repeat(tasks, 2, 1))
    assert not np.allclose(observations[:, 0], observations[:, 2]), "another body moves otherwise"
    assert not np.allclose(rewards[:, 1, 0], rewards[:, 1, 1])
    alone, its_rewards = play(BatchedEnv(family, 1, 2), tasks[2:], [7])
    np.testing.assert_array_equal(alone[:, 0], observations[:, 2])
    np.testing.assert_array_equal(its_rewards[:, 0], rewards[:, 2])
    again = env.simulator.state.copy()
    env.reset(tasks[::-1], [np.random.default_rng(1)] * 3, np.array([True, False, False]))
    np.testing.assert_array_equal(env.simulator.state.qpos[2:], again.qpos[2:])
    mass = env.simulator.batch.expand("body_mass").sum(1).reshape(3, 2)
    np.testing.assert_allclose(mass[:, 0], family.model.body_mass.sum() * np.array([2, 1, 2]))


FAULTY = '''
from dataclasses import dataclass

import numpy as np
import torch

from metarl.core.outer.step import OuterStep
from metarl_envs.point import PointNavigation


@dataclass(frozen=True, kw_only=True)
class Broken(PointNavigation):
    """Its reward is not finite."""

    def reward(self, step):
        return np.full(len(step.tasks), np.nan)


@dataclass(frozen=True, kw_only=True)
class Square(PointNavigation):
    """Its reward is of every pair of simulations."""

    def reward(self, step):
        return step.after.qpos[:, :1] - step.tasks[:, 0]


class Undecorated(PointNavigation):
    """Its settings are none."""

    speed = 3.0


@dataclass(frozen=True)
class Nan(OuterStep):
    """It loses theta."""

    def step(self, objective, theta, state):
        return torch.full_like(theta, torch.nan), state, {}


def demanding(observation_space, action_space, width):
    """A policy whose setting has no default."""
'''

FAULTS = {
    "--env.family faulty:Broken": "Broken: a reward is not finite",
    "--env.family faulty:Square": "Square.reward should have shape (6,), one number per simulation",
    "--env.family faulty:Undecorated": "it should be a frozen dataclass",
    "--outer.name faulty:Nan": "iteration 0: Nan gave parameters that are not finite",
    "--policy.name faulty:demanding": "(observation_space, action_space, width); its settings need",
    "--inner.loss typo:loss": "typo:loss does not import: NameError: name 'np' is not defined (",
}


@pytest.mark.parametrize("options", FAULTS)
def test_what_a_part_does_wrong_is_said_in_one_line(
    runs: Path, workplace: Path, options: str, capsys, monkeypatch
):
    (workplace / "faulty.py").write_text(FAULTY)
    (workplace / "typo.py").write_text("x = 1\ny = np.zeros(3)\n")
    for name in ("faulty", "typo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    small = "--iterations 1 --tasks 3 --trajectories 2 --logging.wandb disabled --name run"
    assert train([*small.split(), "--folder", str(runs), *options.split()]) in (1, 2)
    err = capsys.readouterr().err
    assert FAULTS[options] in err
    assert "Traceback" not in err


def test_a_family_without_fields_of_its_tasks_is_refused(workplace: Path, refused, monkeypatch):
    monkeypatch.delitem(sys.modules, "fieldless", raising=False)
    (workplace / "fieldless.py").write_text(
        "from dataclasses import dataclass\n"
        "from metarl_envs.half_cheetah import HalfCheetah\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Bare(HalfCheetah):\n"
        "    def sample_tasks(self, rng, n): ...\n"
        "    def velocity_reward(self, velocity, tasks): ...\n"
    )
    said = refused(train, "--env.family", "fieldless:Bare")
    assert "env.family fieldless:Bare: it should define task_fields" in said


def test_a_run_says_which_package_its_parts_come_from(mine: Path, monkeypatch):
    """A folder beside ``mine`` with metadata is an installed package."""
    (mine / "mine-1.2.3.dist-info").mkdir()
    (mine / "mine-1.2.3.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(str(mine))
    small = (*SMALL, "--trajectories", "2", "--env.horizon", "5", "--iterations", "1")
    assert train(["--env.family", "mine:HeavyCheetah", *small, "--name", "run"]) == 0
    assert RunFolder(Path("runs/run")).info()["packages"]["mine"] == "1.2.3"
