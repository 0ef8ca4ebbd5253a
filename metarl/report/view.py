"""A run as reports see it: what its folder holds, and its family's geometry."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from metarl.errors import UserError
from metarl.evaluation import Episodes
from metarl.trainer import first_difference

Array = NDArray[np.floating]


class Target(Protocol):
    """What a task asks for: a place (m), a direction or a velocity (m/s)."""

    @property
    def kind(self) -> str: ...  # "position", "direction" or "velocity"
    @property
    def value(self) -> Array: ...  # [D]


class Family(Protocol):
    """What pictures need of a task family."""

    @property
    def dt(self) -> float: ...
    def position(self, qpos: Any) -> Array: ...  # [..., nq] -> [..., D] metres, D 1 or 2
    def target(self, task: Any) -> Target | None: ...


@dataclass(frozen=True)
class RunView:
    """A run to report on.

    Args:
        name: the run's name.
        config: its settings, plain values.
        info: what ``run.json`` says.
        metrics: rows of ``metrics.jsonl``.
        evaluation: what ``evaluation.json`` says.
        episodes: recorded episodes of that evaluation; None if they are lost.
        family: its task family.
    """

    name: str
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    episodes: Episodes | None
    family: Family

    @property
    def group(self) -> str:
        """The name without its seed: runs that differ only in the seed are drawn as one."""
        return re.sub(r"-seed\d+(-.*)?$", "", self.name)

    @property
    def returns(self) -> Array:
        """Return of every held-out task after every inner step, [steps + 1, M]."""
        return np.array(self.evaluation["returns"], dtype=np.float64)  # null becomes NaN

    def series(self, name: str) -> Array:
        """A metric over iterations, NaN where it is missing."""
        return np.array([row.get(name) for row in self.metrics], dtype=np.float64)

    def task_name(self, m: int) -> str:
        """A held-out task's fields and values: ``velocity 1.25``."""
        values = zip(self.evaluation["task_fields"], self.evaluation["tasks"][m], strict=True)
        return ", ".join(f"{name} {value:.2f}" for name, value in values)


def after(inner_steps: int) -> str:
    """``before adaptation``, ``after 1 inner step``, ..."""
    plural = "s" * (inner_steps > 1)
    return f"after {inner_steps} inner step{plural}" if inner_steps else "before adaptation"


class Curve(NamedTuple):
    """A mean with its interval over something."""

    x: Array
    mean: Array
    half_width: Array


def groups(views: Sequence[RunView]) -> dict[str, list[RunView]]:
    """Runs by group, in order."""
    found: dict[str, list[RunView]] = {}
    for view in views:
        found.setdefault(view.group, []).append(view)
    return found


def require_comparable(views: Sequence[RunView]) -> None:
    """Raises UserError unless all runs were evaluated in the same way on the same tasks."""
    first = views[0]
    for view in views[1:]:
        one, other = first.evaluation["env"], view.evaluation["env"]
        if difference := first_difference(other, one, "env"):
            raise UserError(f"{view.name} and {first.name} cannot be compared: {difference}")
        for key in ("tasks", "trajectories", "actions"):
            if view.evaluation[key] != first.evaluation[key]:
                raise UserError(
                    f"{first.name} and {view.name} were evaluated on different {key}; evaluate "
                    "them together first: metarl evaluate RUN RUN ..."
                )
