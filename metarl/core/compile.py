"""Trace or compile functions of tensors, so that they run without Python overhead."""

import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from metarl.core.params import leaves_of_tree, rebuild

Result = TypeVar("Result")

NARROW = 16  # columns, of a float32 vector register


def _mm(a: Tensor, b: Tensor) -> Any:
    """Many rows times few columns (the weight gradient of a layer with few inputs), transposed:
    MKL is up to four times faster at few rows times many columns.
    """
    if a.device.type != "cpu" or b.shape[1] >= min(NARROW, a.shape[0]):
        return NotImplemented
    return (b.t() @ a.t()).t().contiguous()


class Program(ABC, Generic[Result]):
    """``fn`` as a program, made when it has been called often enough with tensors of the same
    shapes.

    Numbers, and all other inputs that are not tensors, are constants of the program. Where no
    program can be made for some shapes, ``fn`` itself is called, with a warning.

    Args:
        fn: of nested tuples and dictionaries of tensors, which it also returns; no gradient can be
            taken of the result.
    """

    from_call: ClassVar[int]
    label: ClassVar[str]  # for the warning
    exact: ClassVar[bool]  # whether results are those of the function to the last bit
    decompositions: ClassVar[dict[Any, Callable[..., Any]]] = {}

    _lock = threading.Lock()  # of all programs: tracing replaces methods of torch.nn.Module

    def __init__(self, fn: Callable[..., Result]):
        self._fn = fn
        self._programs: dict[Any, Callable[..., Result] | None] = {}
        self._calls: Counter[Any] = Counter()

    def __call__(self, *inputs: Any) -> Result:
        leaves = list(leaves_of_tree(inputs))
        key = _structure(inputs), *((x.shape, x.stride(), x.dtype, x.device) for x in leaves)
        with torch.no_grad():
            program = self._programs.get(key) or self._due(key, inputs, leaves)
            return self._fn(*inputs) if program is None else program(*leaves)

    def _due(self, key: Any, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result] | None:
        """Return the program, from call ``from_call`` on; None where none can be made."""
        if self._calls[key] + 1 < self.from_call:
            self._calls[key] += 1
            return None
        with self._lock:  # threads that come while it is made wait for it
            if key not in self._programs:
                result = self._fn(*inputs)  # its own errors are not the program's
                self._programs[key] = self._program(inputs, leaves, list(leaves_of_tree(result)))
            return self._programs[key]

    def _program(
        self, inputs: Any, leaves: list[Tensor], results: list[Tensor]
    ) -> Callable[..., Result] | None:
        try:
            program = self._trace(inputs, leaves)
            if self.exact and not all(map(_same_bits, leaves_of_tree(program(*leaves)), results)):
                raise ValueError("two calls with the same tensors differ")
            return program
        except Exception as error:  # a full disk, say, or a compiler that got our Ctrl-C too
            warnings.warn(f"not {self.label}, which is slower: {_line(error)}", stacklevel=4)
            return None

    def _trace(self, inputs: Any, leaves: list[Tensor]) -> Callable[..., Result]:
        from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

        like: list[Any] = []

        def flat(*leaves: Tensor) -> list[Tensor]:
            like[:] = [self._fn(*rebuild(inputs, iter(leaves)))]
            return list(leaves_of_tree(like[0]))

        example = [x.detach() for x in leaves]
        graph = make_fx(flat, self.decompositions, tracing_mode="fake")(*example)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        program = self._finish(graph, example)
        return lambda *leaves: cast(Result, rebuild(like[0], iter(program(*leaves))))

    @abstractmethod
    def _finish(self, graph: GraphModule, example: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
        """Return a function that runs ``graph`` on tensors like ``example``."""


class Traced(Program[Result]):
    """The bare operations that ``fn`` comes to, the same to the last bit.

    A call saves the time that Python spends on modules, ``vmap`` and differentiation, in which
    other threads wait for its lock: less than a millisecond. Tracing takes a second or two with
    its imports, so it pays after thousands of calls.
    """

    from_call = 2000
    label = "traced"
    exact = True

    def _finish(self, graph: GraphModule, example: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
        return cast(Callable[..., Sequence[Tensor]], graph.forward)


class Compiled(Program[Result]):
    """``fn`` compiled by TorchInductor, at the first call with tensors of new shapes.

    Not by ``torch.compile``, whose guards cost more than a small network takes.
    """

    from_call = 1
    label = "compiled"
    exact = False
    decompositions: ClassVar = {torch.ops.aten.mm.default: _mm}

    def _finish(self, graph: GraphModule, example: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
        from torch import _inductor as inductor  # slow to import

        inputs: list[Any] = [*example]
        options: Any = {
            # A caller in C++ holds no interpreter lock: programs run on threads side by side.
            "cpp_wrapper": True,
            # From exp: an absolute error of 2e-7 in place of 3e-8, and twice as fast.
            "cpp.use_decompose_tanh": True,
        }
        program: Any = inductor.compile(graph, inputs, options=options)
        return cast(Callable[..., Sequence[Tensor]], program)


@cache
def compiler_fault() -> str:
    """Return in a line why nothing can be compiled here (no C++ compiler, say), or nothing."""
    x = torch.zeros(2)
    try:
        Compiled(lambda x: x + 1)._trace((x,), [x])
    except Exception as error:  # whatever a compiler that is missing or broken leads to
        return _line(error)
    return ""


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal; NaN equals NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _structure(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return None
    if isinstance(tree, dict):
        return tuple((key, _structure(child)) for key, child in tree.items())
    return type(tree), *map(_structure, tree)
