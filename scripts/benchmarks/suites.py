"""Suites: each measures a limit and the numbers compared with it, in every repeat.

All is called once before, and peak memory read then: it is that of the work, without the limits'.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.budget import budget
from benchmarks.cases import Settings, describe, experiment
from benchmarks.limits import BareGymnasium, Physics, matrix_peak, seconds_of
from benchmarks.outer import FlopMeter, parts
from benchmarks.results import Limit, Numbers, Result, peak_memory
from metarl.core.params import tree_map
from metarl.core.task_map import TaskMap
from metarl.experiment.build import make_rl_learner, make_supervised_learner
from metarl.experiment.configs import config_files, read_layers
from metarl.experiment.registries import make_family
from metarl.experiment.schema import RLExperiment, SupervisedExperiment, plain
from metarl.experiment.settings import parse
from metarl.rl.adaptation import of_every_task
from metarl.rl.sampler import Stream
from metarl.runtime.errors import UserError
from metarl.runtime.seeding import Purpose
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.objective import Task

STREAM = Stream(0, Purpose.TRAIN_ROLLOUT)
LOCK_STEP = "lock-step physics, env steps/s"
PEAK = "matrix peak, GFLOP/s"
OF_AN_ITERATION = ("adaptation", "update", "iteration")


def run(suite: str, case: str, settings: Settings) -> Result:
    """Measure in this process, which should have done nothing else before."""
    config = experiment(case, settings)
    return Result(suite, case, describe(config), SUITES[suite](config, settings))


def physics(config: RLExperiment, settings: Settings) -> Numbers:
    """Lock-step physics against whole trajectories in C++, and environments against the former."""
    numbers, bare = Numbers(), Physics(config)
    bare.env_step()
    add_memory(numbers)
    for _ in range(settings.repeats):
        limit = None
        if bare.exists:
            open_loop = Limit("open-loop physics, env steps/s", bare.open_loop())
            limit = Limit(LOCK_STEP, bare.lock_step())
            numbers.add(*open_loop)
            numbers.add(*limit, open_loop)
        numbers.add("environments, env steps/s", bare.env_step(), limit)
    return numbers


def sampler(config: RLExperiment, settings: Settings) -> Numbers:
    """The training sampler against lock-step physics, a whole evaluation against the sampler."""
    numbers, learner = Numbers(), make_rl_learner(config)
    tasks = make_family(config.env).sample_tasks(np.random.default_rng(0), config.tasks)
    phi = of_every_task(learner.meta, config.tasks)

    def collect() -> int:
        sampler = learner.adaptation.sampler
        trajectories = sampler.collect(phi, tasks, config.trajectories, STREAM)
        return int(trajectories.mask.sum())

    def evaluate() -> float:
        evaluation = learner.evaluate(0)
        return float(evaluation.trajectories * evaluation.lengths.sum())

    collect()
    evaluate()
    add_memory(numbers)
    bare = Physics(config)
    for _ in range(settings.repeats):
        limit = Limit(LOCK_STEP, bare.lock_step()) if bare.exists else None
        if limit:
            numbers.add(*limit)
        speed = Limit("sampler, env steps/s", per_second(collect))
        numbers.add(*speed, limit)
        numbers.add("evaluation, env steps/s", per_second(evaluate), speed)
    return numbers


def workers(config: RLExperiment, settings: Settings) -> Numbers:
    """Environments in worker processes, without and with the policy, against the same ones bare."""
    numbers, learner, family = Numbers(), make_rl_learner(config), make_family(config.env)
    tasks = family.sample_tasks(np.random.default_rng(0), config.tasks)
    phi = of_every_task(learner.meta, config.tasks)
    batch = family.environments(config.tasks, config.trajectories, config.workers)
    size = (family.horizon, *batch.shape)
    actions = np.random.default_rng(0).integers(2, size=size).astype(float)  # pushes of a cart

    def step() -> int:
        steps = 0
        batch.reset(tasks, [np.random.default_rng(task) for task in range(config.tasks)])
        for action in actions:
            steps += int(batch.alive.sum())
            batch.step(action)
        return steps

    def collect() -> int:
        sampler = learner.adaptation.sampler
        return int(sampler.collect(phi, tasks, config.trajectories, STREAM).mask.sum())

    step()
    collect()
    add_memory(numbers)
    bare = BareGymnasium(config)
    for _ in range(settings.repeats):
        limit = Limit("bare gymnasium, env steps/s", bare())
        numbers.add(*limit)
        numbers.add("environments, env steps/s", per_second(step), limit)
        numbers.add("sampler, env steps/s", per_second(collect), limit)
    batch.close()
    return numbers


def update(config: RLExperiment, settings: Settings) -> Numbers:
    """The outer step and its parts against matrix products of as many operations."""
    numbers, learner = Numbers(), make_rl_learner(config)
    meter = FlopMeter(config, learner)
    tasks = make_family(config.env).sample_tasks(np.random.default_rng(0), config.tasks)
    rounds, _ = learner.adaptation.sample_and_adapt(
        learner.meta, tasks, config.inner.alphas, config.trajectories, STREAM
    )
    work = parts(learner, [r.batch for r in rounds[:-1]], rounds[-1].batch)
    for part in work.values():
        part()
    add_memory(numbers)
    for _ in range(settings.repeats):
        peak = Limit(PEAK, matrix_peak(config.threads, config.device))
        numbers.add(*peak)
        for name, part in work.items():
            meter.read()
            seconds = seconds_of(part)
            gflop = meter.read() / 1e9
            numbers.add(f"{name}, s", seconds, Limit("at the matrix peak, s", gflop / peak.value))
            numbers.add(f"{name}, GFLOP/s", gflop / seconds, peak)
    return numbers


def iteration(config: RLExperiment, settings: Settings) -> Numbers:
    """Whole iterations, and their parts as the learner's metrics say.

    The limit: every env step at the speed of lock-step physics, and every operation of the update
    at the matrix peak; nothing else.
    """
    numbers, learner = Numbers(), make_rl_learner(config)
    meter = FlopMeter(config, learner)
    learner.iterate(0)
    add_memory(numbers)
    bare = Physics(config)
    for number in range(1, settings.repeats + 1):
        meter.read()
        env_steps, metrics = learner.env_steps, learner.iterate(number)
        env_steps, gflop = learner.env_steps - env_steps, meter.read() / 1e9
        peak = Limit(PEAK, matrix_peak(config.threads, config.device))
        numbers.add(*peak)
        limits = {"update": Limit("at the matrix peak, s", gflop / peak.value)}
        if bare.exists:
            limit = Limit(LOCK_STEP, bare.lock_step())
            numbers.add(*limit)
            limits["sampling"] = Limit("at the physics limit, s", env_steps / limit.value)
        both = sum(limit.value for limit in limits.values())
        limits["iteration"] = Limit("both at their limits, s", both)
        for part in ("sampling", "adaptation", "update", "iteration"):
            numbers.add(f"{part}, s", metrics[f"seconds/{part}"], limits.get(part))
    return numbers


def algorithms(config: RLExperiment, settings: Settings) -> Numbers:
    """Iterations of every algorithm of policies in configs/algorithms, against MAML's."""
    numbers, learners = Numbers(), {"maml": make_rl_learner(config)}
    for name in config_files("algorithms"):
        try:
            overlaid = parse([plain(config), *read_layers(f"algorithms/{name}")])
        except UserError:  # of supervised models
            continue
        assert isinstance(overlaid, RLExperiment)
        learners[name] = make_rl_learner(overlaid)
    for learner in learners.values():
        learner.iterate(0)
    add_memory(numbers)
    for number in range(1, settings.repeats + 1):
        limits: dict[str, Limit] = {}
        for name, learner in learners.items():
            metrics = learner.iterate(number)
            for part in OF_AN_ITERATION:
                measurement = f"{name}, {part}, s", metrics[f"seconds/{part}"]
                numbers.add(*measurement, limits.get(part))
                limits.setdefault(part, Limit(*measurement))
    return numbers


def supervised(config: SupervisedExperiment, settings: Settings) -> Numbers:
    """Whole iterations of supervised learning: data, meta-gradient, Adam; compiled and not."""
    numbers = Numbers()
    arrangements = {"not compiled": replace(config, compile=False)}
    if config.device == "cpu":
        # A program for one task runs on every thread; a tiny network does best in one program.
        by_default = 1 if config.model.name == "conv" else config.tasks
        chunk_size = settings.chunk_size or by_default
        arrangements["compiled"] = replace(config, compile=True, chunk_size=chunk_size)
    learners = {kind: make_supervised_learner(c) for kind, c in arrangements.items()}
    mflop = flop_of_task(make_supervised_learner(arrangements["not compiled"])) / 1e6
    numbers.add("meta-gradient of a task, MFLOP", mflop)
    for kind, learner in learners.items():
        numbers.add(f"{kind}, first iteration, s", seconds_of(partial(learner.iterate, 0)))
    add_memory(numbers)
    for _ in range(settings.repeats):
        peak = Limit(PEAK, matrix_peak(config.threads, config.device))
        numbers.add(*peak)
        at_peak = 1e3 * peak.value / mflop  # tasks/s
        for kind, learner in learners.items():
            speed = config.tasks * iterations_per_second(learner, settings.seconds)
            numbers.add(f"{kind}, tasks/s", speed, Limit("at the matrix peak, tasks/s", at_peak))
            numbers.add(
                f"{kind}, iterations/s",
                speed / config.tasks,
                Limit("at the matrix peak, iterations/s", at_peak / config.tasks),
            )
            numbers.add(f"{kind}, GFLOP/s", speed * mflop / 1e3, peak)
    return numbers


SUITES: dict[str, Callable[[Any, Settings], Numbers]] = {
    "physics": physics,
    "sampler": sampler,
    "workers": workers,
    "update": update,
    "iteration": iteration,
    "budget": budget,
    "size": iteration,
    "algorithms": algorithms,
    "supervised": supervised,
}


def add_memory(numbers: Numbers) -> None:
    numbers.add("peak memory, MB", peak_memory())
    if torch.cuda.is_initialized() and (memory := torch.cuda.max_memory_allocated()):
        numbers.add("peak memory of the GPU, MB", memory / 2**20)


def per_second(work: Callable[[], float]) -> float:
    """Return the number that ``work`` returns, per second."""
    began = time.perf_counter()
    number = work()
    return number / (time.perf_counter() - began)


def iterations_per_second(learner: SupervisedLearner, seconds: float) -> float:
    """Return iterations per second, measured for ``seconds`` or longer."""
    learner.iterate(0)
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < seconds:
        count += 1
        learner.iterate(count)
    return count / (time.perf_counter() - began)


def flop_of_task(learner: SupervisedLearner) -> int:
    """Floating-point operations of one task's meta-gradient."""
    task_map = TaskMap()  # the counter does not see other threads
    first = tree_map(itemgetter(slice(1)), learner.episodes(0))
    meta = {"meta": learner.theta}
    with FlopCounterMode(display=False) as counter:
        task_map.mean_and_grad(learner.task.values, meta, Task(first))
    return int(counter.get_total_flops())
