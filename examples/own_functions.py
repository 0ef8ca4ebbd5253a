"""Few-shot regression on a family of functions of one's own: random Fourier series."""

from dataclasses import dataclass

import numpy as np

import metarl
from metarl.supervised import RegressionFamily


@dataclass(frozen=True, kw_only=True)
class FourierSeries(RegressionFamily):
    """y = sum over k of a_k sin(k x) + b_k cos(k x), with normal coefficients of size 1 / k.

    Args:
        terms: highest frequency.
    """

    terms: int = 2
    x_range: tuple[float, float] = (-np.pi, np.pi)

    @property
    def task_fields(self):
        return [f"{name}_{k + 1}" for name in "ab" for k in range(self.terms)]

    def sample_tasks(self, rng, n):
        size = 1 / np.arange(1, self.terms + 1)
        return rng.standard_normal((n, 2 * self.terms)) * np.tile(size, 2)

    def targets(self, tasks, inputs):
        angle = inputs * np.arange(1, self.terms + 1)  # [n, S, terms]
        waves = np.concatenate([np.sin(angle), np.cos(angle)], -1)
        return (waves * tasks[:, None]).sum(-1, keepdims=True)


def main(**settings):
    return metarl.train(
        {
            "data.source": FourierSeries,
            "shots": 10,
            "queries": 10,
            "model.hidden_sizes": [80, 80],
            "inner.steps": 3,
            "inner.rate": 0.02,
            "iterations": 1000,
        },
        settings,
    )


if __name__ == "__main__":
    main()
