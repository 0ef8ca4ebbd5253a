"""Inner algorithms as a table of three independent choices over ``adapt``.

Differentiate through the inner step or not; which parameters have a rate; whether the rates are
learned. Adding an algorithm is adding a row.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from metarl.core.adapt import Rates
from metarl.core.params import Params

CONTEXT = "context"
"""Name of the context parameters of ``WithContext``."""

RATE_PREFIX = "rate:"
"""Learned inner rates travel with the meta-parameters under this prefix (no module may use it)."""


class LearnedRates(ABC):
    """The parts of a parameter tensor that have a learned rate of their own."""

    @abstractmethod
    def initial(self, param: Tensor, rate: float, steps: int) -> Tensor:
        """Return the initial rates of ``param`` in training with ``steps`` inner steps."""

    @abstractmethod
    def of_step(self, rates: Tensor, step: int) -> Tensor:
        """Return the rates that inner step ``step`` takes, which multiply the gradient."""


class PerElement(LearnedRates):
    """A rate for every element; a parameter of shape [...] has rates [...] (Meta-SGD)."""

    def initial(self, param: Tensor, rate: float, steps: int) -> Tensor:
        return torch.full_like(param, rate)

    def of_step(self, rates: Tensor, step: int) -> Tensor:
        return rates


class PerTensorAndStep(LearnedRates):
    """A rate for every inner step of training, [steps]; later steps take the last one (MAML++)."""

    def initial(self, param: Tensor, rate: float, steps: int) -> Tensor:
        return param.new_full((steps,), rate)

    def of_step(self, rates: Tensor, step: int) -> Tensor:
        return rates[min(step, len(rates) - 1)]


@dataclass(frozen=True)
class InnerAlgorithm:
    """One row of the table.

    Args:
        source: its paper.
        first_order: do not differentiate through the inner gradient.
        head_only: adapt only the parameters of the last layer.
        body_only: adapt all but those of the last layer.
        context_only: adapt only context parameters beside the inputs, which begin every task at 0;
            the outer step moves the network alone.
        learned_rates: what has a learned rate of its own, part of the meta-parameters; None:
            nothing.
        implicit: phi minimises the inner loss with a pull towards theta, and the meta-gradient
            follows from its being stationary; the inner steps are not differentiated.
        parameter_difference: the outer gradient of a task is theta - phi, in units of alpha; there
            is no query set.
    """

    source: str
    first_order: bool = False
    head_only: bool = False
    body_only: bool = False
    context_only: bool = False
    learned_rates: LearnedRates | None = None
    implicit: bool = False
    parameter_difference: bool = False


ALGORITHMS: dict[str, InnerAlgorithm] = {
    "maml": InnerAlgorithm("Finn et al. 2017"),
    "fomaml": InnerAlgorithm("Finn et al. 2017, section 5.2", first_order=True),
    "anil": InnerAlgorithm("Raghu et al. 2020", head_only=True),
    "boil": InnerAlgorithm("Oh et al. 2021", body_only=True),
    "cavia": InnerAlgorithm("Zintgraf et al. 2019", context_only=True),
    "meta-sgd": InnerAlgorithm("Li et al. 2017", learned_rates=PerElement()),
    "maml++": InnerAlgorithm(
        "Antoniou et al. 2019; its learned rates; of supervised models",
        learned_rates=PerTensorAndStep(),
    ),
    "imaml": InnerAlgorithm("Rajeswaran et al. 2019; of supervised models", implicit=True),
    "reptile": InnerAlgorithm(
        "Nichol et al. 2018; of supervised models", first_order=True, parameter_difference=True
    ),
}


@dataclass(frozen=True)
class InnerConfig:
    """The inner loop.

    Args:
        algorithm: see metarl list algorithms.
        rate: inner rate alpha; the initial value of learned rates.
        rates: inner rate of every inner step in training; null: inner.rate for all.
        steps: inner steps in training; 0: one model for all tasks (pretrained, oracle).
        context: of cavia: number of context parameters beside the inputs.
    """

    algorithm: str = "maml"
    rate: Annotated[float, Gt(0)] = 0.1
    rates: list[Annotated[float, Gt(0)]] | None = None
    steps: Annotated[int, Ge(0)] = 1
    context: Annotated[int, Gt(0)] = 5

    def __post_init__(self) -> None:
        if isinstance(ALGORITHMS[self.algorithm].learned_rates, PerTensorAndStep):
            if self.steps == 0:
                raise ValueError(f"inner.steps should be at least 1 for {self.algorithm}")
            if self.rates is not None:
                raise ValueError(
                    f"inner.rates should be null for {self.algorithm}, whose rates of every inner "
                    "step are learned from inner.rate"
                )
        if self.rates is not None and len(self.rates) != self.steps:
            raise ValueError(
                f"inner.rates has {len(self.rates)} entries for {self.steps} inner steps"
            )

    @property
    def context_size(self) -> int:
        """Number of context parameters; 0: the algorithm has none."""
        return self.context if ALGORITHMS[self.algorithm].context_only else 0

    @property
    def alphas(self) -> list[float]:
        """alpha of every inner step in training."""
        return self.rates or [self.rate] * self.steps

    @property
    def alpha(self) -> float:
        """alpha of the first inner step."""
        return self.rates[0] if self.rates else self.rate


def adapted_names(
    algorithm: InnerAlgorithm, names: Sequence[str], head: Sequence[str]
) -> tuple[str, ...]:
    """Names of the parameters that the algorithm adapts.

    Args:
        names: all parameters of the model.
        head: those of its last layer, by prefix (``head.`` matches ``head.weight``).

    Raises:
        ValueError: the algorithm tells the head from the rest, and there is no head or no rest.
    """
    if algorithm.context_only:
        return (CONTEXT,)
    if not (algorithm.head_only or algorithm.body_only):
        return tuple(names)
    of_head = [n for n in names if any(n.startswith(prefix) for prefix in head)]
    if not of_head:
        raise ValueError(f"no parameter starts with {' or '.join(head)}; there are {list(names)}")
    if algorithm.head_only:
        return tuple(of_head)
    rest = tuple(n for n in names if n not in of_head)
    if not rest:
        raise ValueError(f"all parameters are of the head: {list(names)}")
    return rest


def with_rates(
    algorithm: InnerAlgorithm, params: Params, names: Sequence[str], rate: float, steps: int = 1
) -> Params:
    """Return initial meta-parameters: ``params``, and the learned rates of ``names`` if any."""
    kind = algorithm.learned_rates
    if kind is None:
        return dict(params)
    return params | {RATE_PREFIX + n: kind.initial(params[n], rate, steps) for n in names}


def split_rates(meta: Mapping[str, Tensor]) -> tuple[Params, Params]:
    """Split meta-parameters into the model's theta and the learned rates by parameter name."""
    theta = {n: p for n, p in meta.items() if not n.startswith(RATE_PREFIX)}
    rates = {n.removeprefix(RATE_PREFIX): p for n, p in meta.items() if n.startswith(RATE_PREFIX)}
    return theta, rates


def inner_rates(
    names: Sequence[str],
    alphas: Sequence[float],
    factors: Params,
    initial: float,
    kind: LearnedRates | None,
) -> list[Rates]:
    """Return the rates of every inner step.

    Args:
        names: adapted parameters.
        alphas: inner rate of every inner step.
        factors: learned rates, scaled by alpha / ``initial``.
        initial: the value that the learned rates began with.
        kind: of the learned rates; None: there are none, and rates are plain numbers.
    """
    if kind is None:
        return [dict.fromkeys(names, alpha) for alpha in alphas]
    return [
        {n: kind.of_step(factors[n], k) * (alpha / initial) for n in names}
        for k, alpha in enumerate(alphas)
    ]
