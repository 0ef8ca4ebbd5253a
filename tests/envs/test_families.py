"""Each family's own numbers: tasks, rewards, termination and constants."""

import numpy as np
import pytest

from metarl_envs import BatchedEnv, State, Transition
from metarl_envs.registry import SIMULATED

DIRECTIONS = ("half-cheetah-direction", "ant-forward-backward")
RANGES = {
    "point-navigation": (-0.5, 0.5),
    "half-cheetah-velocity": (0.0, 2.0),
    "ant-direction": (0.0, 2 * np.pi),
    "ant-velocity": (0.0, 3.0),
}


def tasks_of(name, n=4000):
    return SIMULATED[name]().sample_tasks(np.random.default_rng(0), n)


@pytest.mark.parametrize("name", RANGES)
def test_tasks_are_uniform_in_their_range(name):
    low, high = RANGES[name]
    tasks = tasks_of(name)
    assert ((tasks >= low) & (tasks <= high)).all()
    quarters = np.quantile(tasks, [0.0, 0.25, 0.5, 0.75, 1.0], axis=0)
    expected = np.linspace(low, high, 5)[:, None]
    np.testing.assert_allclose(quarters, expected + 0 * quarters, atol=0.03 * (high - low))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_plus_or_minus_one_equally_often(name):
    tasks = tasks_of(name)
    assert set(tasks.ravel()) == {-1.0, 1.0}
    assert abs(tasks.mean()) < 0.05


def test_ant_goals_are_uniform_over_a_disc():
    x, y = tasks_of("ant-goal").T
    radius = np.hypot(x, y)
    assert radius.max() <= 3.0
    # Half of the area is within 3 / sqrt(2); all quadrants are alike.
    assert np.mean(radius < 3 / np.sqrt(2)) == pytest.approx(0.5, abs=0.03)
    assert np.mean((x > 0) & (y > 0)) == pytest.approx(0.25, abs=0.03)


def test_ranges_are_constants_of_the_family():
    rng = np.random.default_rng(0)
    tasks = SIMULATED["half-cheetah-velocity"](velocity_range=(5.0, 6.0)).sample_tasks(rng, 50)
    assert ((tasks >= 5.0) & (tasks <= 6.0)).all()
    tasks = SIMULATED["ant-goal"](goal_radius=0.1).sample_tasks(rng, 50)
    assert np.hypot(*tasks.T).max() <= 0.1


# The torso moves by (.05, .1) m in .05 s; the control is .5 on every actuator, so that its squared
# norm is 1.5 on the cheetah's 6 and 2 on the ant's 8. (family, constants, task, reward).
REWARDS = [
    ("point-navigation", {}, [0.35, 0.5], -0.5),
    ("point-navigation", {"squared": True}, [0.35, 0.5], -0.25),
    ("point-navigation", {"reward_radius": 0.6}, [0.35, 0.5], 1 - 0.5 / 0.6),
    ("point-navigation", {"reward_radius": 0.4}, [0.35, 0.5], 0.0),
    ("half-cheetah-velocity", {}, [1.5], -0.5 - 0.075),
    ("half-cheetah-velocity", {}, [0.0], -1.0 - 0.075),
    ("half-cheetah-velocity", {"frame_skip": 1}, [1.5], -3.5 - 0.075),  # v is 5 m/s
    ("half-cheetah-velocity", {"control_cost": 1.0}, [1.5], -0.5 - 1.5),
    ("half-cheetah-direction", {}, [1.0], 1.0 - 0.075),
    ("half-cheetah-direction", {}, [-1.0], -1.0 - 0.075),
    ("ant-direction", {}, [0.0], 1.0 - 1.0 + 1.0),
    ("ant-direction", {}, [np.pi / 2], 2.0 - 1.0 + 1.0),
    ("ant-direction", {}, [np.arctan2(0.8, 0.6)], 2.2 - 1.0 + 1.0),
    (
        "ant-direction",
        {"frame_skip": 1, "timestep": 0.02, "control_cost": 0.005, "alive_bonus": 0.05},
        [0.0],
        2.5 - 0.01 + 0.05,
    ),
    ("ant-forward-backward", {}, [1.0], 1.0 - 1.0 + 1.0),
    ("ant-forward-backward", {}, [-1.0], -1.0 - 1.0 + 1.0),
    ("ant-velocity", {}, [3.0], -2.0 + 1.0 - 0.01 + 0.05),
    ("ant-velocity", {}, [0.0], -1.0 + 1.0 - 0.01 + 0.05),
    ("ant-goal", {}, [2.0, -1.0], -(1.95 + 1.1) - 0.2),
    # An env step of .008 s; a torso at .1 m has fallen, and earns no bonus.
    ("hopper-params", {}, [1.0], 6.25 - 0.00075),
    ("hopper-params", {"healthy_z": (0.05, 2.0)}, [1.0], 6.25 + 1.0 - 0.00075),
    ("walker-params", {}, [1.0], 6.25 - 0.0015),
    ("half-cheetah-params", {}, [1.0], 1.0 - 0.15),
    ("ant-params", {}, [1.0], 1.0 - 1.0),
    ("ant-params", {"healthy_z": None}, [1.0], 1.0 - 1.0 + 1.0),
]


@pytest.mark.parametrize(("name", "constants", "task", "expected"), REWARDS)
def test_rewards(name, constants, task, expected):
    family = SIMULATED[name](**constants)
    nq, nv = (2, 0) if name == "point-navigation" else (family.model.nq, family.model.nv)
    before, after = (State(np.zeros((1, nq)), np.zeros((1, nv))) for _ in range(2))
    after.qpos[0, :2] = 0.05, 0.1
    control = np.full((1, family.action_dim), 0.5)
    if name.startswith("half-cheetah") and "frame_skip" in constants:
        assert family.dt == 0.01
    step = Transition(before, after, control, np.array([task]), np.zeros((1, 0)))
    reward = family.reward(step)
    np.testing.assert_allclose(reward, [expected], rtol=1e-12)


def test_every_family_has_a_hand_computed_reward():
    missing = set(SIMULATED) - {name for name, *_ in REWARDS}
    assert not missing, f"add rows to REWARDS with rewards computed by hand for {missing}"


@pytest.mark.parametrize(
    ("name", "constants", "dt"),
    [
        ("half-cheetah-velocity", {}, 0.05),
        ("half-cheetah-velocity", {"frame_skip": 1}, 0.01),
        ("ant-direction", {}, 0.05),
        ("ant-direction", {"frame_skip": 1, "timestep": 0.02}, 0.02),
    ],
)
def test_time_per_env_step(name, constants, dt):
    family = SIMULATED[name](**constants)
    assert family.dt == pytest.approx(dt, rel=1e-12)
    assert family.render_fps == round(1 / dt)


def test_paper_profile_simulates_the_time_it_says():
    """By the simulator's own clock."""
    for name, constants, seconds in [
        ("half-cheetah-velocity", {"frame_skip": 1}, 2.0),
        ("ant-goal", {"frame_skip": 1, "timestep": 0.02}, 4.0),
    ]:
        family = SIMULATED[name](**constants)
        batch = BatchedEnv(family, 1, 1)
        batch.reset(np.zeros((1, family.task_dim)), [np.random.default_rng(0)])
        for _ in range(family.horizon):
            batch.step(np.zeros((1, 1, family.action_dim)))
        assert batch.simulator.batch.time[0] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("z", "terminated"), [(0.19, True), (0.2, False), (0.75, False), (1.0, False), (1.01, True)]
)
def test_ant_terminates_outside_its_healthy_height(z, terminated):
    qpos = np.zeros((1, 15))
    qpos[0, 2] = z
    state = State(qpos, np.zeros((1, 14)))
    for name in ("ant-direction", "ant-forward-backward", "ant-velocity"):
        assert SIMULATED[name]().terminated(state, np.zeros((1, 1))).tolist() == [terminated]
        unlimited = SIMULATED[name](healthy_z=None)
        assert unlimited.terminated(state, np.zeros((1, 1))).tolist() == [False]
    assert SIMULATED["ant-goal"]().terminated(state, np.zeros((1, 2))).tolist() == [False]


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("point-navigation", {"goal_range": (0.5, -0.5)}),
        ("point-navigation", {"goal_range": (0.5,)}),
        ("point-navigation", {"goal_range": (-np.inf, 0.5)}),
        ("point-navigation", {"max_step": 0.0}),
        ("point-navigation", {"reward_radius": 0.0}),
        ("point-navigation", {"goal_tolerance": -0.1}),
        ("half-cheetah-velocity", {"velocity_range": (2.0, 0.0)}),
        ("half-cheetah-velocity", {"frame_skip": 0}),
        ("half-cheetah-velocity", {"frame_skip": 1.5}),
        ("half-cheetah-velocity", {"timestep": 0.0}),
        ("half-cheetah-direction", {"control_cost": -0.1}),
        ("half-cheetah-direction", {"reset_noise": -0.1}),
        ("ant-direction", {"healthy_z": (1.0, 0.2)}),
        ("ant-forward-backward", {"alive_bonus": np.nan}),
        ("ant-velocity", {"velocity_range": (3.0, 3.0)}),
        ("ant-goal", {"goal_radius": 0.0}),
        ("hopper-params", {"healthy_z": (1.0, 0.5)}),
        ("hopper-params", {"healthy_state": (1.0, 0.5)}),
        ("walker-params", {"healthy_angle": (1.0, 1.0)}),
    ],
)
def test_bad_constants_are_refused_by_name(name, constants):
    (key,) = constants
    with pytest.raises(ValueError, match=key):
        SIMULATED[name](**constants)
