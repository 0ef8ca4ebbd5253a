"""All that the benchmark knows of the outer step's insides: its parts, and their arithmetic."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from metarl.core.outer.trust_region import Problem, finite_difference_hvp, trust_region_step
from metarl.core.params import flatten, tree_map
from metarl.experiment.build import make_rl_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.learner import MetaRLLearner
from metarl.rl.losses import Batch
from metarl.rl.objective import OuterConfig

Function = Callable[..., Any]


def parts(
    learner: MetaRLLearner, support: Sequence[Batch], query: Batch, config: OuterConfig
) -> dict[str, Callable[[], object]]:
    """The outer step and what it is made of, each ready to be called."""
    problem, theta = learner.outer_problem(support, query), flatten(learner.meta)
    _, gradient = problem.loss_gradient(theta)
    if config.hvp == "finite-difference":
        product = finite_difference_hvp(problem.kl_gradient, theta, config)
    else:
        product = partial(problem.kl_hvp, theta)
    return {
        "meta-gradient": partial(problem.loss_gradient, theta),
        "curvature product": partial(product, gradient),
        "loss of the line search": partial(problem.loss_and_kl, theta),
        "TRPO update": partial(trust_region_step, problem, theta, config),
    }


def watch(
    learner: MetaRLLearner,
    wrap: Callable[[str, Function], Function],
    begin: Callable[..., None] = lambda *data: None,
) -> None:
    """From now on ``begin`` sees the data of the learner's every problem, and ``wrap(name, f)``
    takes the place of every function f of it.
    """
    make = learner.outer_problem

    def watched(support: Sequence[Batch], query: Batch) -> Problem:
        begin(tuple(support), query)
        problem = make(support, query)
        return problem._replace(**{n: wrap(n, f) for n, f in problem._asdict().items() if f})

    learner.outer_problem = watched  # type: ignore[method-assign]


class FlopMeter:
    """Counts the floating-point operations of a learner's outer problems.

    The counter sees neither other threads nor compiled programs: it is shown one task of a learner
    that has neither, once per function, and the tasks and calls of the other one are multiplied in.
    """

    def __init__(self, config: RLExperiment, learner: MetaRLLearner):
        self._plain = make_rl_learner(replace(config, threads=1, chunk_size=1, compile=False))
        self._data: Any = None  # of the newest problem: batches of support and query
        self._flop: dict[str, int] = {}  # of a call of its functions
        self._calls: list[tuple[str, Any]] = []
        watch(learner, self._counted, self._begin)

    def _begin(self, *data: Any) -> None:
        self._data, self._flop = data, {}

    def _counted(self, name: str, function: Function) -> Function:
        @wraps(function)
        def call(*args: Any) -> Any:
            self._calls.append((name, args))
            return function(*args)

        return call

    def read(self) -> int:
        """Floating-point operations since the last reading."""
        calls, self._calls = self._calls, []
        for name, args in calls:
            if name not in self._flop:
                self._flop[name] = self._count(name, args)
        return sum(self._flop[name] for name, _ in calls)

    def _count(self, name: str, args: Any) -> int:
        support, query = tuple(map(_of_a_task, self._data[0])), _of_a_task(self._data[1])
        function = getattr(self._plain.outer_problem(support, query), name)
        with FlopCounterMode(display=False) as counter:
            function(*args)
        return int(counter.get_total_flops() * len(self._data[1].mask))


def _of_a_task(batch: Batch) -> Batch:
    """One task with as many env steps as the mean one: padding is no work."""
    env_steps = max(1, round(float(batch.mask.sum(1).mean())))
    return tree_map(lambda x: x[:1, :env_steps], batch)
