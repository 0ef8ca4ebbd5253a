"""The inner loop with its settings: which parameters adapt, at which rates, differentiated how."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl.core.adapt import LossFn, Rates, adapt, inner_path, last
from metarl.core.algorithms import (
    ALGORITHMS,
    CONTEXT,
    InnerAlgorithm,
    InnerConfig,
    adapted_names,
    inner_rates,
    split_rates,
    with_rates,
)
from metarl.core.gradients import InnerGradient, by_differences, exact, first_order
from metarl.core.implicit import ProximalTerm, implicit_adapt, pulled_loss, residual
from metarl.core.params import Params


@dataclass(frozen=True)
class InnerLoop:
    """Adaptation of one task, the same for policies and supervised models.

    *Meta-parameters* are theta and, where the algorithm learns them (Meta-SGD, MAML++), the
    inner rates.

    Args:
        config: algorithm, rates and number of inner steps.
        loss: the inner loss of one task.
        names: names of the parameters that adapt.
        algorithm: the choices that the algorithm's name stands for.
        proximal: the pull towards theta, of implicit algorithms.
    """

    config: InnerConfig
    loss: LossFn
    names: tuple[str, ...]
    algorithm: InnerAlgorithm
    proximal: ProximalTerm = field(default_factory=ProximalTerm)

    @classmethod
    def of(
        cls,
        config: InnerConfig,
        loss: LossFn,
        names: Sequence[str],
        head: Sequence[str],
        proximal: ProximalTerm | None = None,
    ) -> "InnerLoop":
        """Return the inner loop of a model with the parameters ``names``.

        Args:
            head: prefixes of the names in its last layer, which ANIL adapts alone.

        Raises:
            ValueError: the algorithm adapts only the head and no parameter matches.
        """
        algorithm = ALGORITHMS[config.algorithm]
        inner_names = adapted_names(algorithm, names, head)
        return cls(config, loss, inner_names, algorithm, proximal or ProximalTerm())

    def of_first_order(self) -> "InnerLoop":
        """Return the same inner loop, which the outer step does not differentiate through."""
        return replace(self, algorithm=replace(self.algorithm, first_order=True))

    def meta_parameters(self, theta: Params) -> Params:
        """Return the initial meta-parameters around theta."""
        config = self.config
        return with_rates(self.algorithm, theta, self.names, config.rate, config.steps)

    def split(self, meta: Params, alphas: Sequence[float]) -> tuple[Params, list[Rates]]:
        """Return theta, and the rates of inner steps with inner rates ``alphas``.

        Context parameters are 0 whatever the meta-parameters say, so that no outer step moves them.
        """
        theta, learned_rates = split_rates(meta)
        if self.algorithm.context_only:
            theta = theta | {CONTEXT: torch.zeros_like(theta[CONTEXT])}
        kind = self.algorithm.learned_rates
        return theta, inner_rates(self.names, alphas, learned_rates, self.config.rate, kind)

    def adapt(
        self, meta: Params, support: Sequence[Any], hessian_epsilon: float | None = None
    ) -> Params:
        """Return phi after all inner steps of training, the last of ``path``."""
        theta, _ = self.split(meta, [])
        return last(theta, self.path(meta, support, hessian_epsilon))

    def path(
        self, meta: Params, support: Sequence[Any], hessian_epsilon: float | None = None
    ) -> Iterator[Params]:
        """Yield phi after every inner step of training, differentiable in the meta-parameters.

        Implicit algorithms yield the last phi alone.

        Args:
            support: data of one task, one batch per inner step.
            hessian_epsilon: take the Hessian of the inner loss in d phi / d theta by finite
                differences of this length; None: exactly. ANIL and CAVIA are always exact: the
                gradient of a head or a context costs less than two gradients of all parameters.
        """
        theta, rates = self.split(meta, self.config.alphas)
        if self.algorithm.implicit:
            return iter([implicit_adapt(self.loss, theta, rates, support, self.proximal)])
        gradient: InnerGradient
        if self.algorithm.first_order:
            gradient = first_order
        elif hessian_epsilon is None or self.algorithm.head_only or self.algorithm.context_only:
            gradient = exact
        else:
            gradient = by_differences(hessian_epsilon)
        return inner_path(self.loss, theta, rates, support, gradient)

    def around(self, theta: Params) -> "InnerLoop":
        """Return the inner loop of inner steps that begin at theta, for ``step``.

        The loss of implicit algorithms pulls towards it; the others do not depend on it.
        """
        if not self.algorithm.implicit:
            return self
        return replace(self, loss=partial(pulled_loss, self.loss, theta, self.proximal.strength))

    def residual(self, theta: Params, phi: Params, support: Any) -> Tensor:
        """Return how far phi is from stationary, [], of implicit algorithms; 0 is stationary."""
        return residual(self.loss, theta, phi, support, self.proximal.strength)

    def step(self, phi: Params, rate: Rates, support: Any) -> Params:
        """Return phi after one inner step, without a graph."""
        return adapt(self.loss, phi, [rate], [support], first_order)
