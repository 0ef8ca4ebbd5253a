"""The settings of the inner loop of supervised models."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from metarl.core.algorithms import InnerConfig
from metarl.core.implicit import ProximalTerm


@dataclass(frozen=True)
class SupervisedInnerConfig(InnerConfig):
    """The inner loop of supervised models.

    Args:
        algorithm: see metarl list algorithms.
        reduction: the loss that the inner rate multiplies: the mean over support examples, or the
            sum of class means as in the code of Finn et al. 2017, whose rates are smaller by the
            number of ways.
        multi_step_iterations: iterations in which the outer loss is a weighted sum of the query
            losses after every inner step (Antoniou et al. 2019); the weights begin equal and move
            to the last inner step, which counts alone afterwards. 0: it does from the start.
        first_order_iterations: iterations before the outer step differentiates through the inner
            gradients (Antoniou et al. 2019); 0: it does from the start.
        proximal: of imaml: lam, factor on |phi - theta|^2 / 2 in the inner loss.
        cg_iterations: of imaml: conjugate-gradient iterations for the meta-gradient; 0: it is that
            of first order.
    """

    algorithm: Literal[
        "maml", "fomaml", "reptile", "anil", "boil", "cavia", "meta-sgd", "maml++", "imaml"
    ] = "maml"
    reduction: Literal["mean", "class-sum"] = "mean"
    multi_step_iterations: Annotated[int, Ge(0)] = 0
    first_order_iterations: Annotated[int, Ge(0)] = 0
    proximal: Annotated[float, Gt(0)] = ProximalTerm.strength
    cg_iterations: Annotated[int, Ge(0)] = ProximalTerm.cg_iterations

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm in ("reptile", "imaml") and self.steps == 0:
            raise ValueError(f"inner.steps should be at least 1 for {self.algorithm}")
        if self.algorithm == "imaml" and (
            self.multi_step_iterations or self.first_order_iterations
        ):
            raise ValueError(
                "inner.multi_step_iterations and inner.first_order_iterations should be 0 for "
                "imaml, which does not differentiate through its inner steps"
            )
        if self.algorithm == "reptile" and self.multi_step_iterations:
            raise ValueError(
                "inner.multi_step_iterations should be 0 for reptile, which has no query loss"
            )
