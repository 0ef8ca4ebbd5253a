"""CartPole with a pole of random length: any gymnasium environment becomes a family of tasks."""

from dataclasses import dataclass

import metarl
from metarl_envs import GymFamily


@dataclass(frozen=True, kw_only=True)
class PoleLength(GymFamily):
    """Balance a pole of random length.

    Args:
        length_range: half of the pole's length, m.
    """

    length_range: tuple[float, float] = (0.25, 2.0)

    env_id = "CartPole-v1"
    task_fields = ("length",)

    def sample_tasks(self, rng, n):
        return rng.uniform(*self.length_range, (n, 1))

    def set_task(self, env, task):
        env.unwrapped.length = task[0]
        env.unwrapped.polemass_length = task[0] * env.unwrapped.masspole


def main(**settings):
    return metarl.train(
        {
            "env.family": PoleLength,
            "policy.name": "categorical-mlp",
            "inner.rate": 0.5,
            "iterations": 5,
            "workers": 2,
        },
        settings,
    )


if __name__ == "__main__":
    main()
