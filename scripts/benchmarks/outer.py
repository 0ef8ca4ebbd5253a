"""The outer step's parts and their arithmetic, for the benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from metarl.core.outer.step import Objective
from metarl.core.outer.trust_region import TrustRegion
from metarl.core.params import flatten, tree_map
from metarl.experiment.build import make_rl_learner
from metarl.experiment.schema import RLExperiment
from metarl.rl.learner import MetaRLLearner
from metarl.rl.losses import Transitions

Function = Callable[..., Any]


def parts(
    learner: MetaRLLearner, support: Sequence[Transitions], query: Transitions
) -> dict[str, Callable[[], object]]:
    """Return the outer step and its parts as functions without arguments."""
    objective, theta, step = (
        learner.objective(support, query, 1),
        flatten(learner.meta),
        learner.outer,
    )
    assert isinstance(step, TrustRegion)
    _, gradient = objective.loss_gradient(theta)
    return {
        "meta-gradient": partial(objective.loss_gradient, theta),
        "curvature product": partial(step.curvature_product(objective, theta), gradient),
        "loss of the line search": partial(objective.loss_and_kl, theta),
        "TRPO update": partial(step.step, objective, theta, step.init(theta)),
    }


def watch(
    learner: MetaRLLearner,
    wrap: Callable[[str, Function], Function],
    begin: Callable[..., None] = lambda *data: None,
) -> None:
    """Call ``begin`` with the data of each later objective of the learner, and replace each of the
    objective's functions f by ``wrap(name, f)``.
    """
    make = learner.objective

    def make_and_watch(
        support: Sequence[Transitions], query: Transitions, iteration: int = 0
    ) -> Objective:
        begin(tuple(support), query)
        objective = make(support, query, iteration)
        functions: dict[str, Any] = {n: f for n, f in vars(objective).items() if callable(f)}
        wrappers: dict[str, Any] = {n: wrap(n, f) for n, f in functions.items()}
        return replace(objective, **wrappers)

    learner.objective = make_and_watch  # type: ignore[method-assign]


class FlopMeter:
    """Counts the floating-point operations of a learner's outer objectives.

    The counter sees neither other threads nor compiled programs: it is shown one task of a learner
    that has neither, once per function, and the tasks and calls of the other one are multiplied in.
    """

    def __init__(self, config: RLExperiment, learner: MetaRLLearner):
        self._plain = make_rl_learner(replace(config, threads=1, chunk_size=1, compile=False))
        self._data: Any = None  # of the newest objective: batches of support and query
        self._flop: dict[str, int] = {}  # of a call of its functions
        self._calls: list[tuple[str, Function]] = []
        watch(learner, self._wrap, self._begin)

    def _begin(self, *data: Any) -> None:
        self._data, self._flop = data, {}

    def _wrap(self, name: str, function: Function) -> Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls.append((name, partial(_call, args, kwargs)))
            return function(*args, **kwargs)

        return call

    def read(self) -> int:
        """Floating-point operations since the last reading."""
        calls, self._calls = self._calls, []
        for name, call in calls:
            if name not in self._flop:
                self._flop[name] = self._count(name, call)
        return sum(self._flop[name] for name, _ in calls)

    def _count(self, name: str, call: Function) -> int:
        support, query = tuple(map(_of_a_task, self._data[0])), _of_a_task(self._data[1])
        function = getattr(self._plain.objective(support, query), name)
        with FlopCounterMode(display=False) as counter:
            call(function)
        return int(counter.get_total_flops() * len(self._data[1].mask))


def _call(args: Any, kwargs: Any, function: Function) -> Any:
    return function(*args, **kwargs)


def _of_a_task(batch: Transitions) -> Transitions:
    """Return one task with the mean number of env steps, as padding is not work."""
    env_steps = max(1, round(float(batch.mask.sum(1).mean())))
    return tree_map(lambda x: x[:1, :env_steps], batch)
