"""Limits of the machine: physics without a policy, matrix products alone."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from metarl.experiment.registries import make_family
from metarl.experiment.schema import RLExperiment
from metarl_envs import BatchedEnv, TaskFamily
from metarl_envs.simulator import MujocoSimulator


class Physics:
    """All simulations of an iteration under the same random controls; speeds in env steps/s."""

    def __init__(self, config: RLExperiment):
        family = make_family(config.env)
        assert isinstance(family, TaskFamily)
        self.family = family
        self.env = BatchedEnv(self.family, config.tasks, config.trajectories, config.threads)
        self._rng = np.random.default_rng(0)
        self._sims = config.tasks * config.trajectories
        size = (self.family.horizon, self._sims, self.family.action_dim)
        self._controls = self._rng.uniform(*self.family.control_range, size)

    @property
    def exists(self) -> bool:
        """Return whether the family has a simulator."""
        return isinstance(self.env.simulator, MujocoSimulator)

    def open_loop(self) -> float:
        """Return env steps/s of one call into C++ for whole trajectories, without its states."""
        simulator = self._reset()
        skip = self.family.frame_skip  # type: ignore[attr-defined]
        controls = np.repeat(self._controls.transpose(1, 0, 2), skip, axis=1)
        return self._speed(lambda: simulator.batch.rollout(controls.shape[1], controls, record=()))

    def lock_step(self) -> float:
        """Return env steps/s of one call into C++ per env step, as any policy needs."""
        simulator = self._reset()
        control = simulator.batch.bind("ctrl")
        skip = self.family.frame_skip  # type: ignore[attr-defined]

        def run() -> None:
            for controls in self._controls:
                control[:] = controls
                simulator.batch.step(nstep=skip)

        return self._speed(run)

    def env_step(self) -> float:
        """Return env steps/s of the environments: physics, observations, rewards, terminations."""
        tasks, trajectories = self.env.shape
        rows = self.family.sample_tasks(self._rng, tasks)
        self.env.reset(rows, [np.random.default_rng(task) for task in range(tasks)])
        actions = self._controls.reshape(-1, tasks, trajectories, self.family.action_dim)
        actions = actions / self.family.action_scale
        steps, began = 0, time.perf_counter()
        for action in actions:
            steps += int(self.env.alive.sum())
            self.env.step(action)
        return steps / (time.perf_counter() - began)

    def _reset(self) -> MujocoSimulator:
        assert isinstance(self.env.simulator, MujocoSimulator)
        everyone = np.arange(self._sims)
        tasks = self.family.sample_tasks(self._rng, self._sims)
        self.env.simulator.reset(everyone, self.family.initial_state(self._rng, tasks), tasks)
        return self.env.simulator

    def _speed(self, run: Callable[[], object]) -> float:
        return self._sims * self.family.horizon / seconds_of(run)


class BareGymnasium:
    """A gymnasium family's environments in as many processes as workers, stepped by a loop."""

    def __init__(self, config: RLExperiment):
        self._workers, sims = config.workers, config.tasks * config.trajectories
        self._pool = ProcessPoolExecutor(
            config.workers,
            get_context("spawn"),
            initializer=_make_environments,
            initargs=(config.env, sims // config.workers),
        )
        self()

    def __call__(self) -> float:
        """Return env steps/s with random actions, and a reset after every episode."""
        began = time.perf_counter()
        steps = sum(self._pool.map(_step_environments, range(self._workers)))
        return steps / (time.perf_counter() - began)


_environments: list[Any] = []  # of this process


def _make_environments(constants: dict[str, Any], number: int) -> None:
    family = make_family(constants)
    for task in family.sample_tasks(np.random.default_rng(0), number):
        _environments.append(family.env(task))


def _step_environments(seed: int) -> int:
    """Take as many env steps as an episode may have in every environment; return their number."""
    horizon, count = _environments[0].spec.max_episode_steps, len(_environments)
    rng, space = np.random.default_rng(seed), _environments[0].action_space
    for env in _environments:
        env.reset(seed=seed)
    for actions in (space.start + rng.integers(space.n, size=(horizon, count))).tolist():
        for env, action in zip(_environments, actions, strict=True):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return int(horizon * count)


def matrix_peak(threads: int, device: str, size: int = 2048, products: int = 6) -> float:
    """GFLOP/s of float32 matrix products, one product per thread at a time."""
    a, b = torch.randn(2, size, size, device=device)

    def multiply(_: int) -> None:
        for _ in range(products):
            a @ b

    workers = threads if device == "cpu" else 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(multiply, range(workers)))  # warm
        seconds = seconds_of(lambda: list(pool.map(multiply, range(workers))))
    return workers * products * 2 * size**3 / seconds / 1e9


def seconds_of(action: Callable[[], Any]) -> float:
    """Seconds that ``action`` takes, with all that it started on a GPU."""
    synchronize()
    began = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
