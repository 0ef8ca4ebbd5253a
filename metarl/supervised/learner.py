"""Supervised meta-learning: algorithms 1 and 2 of Finn et al. 2017 with any outer step."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from metarl.core.compile import Compiled, Traced
from metarl.core.outer.step import OuterStep, State
from metarl.core.params import (
    Functional,
    Params,
    flatten,
    like_tree,
    plain_tree,
    require_like,
    tree_map,
    unflatten,
)
from metarl.core.task_map import TaskMap
from metarl.runtime.errors import UserError
from metarl.runtime.scores import Evaluation
from metarl.runtime.seeding import Purpose
from metarl.supervised.evaluate import ModelEvaluator, SupervisedEvaluationConfig
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.multi_step import multi_step_weights
from metarl.supervised.objective import LOSS, OptionalTensor, TaskObjective, objective_of
from metarl.supervised.task_data import Source, TaskData, TaskRequest

EVALUATION_CHUNK = 50  # held-out tasks at once, where training takes no fewer


@dataclass(frozen=True)
class SupervisedConfig:
    """The settings that one meta-update depends on.

    Args:
        tasks: M, tasks per iteration.
        shots: K, support examples per task (per class in classification).
        queries: query examples per task (per class in classification).
        distinct_tasks: size of a fixed pool of training tasks, cycled through, a multiple of tasks;
            null: new tasks every iteration.
        inner: the inner loop.
        outer: the outer step, ``name: NAME``, and any of its settings.
    """

    tasks: Annotated[int, Ge(1)] = 25
    shots: Annotated[int, Ge(1)] = 10
    queries: Annotated[int, Ge(1)] = 10
    distinct_tasks: Annotated[int, Ge(1)] | None = None
    inner: SupervisedInnerConfig = field(default_factory=SupervisedInnerConfig)
    outer: dict[str, Any] = field(default_factory=lambda: {"name": "adam"})

    def __post_init__(self) -> None:
        if self.distinct_tasks is not None and self.distinct_tasks % self.tasks:
            raise ValueError(
                f"distinct_tasks should be a multiple of tasks, got {self.distinct_tasks} and "
                f"{self.tasks}"
            )


class SupervisedLearner:
    """Owns the meta-parameters and improves them once per iteration.

    Args:
        config: settings of the meta-update.
        source: the distribution over tasks.
        task: loss and score of one task.
        outer: the outer step.
        meta: initial meta-parameters: theta, and learned rates if the algorithm has them.
        task_map: evaluates per-task functions over the tasks of this process.
        evaluation: settings of ``evaluate``.
        seed: root of all random numbers.
    """

    def __init__(
        self,
        config: SupervisedConfig,
        source: Source,
        task: TaskObjective,
        outer: OuterStep,
        task_map: TaskMap,
        evaluation: SupervisedEvaluationConfig,
        seed: int,
    ):
        self.config = config
        self.outer = outer
        self.theta = flatten(task.like)  # one vector: one kernel of Adam, not one per parameter
        self.outer_state = outer.init(self.theta)
        self.task = task
        self.source = source
        self.processes = task_map.processes
        # The whole meta-update as one program, where no task is on another thread or process.
        in_one = (
            outer.is_traceable
            and task_map.chunk_size >= config.tasks
            and self.processes.size == 1
            and task.predictor.device == "cpu"
        )
        self._task_map = TaskMap(task_map.chunk_size) if in_one else task_map
        program = Compiled if task_map.compiled else Traced

        def update_of(task: TaskObjective) -> Callable[..., Any]:
            update = partial(self._meta_update, task)
            return program(update) if in_one else update

        self._update = update_of(task)
        # A program of its own: what is differentiated is no number that it could be told.
        self._first_order_update = update_of(replace(task, inner=task.inner.of_first_order()))
        self._iteration = 0
        self._seed = seed
        self._protocol = ModelEvaluator(
            evaluation,
            source,
            task.predictor,
            config.inner.alpha,
            config.shots,
            config.queries,
            TaskMap(
                min(task_map.chunk_size, EVALUATION_CHUNK),
                task_map.threads,
                processes=self.processes,
            ),
        )
        source.require(self._draw(0))

    # --- the paper's algorithm box, top to bottom

    def iterate(self, iteration: int) -> dict[str, float]:
        """One meta-update (Finn et al. 2017, algorithm 2); returns its metrics.

        Raises:
            UserError: the loss or its gradient is not finite; nothing has changed then.
        """
        began = time.perf_counter()
        self._iteration = iteration
        early = iteration < self.config.inner.first_order_iterations
        update = self._first_order_update if early else self._update
        theta, state, stats, values = update(
            self.theta, self.outer_state, self.episodes(iteration), self._weights(iteration)
        )
        loss, score, *residual = values[LOSS:].tolist()
        stats = {name: float(x) for name, x in stats.items()}
        _require_finite(iteration, loss, stats.get("gradient_norm", 0.0))
        self.theta, self.outer_state = tree_map(self.processes.leading, (theta, state))
        measure = self.task.predictor.criterion.measure
        return {
            "loss/after": loss,
            f"{measure}/after": score,
            **dict(zip(["inner/residual"], residual, strict=False)),  # of implicit algorithms
            **{f"outer/{name}": value for name, value in stats.items()},
            "seconds/iteration": time.perf_counter() - began,
        }

    def _meta_update(
        self,
        task: TaskObjective,
        theta: Tensor,
        state: State,
        episodes: TaskData,
        weights: OptionalTensor,
    ) -> tuple[Tensor, State, dict[str, Any], Tensor]:
        """One outer step from theta [P]: the new theta and state, what to log, and the mean of
        ``TaskObjective.values`` before it.
        """
        needs_kl, iteration = self.outer.needs_kl, self._iteration
        objective = objective_of(
            task, self._task_map, theta, episodes, needs_kl, iteration, weights
        )
        history: list[Tensor] = []

        def loss_gradient(theta: Tensor) -> tuple[Tensor, Tensor]:
            values, gradient = objective.loss_gradient(theta)
            history.append(values)
            return values, gradient

        recorder = replace(objective, loss_gradient=loss_gradient)
        theta, state, stats = self.outer.step(recorder, theta, state)
        return theta, state, dict(stats), history[0]

    # --- its parts

    def episodes(self, iteration: int) -> TaskData:
        """The training data of this process's tasks."""
        return self.task.predictor.prepare(*self.source.draw(self._draw(iteration)))

    def _weights(self, iteration: int) -> OptionalTensor:
        """The weights of the query losses after every inner step, [n]; (): the last one's alone."""
        inner = self.config.inner
        if iteration >= inner.multi_step_iterations or inner.steps == 0:
            return ()
        weights = multi_step_weights(inner.steps, iteration / inner.multi_step_iterations)
        return weights.to(self.theta)

    def _draw(self, iteration: int) -> TaskRequest:
        config = self.config
        if config.distinct_tasks is not None:
            iteration %= config.distinct_tasks // config.tasks
        return TaskRequest(
            self._seed,
            Purpose.TRAIN_TASKS,
            iteration,
            config.tasks,
            config.shots,
            config.queries,
            share=self.processes.share(config.tasks),
        )

    # --- what the trainer asks for

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the score of an iteration, higher is better: theta's, not an average's."""
        criterion = self.task.predictor.criterion
        score = metrics[f"{criterion.measure}/after"]
        return score if criterion.higher_is_better else -score

    def evaluate(self, iteration: int) -> Evaluation:
        """Adapt to the held-out tasks, which are the same at every call; theta stays as it is."""
        meta = self.outer.evaluated(self.theta, self.outer_state)
        return self._protocol.run(partial(self.task.judge, meta))

    @property
    def network(self) -> Functional:
        """The model as a function of its parameters."""
        model = self.task.predictor.model
        assert isinstance(model, Functional)
        return model

    @property
    def evaluated_meta(self) -> Params:
        """The meta-parameters that evaluations use: theta, or the outer step's average of it."""
        return unflatten(self.outer.evaluated(self.theta, self.outer_state), self.task.like)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs besides its settings."""
        return {
            "meta": unflatten(self.theta.cpu(), self.task.like),
            "outer": plain_tree(self.outer_state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise ValueError when the parameters are not those of this model."""
        like = self.task.like
        require_like(state["meta"], like)
        outer = like_tree(state["outer"], self.outer_state)
        self.theta = flatten({name: state["meta"][name] for name in like}).to(self.theta)
        self.outer_state = outer


def _require_finite(iteration: int, loss: float, norm: float) -> None:
    if not (math.isfinite(norm) and math.isfinite(loss)):
        raise UserError(
            f"iteration {iteration}: the loss is {loss:g} and the norm of its gradient {norm:g}; "
            "start again with a smaller inner.rate or outer.learning_rate"
        )
