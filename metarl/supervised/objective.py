"""Loss, KL and score of ONE task after adaptation, and the outer step's objective over all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.adapt import last
from metarl.core.inner_loop import InnerLoop
from metarl.core.outer.step import Objective
from metarl.core.params import Params, leading_size, tree_map, unflatten
from metarl.core.task_map import TaskMap, sum_of_products
from metarl.supervised.evaluate import TaskScores
from metarl.supervised.losses import Criterion, Model, apart_from_each_other
from metarl.supervised.task_data import Examples, TaskData

Array = NDArray[np.floating]

OptionalTensor: TypeAlias = Tensor | tuple[()]
"""A tensor, or the empty tuple in its place, which maps over tasks pass on."""


class Task(NamedTuple):
    """Data that the losses of one task depend on; of all tasks with M in front."""

    data: TaskData
    reference: OptionalTensor = ()  # query outputs before the update, where a KL is wanted
    weights: OptionalTensor = ()  # [n], of the query losses after every inner step; (): the last's


class AdaptedTask(NamedTuple):
    """One task after adaptation, for losses of an outer step's own."""

    model: Model
    theta: Params
    phi: Params
    support: Examples
    query: Examples


LOSS, SCORE, RESIDUAL = 2, 3, 4  # entries of ``TaskObjective.values``


@dataclass(frozen=True)
class Predictor:
    """A model, and the loss and score of its outputs.

    Args:
        model: the model as a function of its parameters.
        criterion: loss and score.
        ways: classes of a task; None in regression.
        sees_batches: its outputs for one input depend on the others (batch norm).
        observe_task: append the task's parameters to the inputs (the oracle).
        device: where it runs.
    """

    model: Model
    criterion: Criterion
    ways: int | None = None
    sees_batches: bool = False
    observe_task: bool = False
    device: str = "cpu"

    def loss(self, params: Params, batch: Examples) -> Tensor:
        return self.criterion.loss(self.model(params, batch.inputs), batch.targets)

    def sum_over_classes(self, params: Params, batch: Examples) -> Tensor:
        """The sum over classes of each one's mean loss, where all have as many examples."""
        return self.loss(params, batch) * (self.ways or 1)

    def prepare(self, tasks: Array, episodes: TaskData) -> TaskData:
        """Episodes on the device, and with the tasks beside the inputs for the oracle."""
        if self.observe_task:
            row = torch.as_tensor(tasks, dtype=episodes.support.inputs.dtype)[:, None]
            episodes = TaskData(*(_beside_inputs(batch, row) for batch in episodes))
        return tree_map(lambda x: x.to(self.device), episodes)

    def outputs(self, phi: Params, task: TaskData) -> dict[str, Tensor]:
        """Outputs for the query data by kind; the first one is what counts."""
        support, query = task
        together = self.model(phi, query.inputs)
        if not self.sees_batches:
            return {"": together}
        apart = apart_from_each_other(self.model, phi, support.inputs, query.inputs)
        return {"": apart, "transductive": together}


@dataclass(frozen=True)
class TaskObjective:
    """Losses and scores of one task as functions of the meta-parameters [P].

    Args:
        predictor: the model and its loss.
        inner: the inner loop.
        like: meta-parameters, for their names and shapes.
    """

    predictor: Predictor
    inner: InnerLoop
    like: Params

    def values(self, meta: Params, task: Task) -> Tensor:
        """Return one task's outer loss, KL, loss and score on the query data, [4].

        Of implicit algorithms [5]: how far phi is from stationary on the support data comes last.

        The outer loss is L(phi_n; query), or sum_k w_k L(phi_k; query) where the task has weights
        (multi-step loss, Antoniou et al. 2019, section 4). The others are of phi_n alone.

        Args:
            meta: ``{"meta": [P]}``.
        """
        (_, query), reference, weights = task
        theta, path = self._path(meta, task)
        phis = [*path] if isinstance(weights, Tensor) else [last(theta, path)]
        criterion, phi = self.predictor.criterion, phis[-1]
        after = [self.predictor.model(p, query.inputs) for p in phis]
        losses = [criterion.loss(o, query.targets) for o in after]
        outputs, loss = after[-1], losses[-1]
        outer_loss = loss
        if isinstance(weights, Tensor):
            outer_loss = (weights * torch.stack(losses)).sum()
        if self.inner.algorithm.parameter_difference:
            # Its gradient is (theta - phi) / alpha (Nichol et al. 2018, section 3).
            alpha = self.inner.config.alpha
            direction = {n: (p - phi[n]).detach() / alpha for n, p in theta.items()}
            outer_loss = sum_of_products(theta, direction)
        kl = loss.new_zeros(())
        if isinstance(reference, Tensor):
            kl = criterion.divergence(reference, outputs)
        score = criterion.score(outputs, query.targets)
        entries = [outer_loss, kl, loss.detach(), score.detach()]
        if self.inner.algorithm.implicit:
            entries.append(self.inner.residual(theta, phi, task.data.support))
        return torch.stack(entries)

    def kl(self, meta: Params, task: Task, hessian_epsilon: float | None = None) -> Tensor:
        """Return one task's KL alone, a scalar."""
        (_, query), reference, _ = task
        assert isinstance(reference, Tensor)
        _, phi = self._adapt(meta, task, hessian_epsilon)
        return self.predictor.criterion.divergence(
            reference, self.predictor.model(phi, query.inputs)
        )

    def own_loss(self, loss: Callable[[AdaptedTask], Tensor], meta: Params, task: Task) -> Tensor:
        """A loss of the outer step's own, of one task."""
        support, query = task.data
        theta, phi = self._adapt(meta, task)
        return loss(AdaptedTask(self.predictor.model, theta, phi, support, query))

    def query_outputs(self, meta: Params, task: TaskData) -> Tensor:
        """Outputs for the query data after adaptation."""
        _, phi = self._adapt(meta, Task(task))
        outputs: Tensor = self.predictor.model(phi, task.query.inputs)
        return outputs

    def judge(self, meta: Tensor, task: TaskData, alphas: Sequence[float]) -> TaskScores:
        """Adapt with these inner rates, and score the query data after every inner step."""
        support, query = task
        phi, rates = self.inner.split(unflatten(meta, self.like), alphas)
        inner = self.inner.around(phi)
        outputs = [self.predictor.outputs(phi, task)]
        for rate in rates:
            phi = inner.step(phi, rate, support)
            outputs.append(self.predictor.outputs(phi, task))
        score = self.predictor.criterion.score
        scores = {
            kind: torch.stack([score(o[kind], query.targets) for o in outputs])
            for kind in outputs[0]
        }
        return TaskScores(scores, torch.stack([next(iter(o.values())) for o in outputs]))

    def _adapt(
        self, meta: Params, task: Task, hessian_epsilon: float | None = None
    ) -> tuple[Params, Params]:
        """theta and phi of one task."""
        theta, path = self._path(meta, task, hessian_epsilon)
        return theta, last(theta, path)

    def _path(
        self, meta: Params, task: Task, hessian_epsilon: float | None = None
    ) -> tuple[Params, Iterator[Params]]:
        """theta of one task, and phi after every inner step."""
        support, query = task.data
        of_names = unflatten(meta["meta"], self.like)
        theta, rates = self.inner.split(of_names, self.inner.config.alphas)
        if self.inner.algorithm.parameter_difference:  # no query set: adapt to all there is
            support = Examples(*(torch.cat(pair) for pair in zip(support, query, strict=True)))
        return theta, self.inner.path(of_names, [support] * len(rates), hessian_epsilon)


def objective_of(
    task: TaskObjective,
    task_map: TaskMap,
    theta: Tensor,
    episodes: TaskData,
    needs_kl: bool,
    iteration: int,
    weights: OptionalTensor = (),
) -> Objective:
    """Return the outer step's objective: means over the tasks of one iteration.

    The KL is that of the outputs for the query data after and before the update. Products take all
    query data, whatever fraction is asked for: there are few.

    Args:
        theta: the flat meta-parameters [P] before the update.
        needs_kl: whether the outer step asks for the KL.
        weights: [n], of the query losses after every inner step; (): the last one's alone.
    """
    reference: OptionalTensor = ()
    if needs_kl:
        reference = task_map.map(lambda one: task.query_outputs({"meta": theta}, one), episodes)
    if isinstance(weights, Tensor):
        weights = weights.expand(leading_size(episodes), -1)
    data = Task(episodes, reference, weights)

    def kl_gradient(
        theta: Tensor, fraction: float = 1.0, hessian_epsilon: float | None = None
    ) -> Tensor:
        kl = partial(task.kl, hessian_epsilon=hessian_epsilon)
        return task_map.mean_and_grad(kl, {"meta": theta}, data)[1]["meta"]

    def loss_gradient(theta: Tensor) -> tuple[Tensor, Tensor]:
        values, gradient = task_map.mean_and_grad(task.values, {"meta": theta}, data)
        return values, gradient["meta"]

    def kl_hvp(theta: Tensor, v: Tensor, fraction: float = 1.0) -> Tensor:
        return task_map.hvp(task.kl, {"meta": theta}, data, {"meta": v})["meta"]

    def gradient_of(loss: Callable[[AdaptedTask], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
        values, gradient = task_map.mean_and_grad(
            partial(task.own_loss, loss), {"meta": theta}, data
        )
        return values, gradient["meta"]

    return Objective(
        lambda theta: task_map.mean(task.values, {"meta": theta}, data)[:2],
        loss_gradient,
        kl_gradient,
        kl_hvp,
        gradient_of,
        iteration,
        task.inner.algorithm.first_order,
    )


def _beside_inputs(batch: Examples, tasks: Tensor) -> Examples:
    rows = tasks.expand(-1, batch.inputs.shape[1], -1)
    return batch._replace(inputs=torch.cat([batch.inputs, rows], -1))
