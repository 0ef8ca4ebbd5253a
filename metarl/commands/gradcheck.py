"""``metarl gradcheck``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from metarl.commands import model_check
from metarl.commands.command import Arguments, command
from metarl.report import tables
from metarl.runtime.paths import path_of


@dataclass(frozen=True)
class GradcheckOptions:
    """Options of ``metarl gradcheck``.

    Args:
        rate: inner rate alpha.
        inner_steps: adaptation steps; --steps is short for it.
        tolerance: largest difference allowed, as a part of the gradient's largest entry.
        entries: entries of every parameter to compare.
    """

    rate: Annotated[float, Gt(0)] = 0.01
    inner_steps: Annotated[int, Ge(0)] = 1
    tolerance: Annotated[float, Gt(0)] = 1e-4
    entries: Annotated[int, Gt(0)] = 20


DEFINES = "; ".join(f"{name}, {meaning}" for name, meaning in model_check.NAMES.items())
FILE = Arguments("FILE", f"Python file that defines {DEFINES}")


@command(FILE, GradcheckOptions, steps="inner_steps")
def gradcheck(paths: Sequence[str], options: GradcheckOptions) -> int:
    """Compare the meta-gradient of your own model and loss with finite differences, in float64."""
    entries = model_check.check_file(
        path_of("FILE", paths[0]), options.rate, options.inner_steps, options.entries
    )
    header = ["parameter", "entry", "gradient", "finite difference", "error", ""]
    rows = [
        [
            *(entry.name, str(list(entry.where)), f"{entry.gradient:.6g}"),
            *(f"{entry.finite_difference:.6g}", f"{entry.error:.1e}"),
            "ok" if entry.error <= options.tolerance else "DIFFERS",
        ]
        for entry in entries
    ]
    title = "the entry of every parameter where the two differ most"
    tables.print_whole(tables.terminal_table(title, header, rows))
    return int(not all(entry.error <= options.tolerance for entry in entries))
