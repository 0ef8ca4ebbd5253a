"""Supervised meta-learning: algorithms 1 and 2 of Finn et al. 2017 with Adam as the outer step."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.adapt import Rates, adapt
from metarl.core.algorithms import InnerAlgorithm, InnerConfig, inner_rates, split_rates
from metarl.core.compile import Compiled, Traced
from metarl.core.outer.adam import AdamConfig, AdamState, adam_step
from metarl.core.params import Params, flatten, require_like, tree_map, unflatten
from metarl.core.processes import World
from metarl.core.task_map import TaskMap, sum_of_products
from metarl.runtime.errors import UserError
from metarl.runtime.scores import Evaluation
from metarl.runtime.seeding import Purpose
from metarl.supervised.evaluate import Judged, SupervisedEvaluationConfig, SupervisedProtocol
from metarl.supervised.losses import Criterion, Model, apart_from_each_other
from metarl.supervised.task_data import Batch, Draw, Episode, Source

Array = NDArray[np.floating]

EVALUATION_CHUNK = 50  # held-out tasks at once, where training takes no fewer


@dataclass(frozen=True)
class SupervisedInnerConfig(InnerConfig):
    """The inner loop of supervised models.

    Args:
        algorithm: a row of ``metarl.core.algorithms``.
        reduction: what the inner rate is of: the mean loss over all support examples, or the sum
            over classes of each one's mean, as in the code of Finn et al. 2017, whose rates are
            smaller by the number of ways.
    """

    algorithm: Literal["maml", "fomaml", "reptile", "anil", "meta-sgd"] = "maml"
    reduction: Literal["mean", "class-sum"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm == "reptile" and self.steps == 0:
            raise ValueError("inner.steps should be at least 1 for reptile")


@dataclass(frozen=True)
class SupervisedConfig:
    """Everything that one meta-update depends on.

    Args:
        tasks: M, tasks per iteration.
        shots: K, support examples of a task (of every class).
        queries: query examples of a task (of every class).
        distinct_tasks: training tasks that there are, over and over, a multiple of ``tasks``; null
            for ever new ones.
        inner: the inner loop.
        outer: the outer step.
    """

    tasks: Annotated[int, Ge(1)] = 25
    shots: Annotated[int, Ge(1)] = 10
    queries: Annotated[int, Ge(1)] = 10
    distinct_tasks: Annotated[int, Ge(1)] | None = None
    inner: SupervisedInnerConfig = field(default_factory=SupervisedInnerConfig)
    outer: AdamConfig = field(default_factory=AdamConfig)

    def __post_init__(self) -> None:
        if self.distinct_tasks is not None and self.distinct_tasks % self.tasks:
            raise ValueError(
                f"distinct_tasks should be a multiple of tasks, got {self.distinct_tasks} and "
                f"{self.tasks}"
            )


class SupervisedLearner:
    """Owns the meta-parameters and turns iterations into better ones.

    Args:
        config: settings of the meta-update.
        evaluation: settings of ``evaluate``.
        source: the distribution over tasks.
        criterion: loss and score.
        ways: classes of a task; None in regression.
        model: the model as a function of its parameters.
        sees_batches: its outputs for one input depend on the others (batch norm).
        observe_task: append the task's parameters to the inputs (the oracle).
        meta: initial meta-parameters: theta, and learned rates if the algorithm has them.
        algorithm: choices of the inner loop.
        adapted: names of the parameters that the inner loop moves.
        task_map: evaluates per-task functions over the tasks of this process.
        world: the processes that share the tasks.
        seed: of everything random.
        device: where it all runs.
    """

    def __init__(
        self,
        *,
        config: SupervisedConfig,
        evaluation: SupervisedEvaluationConfig,
        source: Source,
        criterion: Criterion,
        ways: int | None,
        model: Model,
        sees_batches: bool,
        observe_task: bool,
        meta: Params,
        algorithm: InnerAlgorithm,
        adapted: Sequence[str],
        task_map: TaskMap,
        world: World,
        seed: int,
        device: str,
    ):
        self.config = config
        self._like = meta
        self._meta = flatten(meta)  # one vector: one kernel of Adam, not one per parameter
        self._adam = AdamState.of(self._meta)
        self._source = source
        self._criterion = criterion
        self._model = model
        self._sees_batches = sees_batches
        self._observe_task = observe_task
        self._algorithm = algorithm
        self._adapted = adapted
        self._loss_scale = ways if ways and config.inner.reduction == "class-sum" else 1
        # The whole meta-update as one program, where no task is on another thread or process.
        in_one = task_map.chunk_size >= config.tasks and world.size == 1 and device == "cpu"
        self._task_map = TaskMap(task_map.chunk_size) if in_one else task_map
        program = Compiled if task_map.compiled else Traced
        self._update = program(self._meta_update) if in_one else self._meta_update
        self._world = world
        self._seed = seed
        self._device = device
        self._protocol = SupervisedProtocol(
            evaluation,
            source,
            criterion,
            config.inner.alpha,
            config.shots,
            config.queries,
            1 / ways if ways else None,
            self._prepare,
            TaskMap(min(task_map.chunk_size, EVALUATION_CHUNK), task_map.threads),
            world,
        )
        source.require(self._draw(0))

    # --- the paper's algorithm box, top to bottom

    def iterate(self, iteration: int) -> dict[str, float]:
        """One meta-update (Finn et al. 2017, algorithm 2); returns its metrics.

        Raises:
            UserError: the loss or its gradient is not finite; nothing has changed then.
        """
        began = time.perf_counter()
        theta, adam, norm, value = self._update(self._meta, self._adam, self.episodes(iteration))
        _, loss, score = value.tolist()
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise UserError(
                f"iteration {iteration}: the loss is {loss:g} and the norm of its gradient "
                f"{norm:g}; start again with a smaller inner.rate or outer.learning_rate"
            )
        # What is evaluated is one and the same in all processes, as theta is.
        self._meta, average = self._world.leading(torch.stack([theta, adam.average]))
        self._adam = adam._replace(average=average)
        metrics = {"loss/after": loss, f"{self._criterion.measure}/after": score}
        seconds = time.perf_counter() - began
        return metrics | {"outer/gradient_norm": float(norm), "seconds/iteration": seconds}

    def _meta_update(
        self, theta: Tensor, adam: AdamState, episodes: Episode
    ) -> tuple[Tensor, AdamState, Tensor, Tensor]:
        """Adam's step along the meta-gradient: the new theta [P] and state of Adam, the norm of the
        gradient, and the mean of ``objective``, [3].
        """
        value, gradient = self._task_map.mean_and_grad(self.objective, {"meta": theta}, episodes)
        theta, adam = adam_step(theta, gradient["meta"], adam, self.config.outer)
        return theta, adam, torch.linalg.vector_norm(gradient["meta"]), value

    def objective(self, meta: Params, task: Episode) -> Tensor:
        """Of one task: what the outer step descends on, loss and score on the query data, [3]."""
        support, query = task
        theta, rates = self._theta_and_rates(meta["meta"], self.config.inner.alphas)
        if self._algorithm.displacement:  # no query set: adapt to all there is
            support = Batch(*(torch.cat(pair) for pair in zip(support, query, strict=True)))
        batches = [support] * len(rates)
        phi = adapt(self._inner_loss, theta, rates, batches, self._algorithm.first_order)
        outputs = self._model(phi, query.inputs)
        loss = self._criterion.loss(outputs, query.targets)
        descended = loss
        if self._algorithm.displacement:
            # Its gradient is (theta - phi) / alpha (Nichol et al. 2018, section 3).
            moved = {n: (p - phi[n]).detach() / self.config.inner.alpha for n, p in theta.items()}
            descended = sum_of_products(theta, moved)
        score = self._criterion.score(outputs, query.targets)
        return torch.stack([descended, loss.detach(), score.detach()])

    # --- its parts

    def episodes(self, iteration: int) -> Episode:
        """The training data of this process's tasks."""
        return self._prepare(*self._source.draw(self._draw(iteration)))

    def _inner_loss(self, params: Params, batch: Batch) -> Tensor:
        outputs = self._model(params, batch.inputs)
        return self._criterion.loss(outputs, batch.targets) * self._loss_scale

    def _theta_and_rates(
        self, meta: Tensor, alphas: Sequence[float]
    ) -> tuple[Params, Sequence[Rates]]:
        theta, learned = split_rates(unflatten(meta, self._like))
        return theta, inner_rates(self._adapted, alphas, learned, self.config.inner.rate)

    def _draw(self, iteration: int) -> Draw:
        config = self.config
        if config.distinct_tasks is not None:
            iteration %= config.distinct_tasks // config.tasks
        return Draw(
            self._seed,
            Purpose.TRAIN_TASKS,
            iteration,
            config.tasks,
            config.shots,
            config.queries,
            share=self._world.share(config.tasks),
        )

    def _prepare(self, tasks: Array, episodes: Episode) -> Episode:
        """Episodes on the device, and with the tasks beside the inputs for the oracle."""
        if self._observe_task:
            told = torch.as_tensor(tasks, dtype=episodes.support.inputs.dtype)[:, None]
            episodes = Episode(*(_beside_inputs(batch, told) for batch in episodes))
        return tree_map(lambda x: x.to(self._device), episodes)

    # --- what the trainer asks for

    def score(self, metrics: Mapping[str, float]) -> float:
        """How good an iteration was, higher is better: theta on its tasks, not the average."""
        score = metrics[f"{self._criterion.measure}/after"]
        return score if self._criterion.higher_is_better else -score

    def evaluate(self, iteration: int) -> Evaluation:
        """Adapt the average of theta to the held-out tasks, which are the same at every call; theta
        stays as it is.
        """
        return self._protocol.run(self._judge)

    def _judge(self, task: Episode, alphas: Sequence[float]) -> Judged:
        support, query = task
        phi, rates = self._theta_and_rates(self._adam.average, alphas)
        outputs = [self._outputs(phi, task)]
        for rate in rates:
            phi = adapt(self._inner_loss, phi, [rate], [support], first_order=True)
            outputs.append(self._outputs(phi, task))
        scores = {
            kind: torch.stack([self._criterion.score(o[kind], query.targets) for o in outputs])
            for kind in outputs[0]
        }
        return Judged(scores, torch.stack([next(iter(o.values())) for o in outputs]))

    def _outputs(self, phi: Params, task: Episode) -> dict[str, Tensor]:
        """Outputs for the query data by kind; the first one is what counts."""
        support, query = task
        together = self._model(phi, query.inputs)
        if not self._sees_batches:
            return {"": together}
        apart = apart_from_each_other(self._model, phi, support.inputs, query.inputs)
        return {"": apart, "transductive": together}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides its settings."""
        adam = self._adam
        # Where nothing is averaged it is theta itself, which a file then has once.
        average = adam.average if self.config.outer.average_decay else self._meta
        return {
            "meta": unflatten(self._meta.cpu(), self._like),
            "adam": {
                **{name: x.cpu() for name, x in adam._asdict().items()},
                "average": average.cpu(),
                "step": int(adam.step),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the parameters are not those of this model."""
        require_like(state["meta"], self._like)
        self._meta = flatten({name: state["meta"][name] for name in self._like}).to(self._meta)
        names = [name for name in AdamState._fields if name != "step"]
        vectors = {name: x for name, x in state["adam"].items() if name != "step"}
        require_like(vectors, dict.fromkeys(names, self._meta))
        vectors = {name: x.to(self._meta) for name, x in vectors.items()}
        step = self._adam.step.new_tensor(float(state["adam"]["step"]))
        self._adam = AdamState(**vectors, step=step)


def _beside_inputs(batch: Batch, tasks: Tensor) -> Batch:
    told = tasks.expand(-1, batch.inputs.shape[1], -1)
    return batch._replace(inputs=torch.cat([batch.inputs, told], -1))
