"""Where the seconds of an iteration go: its parts, each without those inside it."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import metarl.rl.adaptation
from benchmarks.cases import Settings
from benchmarks.limits import synchronize
from benchmarks.outer import Function, watch
from benchmarks.results import Numbers
from metarl.core.outer.trust_region import TrustRegion
from metarl.experiment.build import make_rl_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.adaptation import Adaptation
from metarl.rl.learner import MetaRLLearner
from metarl.rl.sampler import Sampler
from metarl.runtime.sinks import JsonlSink
from metarl_envs import BatchedEnv
from metarl_envs.point import PointSimulator
from metarl_envs.simulator import MujocoSimulator

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("physics", MujocoSimulator, "step"),
    ("physics", PointSimulator, "step"),
    ("observation and reward", BatchedEnv, "step"),
    ("initial states", BatchedEnv, "reset"),
    ("rest of the sampler", Sampler, "collect"),
    ("baseline and GAE", metarl.rl.adaptation, "make_batch"),
    ("adaptation", Adaptation, "step"),
    ("rest of the update", TrustRegion, "step"),
    ("logging", JsonlSink, "log"),
    ("rest of the iteration", MetaRLLearner, "iterate"),
)
OF_PROBLEM = {
    "loss_gradient": "surrogate gradient",
    "kl_gradient": "curvature products",
    "kl_hvp": "exact curvature products",
    "loss_and_kl": "line search",
}


class Stopwatch:
    """Seconds and calls by part, of what runs on one thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inside = [0.0]  # seconds of wrapped calls in each that is running

    def wrap(self, part: str, function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize()
            whole = time.perf_counter() - began
            self.seconds[part] += whole - self._inside.pop()
            self.calls[part] += 1
            self._inside[-1] += whole
            return result

        return call


# Patched from outside: the library has nothing in it for the benchmark's sake.
@contextmanager
def timed_parts(stopwatch: Stopwatch) -> Iterator[None]:
    """Time the parts' functions with the stopwatch until the end of the block."""
    with ExitStack() as stack:
        for part, owner, name in PARTS:
            function = stopwatch.wrap(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def budget(config: RLExperiment, settings: Settings) -> Numbers:
    """Seconds and calls of every part, in as many iterations as there are repeats.

    With one thread: on several, parts run at the same time.
    """
    numbers, stopwatch, learner = Numbers(), Stopwatch(), make_rl_learner(config)
    sampler = learner.adaptation.sampler
    sampler.act = stopwatch.wrap("policy forward", sampler.act)
    watch(learner, lambda name, f: stopwatch.wrap(OF_PROBLEM.get(name, name), f))
    with tempfile.TemporaryDirectory() as folder, timed_parts(stopwatch):
        sink = JsonlSink(Path(folder, "metrics.jsonl"))
        for number in range(settings.repeats + 1):
            stopwatch.seconds.clear()
            stopwatch.calls.clear()
            sink.log(number, learner.iterate(number))
            for part, seconds in stopwatch.seconds.items():
                if number > 0:  # the first one warms
                    numbers.add(f"{part}, s", seconds)
                    numbers.add(f"{part}, calls", stopwatch.calls[part])
        sink.close()
    return numbers
