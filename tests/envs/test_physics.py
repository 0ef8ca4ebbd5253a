"""The bodies against gymnasium's own environments, and simulations that break."""

import copy

import gymnasium
import mujoco
import numpy as np
import pytest

from metarl_envs import BatchedEnv
from metarl_envs.registry import SIMULATED
from metarl_envs.simulator import load_model
from metarl_envs.single import TaskEnv

BODIES = ["half-cheetah-velocity", "ant-goal"]


def actions_of(env, steps, seed):
    """Uniform actions, which every third time are all at a limit."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, *env.action_space.shape))
    actions[::3] = np.sign(actions[::3])
    return actions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_half_cheetah_is_gymnasiums(seed):
    """Same seed, same actions: initial state, observations and rewards of HalfCheetah-v5."""
    ours = TaskEnv("half-cheetah-direction", task=1.0)
    theirs = gymnasium.make(
        "HalfCheetah-v5",
        ctrl_cost_weight=0.05,
        exclude_current_positions_from_observation=False,
        disable_env_checker=True,
    )
    ours.reset(seed=seed)
    state, _ = theirs.reset(seed=seed)
    np.testing.assert_array_equal(np.concatenate(ours.batch.simulator.state[:2], axis=1)[0], state)
    for action in actions_of(ours, 200, seed):
        observation, reward, *_ = ours.step(action)
        state, expected, *_ = theirs.step(action)
        np.testing.assert_array_equal(
            np.concatenate(ours.batch.simulator.state[:2], axis=1)[0], state
        )
        np.testing.assert_array_equal(observation, state[1:])
        assert reward == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ant_is_gymnasiums(seed):
    """Same seed, same actions: initial state and observations of Ant-v5, without contact forces."""
    ours = TaskEnv("ant-goal", task=[1.0, 1.0])  # it observes the whole state and never terminates
    theirs = gymnasium.make(
        "Ant-v5",
        include_cfrc_ext_in_observation=False,
        exclude_current_positions_from_observation=False,
        terminate_when_unhealthy=False,
        disable_env_checker=True,
    )
    np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    for action in actions_of(ours, 200, seed):
        np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_ant_terminates_when_gymnasiums_does(seed):
    ours = TaskEnv("ant-direction", task=0.0, horizon=1000)
    theirs = gymnasium.make("Ant-v5", disable_env_checker=True)
    ours.reset(seed=seed)
    theirs.reset(seed=seed)
    for action in actions_of(ours, 1000, seed):
        terminated, expected = ours.step(action)[2], theirs.step(action)[2]
        assert terminated == expected
        if terminated:
            return
    pytest.fail("the ant never fell: this test needs another seed")


def start(name, seed=0, threads=2):
    batch = BatchedEnv(SIMULATED[name](), 1, 4, threads)
    tasks = batch.family.sample_tasks(np.random.default_rng(0), 1)
    batch.reset(tasks, [np.random.default_rng(seed)])
    return batch


@pytest.mark.parametrize("cause", ["control", "velocity", "engine error"])
@pytest.mark.parametrize("name", BODIES)
def test_a_diverging_simulation_ends_alone(name, cause, tmp_path):
    batch, reference = start(name), start(name)
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 1, 4, batch.family.action_dim))
    others = [0, 2, 3]
    for episode in range(2):  # it is noticed every time
        for t, action in enumerate(actions):
            expected = reference.step(action)
            if t == 5 and cause == "control":
                action = action.copy()
                action[0, 1] = np.nan
            elif t == 5 and cause == "velocity":
                batch.simulator.state.qvel[1] = 1e9
            if cause == "engine error":  # the engine knows no such transmission
                transmissions = batch.simulator.batch.expand("actuator_trntype")
                transmissions[1] = 99 if t == 5 else transmissions[0]
            step = batch.step(action)
            for x, y in zip(step, expected, strict=True):
                np.testing.assert_array_equal(x[0, others], y[0, others])
            assert np.isfinite(step.observation).all()
            assert np.isfinite(step.reward).all()
            np.testing.assert_array_equal(step.diverged, [[False, t == 5, False, False]])
            assert not step.truncated[0, 1]
            assert not step.terminated[0, 1]
            np.testing.assert_array_equal(batch.alive, [[True, t < 5, True, True]])
            if t >= 5:
                assert step.reward[0, 1] == 0
        for b in (batch, reference):
            b.reset(b.tasks, [np.random.default_rng(episode + 1)])
        np.testing.assert_array_equal(batch.simulator.state.qvel, reference.simulator.state.qvel)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_may_diverge_at_once_in_every_episode():
    batch = start("ant-goal")
    for _ in range(3):
        batch.reset(batch.tasks, [np.random.default_rng(0)])
        assert batch.step(np.full((1, 4, 8), np.nan)).diverged.all()


@pytest.mark.parametrize("value", [1e11, np.inf, np.nan])
@pytest.mark.parametrize("field", ["qpos", "qvel"])
def test_a_state_that_the_engine_refuses_counts_as_diverged(field, value, monkeypatch):
    """Also when the last physics step made it, so that the engine has not seen it."""
    batch = start("half-cheetah-velocity")
    physics = batch.simulator.batch.step

    def step_and_break(*args, **kwargs):
        physics(*args, **kwargs)
        getattr(batch.simulator.state, field)[1, 3] = value

    monkeypatch.setattr(batch.simulator.batch, "step", step_and_break)
    step = batch.step(np.zeros((1, 4, 6)))
    assert step.diverged.tolist() == [[False, True, False, False]]
    assert np.abs(step.observation).max() < 100


def test_an_episode_that_diverges_at_its_horizon_is_not_truncated():
    family = SIMULATED["half-cheetah-velocity"](horizon=1)
    batch = BatchedEnv(family, 1, 1)
    batch.reset(np.ones((1, 1)), [np.random.default_rng(0)])
    step = batch.step(np.full((1, 1, 6), np.nan))
    assert (step.diverged, step.truncated, step.terminated) == (True, False, False)


def test_a_diverged_simulation_keeps_its_last_good_state():
    batch = start("half-cheetah-velocity")
    before = batch.step(np.zeros((1, 4, 6))).observation
    step = batch.step(np.full((1, 4, 6), np.nan))
    np.testing.assert_array_equal(step.observation, before)
    assert step.diverged.all()


def test_point_with_a_broken_action_ends_alone():
    batch = start("point-navigation")
    action = np.full((1, 4, 2), 0.5)
    action[0, 1, 0] = np.nan
    step = batch.step(action)
    np.testing.assert_array_equal(step.diverged, [[False, True, False, False]])
    np.testing.assert_allclose(
        step.observation[0], [[0.05, 0.05], [0, 0], [0.05, 0.05], [0.05, 0.05]]
    )
    np.testing.assert_array_equal(batch.alive, ~step.diverged)


def test_bodies_are_silent(run_python, tmp_path):
    """Loading, simulating and breaking them prints nothing and writes nothing."""
    result = run_python(
        "import numpy as np\n"
        "from metarl_envs import BatchedEnv\n"
        "from metarl_envs.registry import SIMULATED\n"
        "for family in (cls() for cls in SIMULATED.values()):\n"
        "    batch = BatchedEnv(family, 1, 2, threads=2)\n"
        "    tasks = family.sample_tasks(np.random.default_rng(0), 1)\n"
        "    batch.reset(tasks, [np.random.default_rng(0)])\n"
        "    action = np.zeros((1, 2, family.action_dim))\n"
        "    action[0, 1] = np.nan\n"
        "    assert batch.step(action).diverged.tolist() == [[False, True]]\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_body_says_who_should_ship_it():
    with pytest.raises(FileNotFoundError, match=f"gymnasium {gymnasium.__version__} .*unicorn.xml"):
        load_model("unicorn.xml")


def test_importing_envs_imports_neither_torch_nor_metarl(run_python):
    result = run_python(
        "import sys, metarl_envs, metarl_envs.single, metarl_envs.vector\n"
        "print({'torch', 'metarl', 'OpenGL'} & {m.split('.')[0] for m in sys.modules})\n"
    )
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_training_does_not_import_rendering(run_python):
    result = run_python("import sys, metarl_envs\nprint('metarl_envs.rendering' in sys.modules)\n")
    assert (result.stdout, result.stderr) == ("False\n", "")


GYMNASIUMS = {
    "hopper-params": ("Hopper-v5", {}),
    "walker-params": ("Walker2d-v5", {}),
    "half-cheetah-params": ("HalfCheetah-v5", {}),
    "ant-params": (
        "Ant-v5",
        {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0},
    ),
}


@pytest.mark.parametrize("name", GYMNASIUMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_body_whose_factors_are_1_is_gymnasiums(name, seed):
    """Same seed, same actions: observations, rewards and the end of an episode."""
    gym_id, settings = GYMNASIUMS[name]
    family = SIMULATED[name](horizon=1000)
    ours = TaskEnv(family, task=np.ones(family.task_dim))
    theirs = gymnasium.make(gym_id, disable_env_checker=True, **settings)
    np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    x = theirs.unwrapped.data.qpos[:1]
    for action in actions_of(ours, 300, seed):
        observation, reward, terminated, *_ = ours.step(action)
        before = x.item()
        seen, expected, ended, _, info = theirs.step(action)
        np.testing.assert_array_equal(observation, seen)
        if name == "ant-params":  # Ant-v5 reads the torso's place before the last physics step
            expected += (x.item() - before) / family.dt - info["x_velocity"]
        assert reward == pytest.approx(expected, abs=1e-12)
        assert terminated == ended
        if terminated:
            break
    assert terminated or name not in ("hopper-params", "walker-params")  # those two fell


@pytest.mark.parametrize("name", GYMNASIUMS)
def test_a_task_scales_the_body(name):
    """Two tasks at once, against the engine's own single simulations of scaled models."""
    family = SIMULATED[name](horizon=30)
    batch = BatchedEnv(family, 2, 1, threads=2)
    tasks = family.sample_tasks(np.random.default_rng(1), 2)
    batch.reset(tasks, [np.random.default_rng(m) for m in range(2)])
    start = batch.simulator.state.copy()
    actions = np.random.default_rng(2).uniform(-1, 1, (8, 2, 1, family.action_dim))
    for action in actions:
        batch.step(action)
    for m, task in enumerate(tasks):
        model = copy.deepcopy(load_model(family.xml))
        columns = dict(zip(family.task_fields, task, strict=True))
        for field, values in (
            ("mass", model.body_mass),
            ("damping", model.dof_damping),
            ("inertia", model.body_inertia),
            ("friction", model.geom_friction),
        ):
            own = [factor for column, factor in columns.items() if column.startswith(field)]
            assert len(own) == np.count_nonzero(values) > 0
            values[values != 0] *= own
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:] = start.qpos[m], start.qvel[m]
        for action in actions:
            data.ctrl[:] = family.control(action[m, 0])
            mujoco.mj_step(model, data, family.frame_skip)
        np.testing.assert_array_equal(batch.simulator.state.qpos[m], data.qpos)
    assert not np.allclose(batch.simulator.state.qpos[0], batch.simulator.state.qpos[1], atol=0.01)


@pytest.mark.parametrize("name", GYMNASIUMS)
def test_another_tasks_reset_leaves_a_body_alone(name):
    family = SIMULATED[name](horizon=30)
    tasks = family.sample_tasks(np.random.default_rng(1), 3)
    actions = np.random.default_rng(2).uniform(-1, 1, (4, 2, 1, family.action_dim))
    finals = []
    for interrupted in (False, True):
        batch = BatchedEnv(family, 2, 1)
        batch.reset(tasks[:2], [np.random.default_rng(m) for m in range(2)])
        for action in actions:
            batch.step(action)
            if interrupted:
                rngs = [np.random.default_rng(9), np.random.default_rng(9)]
                batch.reset(tasks[[2, 1]], rngs, mask=np.array([True, False]))
        finals.append(batch.simulator.state.qpos[1].copy())
    np.testing.assert_array_equal(*finals)


def test_factors_are_powers_of_their_base():
    family = SIMULATED["walker-params"](exponent_range=(-2.0, 1.0), damping_base=1.3)
    tasks = family.sample_tasks(np.random.default_rng(0), 2000)
    is_damping = np.array([name.startswith("damping") for name in family.task_fields])
    for columns, base in ((is_damping, 1.3), (~is_damping, 1.5)):
        exponents = np.log(tasks[:, columns]) / np.log(base)
        assert -2.0 <= exponents.min() < -1.99
        assert 0.99 < exponents.max() <= 1.0
        assert exponents.mean() == pytest.approx(-0.5, abs=0.02)
    correlation = np.corrcoef(tasks.T) - np.eye(family.task_dim)
    assert np.abs(correlation).max() < 0.12  # each number has a factor of its own


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"exponent_range": (1.0, 1.0)}, "exponent_range"),
        ({"damping_base": 1.0}, "damping_base"),
        ({"observation": "rllab"}, "observation gymnasium"),
        ({"velocity_of": "centre-of-mass"}, "velocity_of torso"),
    ],
)
def test_unsound_random_dynamics_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        SIMULATED["half-cheetah-params"](**settings)


def test_a_factor_must_be_positive():
    family = SIMULATED["hopper-params"]()
    with pytest.raises(ValueError, match="positive"):
        TaskEnv(family, task=np.zeros(family.task_dim)).reset()
