"""Functions of tensors as programs, without Python between the operations."""

import threading
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from metarl.core.params import leaves_of_tree, rebuild

Result = TypeVar("Result")


class Traced(Generic[Result]):
    """``fn`` as the bare operations that it comes to, from its 100th call with tensors of the same
    shapes on: sooner, tracing would not pay.

    Saved is the time that Python spends on modules, ``vmap`` and differentiation, during which
    other threads wait for its lock. The operations and their order are the same, so results are,
    to the last bit. Numbers, and anything else that is no tensor, are those of the call that was
    traced. Shapes that ``fn`` cannot be traced for are computed by ``fn``, with a warning.

    Args:
        fn: of nested tuples and dictionaries of tensors, which it also returns; no gradient can be
            taken of the result.
    """

    from_call: ClassVar[int] = 100
    made: ClassVar[str] = "traced"

    def __init__(self, fn: Callable[..., Result]):
        self._fn = fn
        self._programs: dict[Any, Callable[..., Result]] = {}
        self._calls: Counter[Any] = Counter()
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Result:
        leaves = list(leaves_of_tree(inputs))
        key = _structure(inputs), *((x.shape, x.stride(), x.dtype, x.device) for x in leaves)
        program = self._programs.get(key)
        if program is None:
            with self._lock:  # threads that come while it is made wait for it
                program = self._programs.get(key)
                self._calls[key] += 1
                if program is None and self._calls[key] >= self.from_call:
                    program = self._programs[key] = self._program(inputs, leaves)
        return self._fn(*inputs) if program is None else program(*leaves)

    def _program(self, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result]:
        try:
            return self._trace(inputs, leaves)
        except Exception as error:  # a full disk, say, or a compiler that got our Ctrl-C too
            warnings.warn(f"not {self.made}, which is slower: {_line(error)}", stacklevel=3)
        return lambda *leaves: self._fn(*rebuild(inputs, iter(leaves)))

    def _trace(self, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result]:
        from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

        shape: list[Any] = []

        def flat(*leaves: Tensor) -> list[Tensor]:
            result = self._fn(*rebuild(inputs, iter(leaves)))
            shape[:] = [result]
            return list(leaves_of_tree(result))

        example = [x.detach() for x in leaves]
        flat(*example)  # what is made at a first call must not be made while tracing
        graph = make_fx(flat, tracing_mode="fake")(*example)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        program = self._finish(graph, example)
        return lambda *leaves: rebuild(shape[0], iter(program(*leaves)))

    def _finish(self, graph: GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        return graph.forward


class Compiled(Traced[Result]):
    """``fn`` compiled by TorchInductor at its first call with tensors of new shapes.

    Not by ``torch.compile``, whose guards cost more than a small network takes.
    """

    from_call = 1
    made = "compiled"

    def _finish(self, graph: GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        from torch import _inductor as inductor  # slow to import

        # A caller in C++ holds no interpreter lock: programs run on threads side by side.
        program: Any = inductor.compile(graph, [*example], options={"cpp_wrapper": True})
        return cast(Callable[..., Any], program)


def compiler_fault() -> str:
    """Why nothing can be compiled here (no C++ compiler, for example), in a line; or nothing."""
    try:
        x = torch.zeros(2)
        Compiled(lambda x: x + 1)._trace((x,), [x])
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
