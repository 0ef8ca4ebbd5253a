"""The outer step: a function from meta-parameters and their objective to better ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from torch import Tensor

State: TypeAlias = Any
"""Nested named tuples, tuples and dictionaries of tensors."""

Stats: TypeAlias = Mapping[str, float | Tensor]
"""Numbers to log, each a float or a tensor []."""


class CurvatureGradient(Protocol):
    """The gradient of the KL, whose finite differences are Hessian-vector products."""

    def __call__(
        self, theta: Tensor, fraction: float = 1.0, hessian_epsilon: float | None = None
    ) -> Tensor:
        """Return the gradient [P] at theta [P].

        Args:
            fraction: of the query data to take.
            hessian_epsilon: length of the finite differences that stand for the Hessian of the
                inner loss; None: exact.
        """


class CurvatureProduct(Protocol):
    """Exact Hessian-vector products of the KL."""

    def __call__(self, theta: Tensor, v: Tensor, fraction: float = 1.0) -> Tensor:
        """Return the product [P] of the KL's Hessian at theta [P] with v [P]."""


class OwnLossGradient(Protocol):
    """The meta-gradient of a loss of the outer step's own, as ProMP has."""

    def __call__(self, loss: Callable[[Any], Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean over tasks of ``loss`` [K], and the gradient [P] of its first entry.

        Args:
            loss: of one adapted task, [K] or a scalar; the same function in every call, as it may
                be compiled. An adapted task is an ``AdaptedTask`` of ``metarl.rl.objective``
                or of ``metarl.supervised.objective``.
        """


@dataclass(frozen=True)
class Objective:
    """The loss that an outer step minimises and the KL that may bound it, on one iteration's tasks.

    All are means over tasks and functions of the flat meta-parameters theta [P].

    Args:
        loss_and_kl: theta -> [2].
        loss_gradient: theta -> values [K], which begin with loss and KL, and the loss's gradient
            [P].
        kl_gradient: theta -> [P]; zero at the theta that the data were sampled with.
        kl_hvp: theta, v -> [P].
        gradient_of: of a loss of the step's own.
        iteration: number of the iteration, from 0.
        first_order: gradients ignore that theta moves the inner gradients (FOMAML), so their finite
            differences are not Hessian-vector products.
    """

    loss_and_kl: Callable[[Tensor], Tensor]
    loss_gradient: Callable[[Tensor], tuple[Tensor, Tensor]]
    kl_gradient: CurvatureGradient
    kl_hvp: CurvatureProduct
    gradient_of: OwnLossGradient | None = None
    iteration: int = 0
    first_order: bool = False


class OuterStep(ABC):
    """An outer optimiser; subclasses are frozen dataclasses whose fields are its settings.

    It has no state of its own: ``init`` makes one, ``step`` takes it and returns the next, and the
    learner keeps it in every checkpoint.
    """

    needs_kl: ClassVar[bool] = False
    """Whether ``step`` asks for the KL; without, supervised learners save the work."""

    of_policies: ClassVar[bool] = False
    """Whether its loss is one of policies, so that supervised models cannot take it."""

    is_traceable: ClassVar[bool] = False
    """Whether ``step`` consists of tensor operations alone, without a decision or ``float()``, so
    that it can be compiled as a part of the whole meta-update."""

    def init(self, theta: Tensor) -> State:
        """Return the state before the first step from theta [P]."""
        return ()

    @abstractmethod
    def step(
        self, objective: Objective, theta: Tensor, state: State
    ) -> tuple[Tensor, State, Stats]:
        """Return the new theta [P], the new state, and the statistics to log as ``outer/NAME``.

        ``accepted`` 0 among the statistics counts the step as rejected.
        """

    def evaluated(self, theta: Tensor, state: State) -> Tensor:
        """Return the meta-parameters [P] that evaluations use: theta itself, or an average."""
        return theta
