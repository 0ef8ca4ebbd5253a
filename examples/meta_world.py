"""Meta-World's ML1 and ML10 (Yu et al. 2019): ``python meta_world.py [reach-v3 | ML10]``.

Meta-World 3.1 asks for an older MuJoCo than metarl has, but runs on it with the patch below. Give
it a virtual environment of its own:

    pip install -c constraints.txt -e .  &&  pip install --no-deps metaworld==3.1.1

The evaluation is the published one: 40 test goals, 10 episodes for one inner step, then episodes of
the policy's mean actions (10; published: 3); an episode succeeds if ``info["success"]`` is 1 at any
of its 500 env steps.
"""

import sys
from dataclasses import dataclass
from functools import cached_property

import gymnasium
import numpy as np

import metarl
from metarl_envs import GymFamily

WELD = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0]


def reset_mocap_welds(env):
    """Set the welds as Meta-World does; it does not know that MuJoCo 4 has 12 numbers of one."""
    import mujoco

    model = env.model
    for i in np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_WELD):
        model.eq_data[i, : len(WELD)] = WELD


class AnyEnvironment(gymnasium.Env):
    """One of a benchmark's environments at a time; each is made when it is first chosen.

    Args:
        classes: the environments by name.
        goals: the goals of each environment.
    """

    def __init__(self, classes, goals):
        self.classes, self.goals = list(classes.values()), goals
        self.environments = {}
        self.choose(0, 0)
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space

    def choose(self, environment, goal):
        if environment not in self.environments:
            self.environments[environment] = self.classes[environment]()
        self.env = self.environments[environment]
        self.env.set_task(self.goals[environment][goal])

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)

    def step(self, action):
        return self.env.step(action)


@dataclass(frozen=True, kw_only=True)
class MetaWorld(GymFamily):
    """A benchmark's tasks; a task is the number of the environment, and that of its goal.

    Args:
        benchmark: ML10, or the name of an environment for its ML1.
        test: draw the benchmark's test tasks and not those of training.
        seed: seed of the benchmark's goals.
    """

    horizon: int = 500
    timeout: float = 300.0
    benchmark: str = "reach-v3"
    test: bool = False
    seed: int = 0

    task_fields = ("environment", "goal")

    @cached_property
    def tables(self):
        """Names and classes of the environments, and the goals of each."""
        import metaworld

        if self.benchmark == "ML10":
            benchmark = metaworld.ML10(seed=self.seed)
        else:
            benchmark = metaworld.ML1(self.benchmark, seed=self.seed)
        classes, tasks = benchmark.train_classes, benchmark.train_tasks
        if self.test:
            classes, tasks = benchmark.test_classes, benchmark.test_tasks
        names = list(classes)
        return classes, [[t for t in tasks if t.env_name == name] for name in names]

    def make(self):
        from metaworld.sawyer_xyz_env import SawyerMocapBase

        SawyerMocapBase.reset_mocap_welds = reset_mocap_welds
        return AnyEnvironment(*self.tables)

    def sample_tasks(self, rng, n):
        _, goals = self.tables
        environment = rng.integers(len(goals), size=n)
        goal = [rng.integers(len(goals[e])) for e in environment]
        return np.stack([environment, goal], axis=1).astype(float)

    def set_task(self, env, task):
        env.choose(*task.astype(int))


def main(benchmark="reach-v3", **settings):
    run = metarl.train(
        {
            "env": {"family": MetaWorld, "benchmark": benchmark},
            "policy": {"hidden_sizes": [64, 64], "activation": "tanh"},
            "tasks": 20,
            "trajectories": 10,
            "inner.rate": 0.1,
            "iterations": 100,
            "evaluation": {"inner_steps": 1},
            "workers": 2,
        },
        settings,
    )
    protocol = {"tasks": 40, "trajectories": 10, "mean_actions": True, "inner_steps": 1}
    for row in run.evaluate({**protocol, "env": {"test": True, "horizon": 500}}).rows:
        print(
            f"after {row.inner_steps} inner steps: success {row.success:.3f}, return {row.mean:.1f}"
        )
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
