"""The meta-gradient of a user's own model and loss, compared with finite differences."""

import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarl.core.adapt import adapt
from metarl.core.gradcheck import Entry, check_gradient
from metarl.core.params import Functional, Params, parameters_of, tree_map
from metarl.runtime.errors import UserError, described

NAMES = {
    "module": "a torch.nn.Module",
    "loss": "a function loss(predict, batch) of one task, where predict calls the module",
    "support": "the batch to adapt on",
    "query": "the batch to judge on",
}


def check_file(path: Path, rate: float, inner_steps: int, entries: int) -> list[Entry]:
    """Check the MAML objective of a Python file that defines ``NAMES``.

    The objective is loss(phi; query) after ``inner_steps`` steps from theta on ``support``; module
    and floating-point tensors are taken to float64.

    Args:
        rate: inner rate alpha.
        entries: entries of every parameter to compare.

    Raises:
        UserError: the file cannot be run, lacks a name, or its loss fails.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        namespace = runpy.run_path(str(path))
        missing = [f"{name}, {meaning}" for name, meaning in NAMES.items() if name not in namespace]
        if missing:
            raise UserError(f"{path} should define {'; '.join(missing)}")
        module, loss = namespace["module"], namespace["loss"]
        if not isinstance(module, nn.Module):
            raise UserError(f"module in {path} should be a torch.nn.Module, got {type(module)}")
        try:
            predict = Functional(module.double())
        except ValueError as error:
            raise UserError(f"module in {path}: {error}") from error
        support, query = (tree_map(_to_double, namespace[name]) for name in ("support", "query"))

        def task_loss(params: Params, batch: Any) -> Tensor:
            result: Tensor = loss(lambda *inputs: predict(params, *inputs), batch)
            return result

        def objective(theta: Params, query: Any) -> Tensor:
            rates = [dict.fromkeys(theta, rate)] * inner_steps
            return task_loss(adapt(task_loss, theta, rates, [support] * inner_steps), query)

        return check_gradient(objective, parameters_of(module), query, entries=entries)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UserError(f"{path} fails: {described(error)}") from error


def _to_double(x: Tensor) -> Tensor:
    return x.to(torch.float64) if x.is_floating_point() else x
