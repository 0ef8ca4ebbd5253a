"""Functions of tensors as compiled programs."""

import threading
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from metarl.core.params import leaves_of_tree, rebuild

Result = TypeVar("Result")


class Compiled(Generic[Result]):
    """``fn`` compiled by TorchInductor, at its first call with tensors of new shapes.

    It is traced operation by operation, through the differentiation that it does, and not by
    ``torch.compile``, whose guards cost more than a small network takes: numbers, and anything else
    that is no tensor, are those of the first call.

    Shapes that the compiler fails on are computed by ``fn`` itself, with a warning.

    Args:
        fn: of nested tuples and dictionaries of tensors, which it also returns.
    """

    def __init__(self, fn: Callable[..., Result]):
        self._fn = fn
        self._programs: dict[Any, Callable[..., Result]] = {}
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Result:
        leaves = list(leaves_of_tree(inputs))
        key = _structure(inputs), *((x.shape, x.stride(), x.dtype, x.device) for x in leaves)
        program = self._programs.get(key)
        if program is None:
            with self._lock:  # threads that come while it is compiled wait for it
                program = self._programs.get(key)
                if program is None:
                    program = self._programs[key] = self._program(inputs, leaves)
        return program(*leaves)

    def _program(self, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result]:
        try:
            return self._compile(inputs, leaves)
        except Exception as error:  # a full disk, say, or a compiler that got our Ctrl-C too
            warnings.warn(f"not compiled, which is slower: {_line(error)}", stacklevel=3)
        return lambda *leaves: self._fn(*rebuild(inputs, iter(leaves)))

    def _compile(self, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result]:
        from torch import _inductor as inductor  # slow to import
        from torch.fx.experimental.proxy_tensor import make_fx

        shape: list[Any] = []

        def flat(*leaves: Tensor) -> list[Tensor]:
            result = self._fn(*rebuild(inputs, iter(leaves)))
            shape[:] = [result]
            return list(leaves_of_tree(result))

        example: list[Any] = [x.detach() for x in leaves]
        flat(*example)  # what is made at a first call must not be made while tracing
        graph = make_fx(flat, tracing_mode="fake")(*example)
        # A caller in C++ holds no interpreter lock: programs run on threads side by side.
        program: Any = inductor.compile(graph, example, options={"cpp_wrapper": True})

        @torch.no_grad()
        def run(*leaves: Tensor) -> Result:
            result: Result = rebuild(shape[0], iter(program(*leaves)))
            return result

        return run


def compiler_fault() -> str:
    """Why nothing can be compiled here (no C++ compiler, for example), in a line; or nothing."""
    try:
        x = torch.zeros(2)
        Compiled(lambda x: x + 1)._compile((x,), [x])
    except Exception as error:  # whatever a compiler that is missing or broken leads to
        return _line(error)
    return ""


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _structure(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return None
    if isinstance(tree, dict):
        return tuple((key, _structure(child)) for key, child in tree.items())
    return type(tree), *map(_structure, tree)
