"""The Python interface: train, load, adapt, predict."""

import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from metarl.adapted_policy import record
from metarl.runtime.errors import UserError

SMALL = {
    "iterations": 2,
    "tasks": 3,
    "trajectories": 4,
    "policy.hidden_sizes": [8],
    "evaluation": {"tasks": 3, "inner_steps": 1, "trajectories": 6},
    "logging": {"wandb": "disabled", "report": False},
    "checkpoint.every": 1,
    "compile": False,
}
POINT = {"env": {"family": "point-navigation", "horizon": 8}}
POLE = {
    "env": {"family": "cartpole", "horizon": 12},
    "policy": {"name": "categorical-mlp", "hidden_sizes": [8]},
}
RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, metarl.Run]:
    folder = str(tmp_path_factory.mktemp("runs"))
    return {
        name: metarl.train(SMALL, problem, {"folder": folder, "name": name})
        for name, problem in (("point", POINT), ("pole", POLE))
    }


def test_train_calls_back_and_returns_the_run(tmp_path: Path):
    seen = []
    torch.set_num_threads(2)
    run = metarl.train(
        "smoke",
        {**SMALL, "folder": str(tmp_path), "name": "run"},
        callbacks=[lambda iteration, metrics: seen.append((iteration, metrics["return/after"]))],
    )
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert [iteration for iteration, _ in seen] == [0, 1]
    np.testing.assert_array_equal(run.metrics["return/after"], [value for _, value in seen])
    assert (run.iterations, run.config.tasks, run.path) == (2, 3, tmp_path / "run")
    assert run.evaluation is not None
    assert len(run.evaluation.rows) == 2


def test_an_exception_of_a_callback_ends_training_as_it_is(tmp_path: Path):
    class Pruned(Exception):
        pass

    def prune(iteration: int, metrics: object) -> None:
        raise Pruned(iteration)

    with pytest.raises(Pruned):
        metarl.train("smoke", {**SMALL, "folder": str(tmp_path)}, callbacks=[prune])
    with pytest.raises(UserError, match="tasks should be an integer"):
        metarl.train("smoke", {"tasks": 0})


def test_training_works_off_the_main_thread(tmp_path: Path):
    done = []
    settings = {**SMALL, **POINT, "folder": str(tmp_path), "name": "run"}
    thread = threading.Thread(target=lambda: done.append(metarl.train(settings)))
    thread.start()
    thread.join()
    assert done[0].iterations == 2


def test_a_policy_is_adapted_to_a_task_as_evaluations_do(runs: dict[str, metarl.Run]):
    run = runs["point"]
    assert run.evaluation is not None
    # The first held-out task has the first random numbers, as a lone task has.
    task = run.evaluation.tasks[0]
    adapted = run.adapt(task, steps=1, trajectories=6, seed=run.config.evaluation.seed)
    scores = [per_task[0] for per_task in run.evaluation.scores]
    assert adapted.returns == pytest.approx(scores)
    before = run.policy()
    weights = [dict(p.module.named_parameters()) for p in (before, adapted)]
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


@pytest.mark.parametrize("name", ["point", "pole"])
def test_an_adapted_policy_acts_in_gymnasium(runs: dict[str, metarl.Run], name: str):
    run = runs[name]
    task = run.family.sample_tasks(np.random.default_rng(0), 1)[0]
    adapted = run.adapt(task, steps=1, trajectories=40, seed=1)
    env = run.make_env(task)
    assert isinstance(env, gymnasium.Env)
    generator = torch.Generator().manual_seed(0)
    returns = [
        record(adapted, env, run.family.horizon, generator, seed).rewards.sum()
        for seed in range(60)
    ]
    error = np.std(returns) * (1 / 60 + 1 / 40) ** 0.5
    assert abs(np.mean(returns) - adapted.returns[-1]) < 5 * error + 1e-6


def test_a_policy_is_adapted_to_an_environment_and_to_episodes(runs: dict[str, metarl.Run]):
    run = runs["pole"]
    env = gymnasium.make("CartPole-v1", max_episode_steps=12)
    adapted = run.adapt(env=env, steps=2, trajectories=5, seed=3)
    assert len(adapted.returns) == 2
    generator = torch.Generator().manual_seed(0)
    log = [record(run.policy(), env, 12, generator, seed) for seed in range(4)]
    one, same = (run.adapt(episodes=log) for _ in range(2))
    assert torch.equal(flat(one), flat(same))
    assert not torch.equal(flat(one), flat(run.policy()))
    assert one.returns == [pytest.approx(np.mean([e.rewards.sum() for e in log]))]


def flat(policy: metarl.AdaptedPolicy) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.module.parameters()).detach()


def test_predict_takes_one_observation_or_many(runs: dict[str, metarl.Run]):
    policy = runs["pole"].policy()
    action = policy.predict([0.1, 0.2, 0.0, -0.1])
    assert action in (0, 1)
    many = policy.predict(np.zeros((5, 2, 4), np.float32))
    assert many.shape == (5, 2)
    assert many.dtype == np.int64
    control = runs["point"].policy().predict(np.zeros(2, np.float16))
    assert control.shape == (2,)
    assert control.dtype == np.float32
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    one, other = (
        runs["point"].policy().predict([0.0, 0.0], deterministic=False, generator=g)
        for g in generators
    )
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, control)


@pytest.mark.parametrize(
    ("observation", "said"),
    [([0.0, 1.0, 2.0], "should have shape"), ([0.0, np.nan], "should be finite")],
)
def test_a_wrong_observation_is_refused(runs: dict[str, metarl.Run], observation, said: str):
    with pytest.raises(ValueError, match=said):
        runs["point"].policy().predict(observation)


def test_wrong_requests_are_refused(runs: dict[str, metarl.Run], tmp_path: Path):
    run = runs["point"]
    with pytest.raises(ValueError, match="exactly one of task, env and episodes"):
        run.adapt()
    with pytest.raises(ValueError, match=r"PointNavigation is 2 finite numbers \(goal_x, goal_y\)"):
        run.adapt([1.0])
    with pytest.raises(ValueError, match="goal_y is missing"):
        run.adapt({"goal_x": 1.0})
    with pytest.raises(ValueError, match="at least one episode"):
        run.adapt(episodes=[])
    episode = metarl.Episode(np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(3), np.zeros(2), False)
    with pytest.raises(ValueError, match=r"episode 0: actions should be \(3, 2\), got \(2, 2\)"):
        run.adapt(episodes=[episode])
    with pytest.raises(UserError, match="there is no run folder"):
        metarl.load(tmp_path / "nothing")


def test_saved_weights_are_those_of_the_policy(runs: dict[str, metarl.Run], tmp_path: Path):
    adapted = runs["point"].adapt([0.2, 0.1], trajectories=3)
    adapted.save(tmp_path / "policy.pt")
    weights = torch.load(tmp_path / "policy.pt", weights_only=True)
    other = runs["point"].policy()
    other.module.load_state_dict(weights)
    assert torch.equal(flat(other), flat(adapted))


def test_a_kept_run_of_the_paper_is_adapted():
    run = metarl.load(RESULTS / "paper_half_cheetah_velocity")
    assert run.iterations == 475
    adapted = run.adapt([1.0], steps=1, trajectories=2)
    assert len(adapted.returns) == 2
    env = run.make_env([1.0])
    observation, _ = env.reset(seed=0)
    assert observation.shape == (20,)
    assert adapted.predict(observation).shape == (6,)


def test_evaluate_is_what_the_command_does(runs, capsys):
    run = runs["point"]
    before = run.path / "evaluation.json"
    text = before.read_text()
    assert run.evaluate() == run.evaluation
    options = {"tasks": 5, "env": {"horizon": 6}, "mean_actions": True}
    found = run.evaluate(options)
    assert (len(found.tasks), found.actions, found.protocol.problem["horizon"]) == (5, "mean", 6)
    assert before.read_text() == text
    with pytest.raises(UserError, match="tasks"):
        run.evaluate({"tasks": 0})
    with pytest.raises(UserError, match="no option"):
        run.evaluate({"queries": 3})


def test_a_policy_that_is_rolled_out_by_hand_scores_what_evaluate_says(runs):
    """In gymnasium's own environment, on the held-out tasks, with sampled actions."""
    run = runs["pole"]
    record = run.evaluate({"tasks": 6, "trajectories": 20})
    generator = torch.Generator().manual_seed(0)
    env = gymnasium.make("CartPole-v1", max_episode_steps=run.family.horizon)
    means = []
    for m, task in enumerate(record.tasks):
        adapted = run.adapt(task=task, steps=1, trajectories=20, seed=m)
        body = env.unwrapped
        body.length, body.gravity, body.masscart, body.masspole, body.force_mag = task
        body.total_mass = body.masscart + body.masspole
        body.polemass_length = body.masspole * body.length
        returns = []
        for episode in range(20):
            observation, _ = env.reset(seed=1000 * m + episode)
            total, over = 0.0, False
            while not over:
                action = adapted.predict(observation, deterministic=False, generator=generator)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, over = total + reward, terminated or truncated
            returns.append(total)
        means.append(np.mean(returns))
    row = record.rows[1]
    assert np.mean(means) == pytest.approx(row.mean, abs=row.ci95)
    assert np.std(means) > 0


def test_impossible_numbers_of_adaptation_are_refused(runs):
    for numbers in ({"steps": -1}, {"trajectories": 0}):
        with pytest.raises(ValueError, match="steps should be >= 0 and trajectories >= 1"):
            runs["point"].adapt(task=[0.1, 0.2], **numbers)
