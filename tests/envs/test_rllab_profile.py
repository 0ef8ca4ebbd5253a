"""The rllab profile, judged by single MuJoCo simulations of the same states and controls."""

import mujoco
import numpy as np
import pytest

from metarl_envs import BatchedEnv
from metarl_envs.planar import PlanarChain
from metarl_envs.registry import SIMULATED
from metarl_envs.simulator import TORSO, load_model

BODY = {
    "frame_skip": 1,
    "velocity_of": "centre-of-mass",
    "observation": "rllab",
    "position_noise": 0.01,
}
ANT = BODY | {
    "timestep": 0.02,
    "crouched": True,
    "solimp": (0.8, 0.8, 0.01),
    "contact_cost": 5e-4,
    "control_cost": 5e-3,
    "alive_bonus": 0.05,
}
PROFILES = {
    "half-cheetah-velocity": BODY,
    "half-cheetah-direction": BODY,
    "ant-velocity": ANT,
    "ant-forward-backward": ANT,
}
TASKS, ENVS, STEPS = 3, 2, 60


def family_of(name, **constants):
    return SIMULATED[name](**(PROFILES[name] | constants))


def start(family, threads=1):
    env = BatchedEnv(family, TASKS, ENVS, threads)
    tasks = family.sample_tasks(np.random.default_rng(7), TASKS)
    return env, env.reset(tasks, [np.random.default_rng(m) for m in range(TASKS)])


def actions_of(family, steps=STEPS):
    """Policies of std 1, whose actions are often clipped."""
    return np.random.default_rng(1).standard_normal((steps, TASKS, ENVS, family.action_dim))


def single_simulation(family, qpos, qvel):
    """One engine with the state and all that follows from it."""
    data = mujoco.MjData(family.model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    judge(family.model, data)
    return data


def judge(model, data):
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    mujoco.mj_rnePostConstraint(model, data)


def observation_of(name, data):
    centre = data.subtree_com[TORSO]
    if name.startswith("half-cheetah"):
        return np.concatenate([data.qpos[1:], data.qvel, centre])
    forces = np.clip(data.cfrc_ext, -1, 1).ravel()
    return np.concatenate([data.qpos, data.qvel, forces, data.xmat[TORSO], centre])


def reward_of(name, data, action, task):
    control, velocity = np.clip(action, -1, 1), data.subtree_linvel[TORSO, 0]
    motion = {
        "half-cheetah-velocity": -abs(velocity - task),
        "half-cheetah-direction": task * velocity,
        "ant-velocity": 1 - abs(velocity - task),
        "ant-forward-backward": task * velocity,
    }[name]
    if name.startswith("half-cheetah"):
        return motion - 0.05 * (control @ control)
    contact = np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
    return motion - 0.005 * (control @ control) - 0.0005 * contact + 0.05


@pytest.mark.parametrize("name", PROFILES)
def test_every_env_step_is_that_of_a_single_simulation(name):
    family = family_of(name)
    env, observation = start(family)
    assert observation.shape[-1] == family.observation_dim == (20 if "cheetah" in name else 125)
    singles = {}
    for m, n in np.ndindex(TASKS, ENVS):
        state, i = env.simulator.state, m * ENVS + n
        singles[m, n] = single_simulation(family, state.qpos[i], state.qvel[i])
        expected = observation_of(name, singles[m, n])
        np.testing.assert_allclose(observation[m, n], expected, rtol=0, atol=1e-12)
    touched = 0.0
    for action in actions_of(family):
        alive, step = env.alive, env.step(action)
        for (m, n), data in singles.items():
            if not alive[m, n]:
                continue
            data.ctrl[:] = np.clip(action[m, n], -1, 1)
            mujoco.mj_step(family.model, data)
            judge(family.model, data)
            expected = observation_of(name, data)
            np.testing.assert_allclose(step.observation[m, n], expected, rtol=0, atol=1e-9)
            reward = reward_of(name, data, action[m, n], env.tasks[m, 0])
            assert step.reward[m, n] == pytest.approx(reward, abs=1e-9)
            touched = max(touched, np.abs(data.cfrc_ext).max())
    assert touched > 1 or name.startswith("half-cheetah")  # contacts were tested


@pytest.mark.parametrize("name", PROFILES)
def test_threads_and_company_change_no_bit(name):
    family = family_of(name)
    (one, first), (three, other) = start(family), start(family, threads=3)
    alone = BatchedEnv(family, 1, ENVS)
    last = alone.reset(one.tasks[1:2], [np.random.default_rng(1)])
    np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(first[1:2], last)
    for action in actions_of(family):
        steps = [one.step(action), three.step(action), alone.step(action[1:2])]
        for x, y, z in zip(*steps, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(x[1:2], z)


def test_centre_of_mass_of_half_cheetah_is_the_engines():
    model = load_model("half_cheetah.xml")
    chain = PlanarChain.of(model)
    rng = np.random.default_rng(0)
    qpos, qvel = rng.normal(scale=2, size=(2, 50, model.nq))
    for i in range(len(qpos)):
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        judge(model, data)
        position, velocity = chain.position(qpos[[i]]), chain.velocity(qpos[[i]], qvel[[i]])
        np.testing.assert_allclose(position[0], data.subtree_com[TORSO], rtol=0, atol=1e-12)
        np.testing.assert_allclose(velocity[0], data.subtree_linvel[TORSO], rtol=0, atol=1e-12)


def test_a_body_that_is_no_planar_chain_is_refused():
    with pytest.raises(ValueError, match="not a chain of links in the x-z plane"):
        PlanarChain.of(load_model("ant.xml"))


@pytest.mark.parametrize("name", PROFILES)
def test_reset_noise_is_gaussian_of_rllabs_size(name):
    family = family_of(name)
    state = family.initial_state(np.random.default_rng(0), np.zeros((4000, family.task_dim)))
    for noise, std in ((state.qpos - family.start, 0.01), (state.qvel, 0.1)):
        np.testing.assert_allclose(noise.std(axis=0), std, rtol=0.06)
        np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 * std / np.sqrt(4000))
        assert np.abs(noise).max() > 3 * std  # no uniform noise


def test_the_ant_begins_crouched_on_soft_contacts():
    family = family_of("ant-velocity")
    assert family.start[2] == 0.55
    np.testing.assert_array_equal(np.abs(family.start[[8, 10, 12, 14]]), 1)  # ankles, rad
    np.testing.assert_array_equal(family.start[[7, 9, 11, 13]], 0)  # hips
    np.testing.assert_array_equal(family.model.geom_solimp[:, :3], [[0.8, 0.8, 0.01]] * 14)
    np.testing.assert_array_equal(family.model.geom_solref, [[0.02, 1]] * 14)
    assert SIMULATED["ant-velocity"]().start[2] == 0.75
    as_list = family_of("ant-velocity", solimp=[0.8, 0.8, 0.01])
    np.testing.assert_array_equal(as_list.model.geom_solimp, family.model.geom_solimp)


@pytest.mark.parametrize("name", PROFILES)
def test_control_is_in_units_of_the_actuators_limit(name):
    low, high = family_of(name).control_range
    np.testing.assert_array_equal([low, high], [-np.ones_like(low), np.ones_like(high)])


def test_no_sensor_is_added_where_nothing_is_read():
    assert SIMULATED["ant-velocity"]().model.nsensor == 0
    assert family_of("half-cheetah-velocity").model.nsensor == 0


@pytest.mark.parametrize("name", ["half-cheetah-velocity", "ant-velocity"])
def test_a_diverged_simulation_is_observed_in_its_last_good_state(name):
    family = family_of(name)
    env, _ = start(family)
    for action in actions_of(family, 20):
        before = env.step(action)
    broken = np.zeros((TASKS, ENVS, family.action_dim))
    broken[1, 0] = np.nan
    step = env.step(broken)
    assert step.diverged.tolist() == [[False] * 2, [True, False], [False] * 2]
    assert np.isfinite(step.observation).all()
    state = family.model.nq + family.model.nv - (name == "half-cheetah-velocity")
    np.testing.assert_array_equal(step.observation[1, 0, :state], before.observation[1, 0, :state])
    centre = slice(-3, None)
    np.testing.assert_array_equal(step.observation[1, 0, centre], before.observation[1, 0, centre])


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("half-cheetah-velocity", {"velocity_of": "head"}),
        ("half-cheetah-velocity", {"observation": "pixels"}),
        ("half-cheetah-velocity", {"position_noise": -0.1}),
        ("ant-velocity", {"contact_cost": -1.0}),
        ("ant-velocity", {"solimp": (0.8, 0.8)}),
        ("ant-velocity", {"solimp": (0.8, 0.0, 0.1)}),
        ("ant-velocity", {"solimp": (2.0, 3.0, 4.0)}),
        ("ant-velocity", {"solimp": 0.8}),
    ],
)
def test_bad_constants_are_refused_by_name(name, constants):
    (key,) = constants
    with pytest.raises(ValueError, match=key):
        SIMULATED[name](**constants)
