"""The task axis: means, meta-gradients and curvature products of a per-task objective.

Everything else in the core is written for ONE task. Here tasks are cut into chunks; a chunk of one
task is a plain call, a larger one is ``vmap``; chunks run on threads. A chunk's gradient is taken
and its graph dropped before the next one is built, so peak memory is one chunk per thread, whatever
the number of tasks. Several processes have a share of the tasks each. Sums over chunks are taken in
float64 and rounded once: results do not depend on how chunks are spread over threads and processes.
"""

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from metarl.core.compile import Compiled
from metarl.core.params import Params, leading_size, leaves_of_tree, rebuild, tree_map
from metarl.core.processes import ALONE, Processes

Objective: TypeAlias = Callable[[Params, Any], Tensor]
"""``objective(meta, task_data) -> [K]`` or a scalar, for ONE task; gradients are of entry 0."""

Result = TypeVar("Result")


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Make a pool whose threads round like the caller.

    OpenMP and MKL count threads per calling thread. A new thread starts with one per core; a busy
    machine gives it fewer, and sums change order.
    """
    inherit = partial(torch.set_num_threads, torch.get_num_threads())
    return ThreadPoolExecutor(threads, initializer=inherit)


class TaskMap:
    """Evaluates per-task functions over all tasks, in chunks, on threads.

    Data are nested tuples and dictionaries of tensors with a leading task axis M.

    A chunk of one task on a thread per core is the fastest arrangement on a CPU at the sizes of
    reinforcement learning; on a GPU, or with tiny models, larger chunks are.

    Args:
        chunk_size: tasks per ``vmap`` call, halved while the memory of a GPU does not hold them.
        threads: chunks in flight; 0 for one per core. Callers should set PyTorch's own threads to
            one, which also makes every result independent of the number of cores.
        compiled: compile mean and meta-gradient of every objective that it is called with, and
            functions that ``map`` is told recur. A function is compiled once for every shape of its
            data, and so must not change what it closes over; a method of the same object is the
            same function, and so is a partial of the same function with equal arguments.
        processes: the processes that share the tasks; data are those of this one's.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        chunk_size: int = 1,
        threads: int = 1,
        compiled: bool = False,
        processes: Processes = ALONE,
    ):
        if chunk_size < 1 or threads < 0:
            raise ValueError(
                f"chunk_size must be at least 1 and threads at least 0, got {chunk_size}, {threads}"
            )
        self.chunk_size = chunk_size
        self.threads = threads or cores()
        self._pool = thread_pool(self.threads) if self.threads > 1 else None
        self.compiled = compiled
        self.processes = processes
        self._programs: dict[tuple[str, Hashable], Callable[..., Any]] = {}

    def map(self, fn: Callable[[Any], Any], data: Any, recurring: bool = False) -> Any:
        """``fn(task_data)`` for every task, without a graph; results stacked to [M, ...].

        Args:
            recurring: ``fn`` comes back, the same function with data of these shapes, and may be
                compiled.
        """
        return self._fitting(lambda: self._map(fn, data, recurring))

    def _map(self, fn: Callable[[Any], Any], data: Any, recurring: bool) -> Any:
        @torch.no_grad()
        def run(chunk: Any) -> Any:
            if self.chunk_size > 1:
                return torch.func.vmap(fn)(chunk)
            return tree_map(lambda x: x[None], fn(tree_map(lambda x: x[0], chunk)))

        program = self._program("map", fn, run) if recurring else run
        return _concatenate(list(self._over_chunks(program, data)))

    def mean(self, objective: Objective, meta: Params, data: Any) -> Tensor:
        """Mean of ``objective`` over tasks, [K], without a graph."""

        @torch.no_grad()
        def run(meta: Params, chunk: Any) -> Tensor:
            return self._sum(objective, meta, chunk)

        mean: Tensor = self._mean(partial(self._program("mean", objective, run), meta), data)
        return mean

    def mean_and_grad(self, objective: Objective, meta: Params, data: Any) -> tuple[Tensor, Params]:
        """Mean of ``objective`` over tasks, [K], and the meta-gradient of its first entry."""

        @torch.enable_grad()
        def run(meta: Params, chunk: Any) -> tuple[Tensor, Params]:
            leaves = leaves_of(meta)
            value = self._sum(objective, leaves, chunk)
            return value.detach(), gradients_of(value[0], leaves)

        sum_of = partial(self._program("gradient", objective, run), meta)
        value, gradient = self._mean(sum_of, data)
        return value, gradient

    def _program(
        self, kind: str, fn: Callable[..., Any], run: Callable[..., Result]
    ) -> Callable[..., Result]:
        """Return the program of ``run`` that was made when ``fn`` first came."""
        if not self.compiled:
            return run
        key = kind, _identity(fn)
        return self._programs.get(key) or self._programs.setdefault(key, Compiled(run))

    def hvp(self, objective: Objective, meta: Params, data: Any, vector: Params) -> Params:
        """Exact product of the mean objective's Hessian with ``vector``, by double backward."""

        @torch.enable_grad()
        def run(chunk: Any) -> Params:
            leaves = leaves_of(meta)
            gradient = gradients_of(
                self._sum(objective, leaves, chunk)[0], leaves, create_graph=True
            )
            return gradients_of(sum_of_products(gradient, vector), leaves)

        product: Params = self._mean(run, data)
        return product

    def _sum(self, objective: Objective, meta: Params, chunk: Any) -> Tensor:
        if self.chunk_size > 1:
            values = torch.func.vmap(objective, in_dims=(None, 0))(meta, chunk)
            return values.reshape(len(values), -1).sum(0)
        return objective(meta, tree_map(lambda x: x[0], chunk)).reshape(-1)

    def _mean(self, sum_of: Callable[[Any], Any], data: Any) -> Any:
        """Return the mean over all tasks; ``sum_of`` gives the sum over the tasks of a chunk."""
        tasks = leading_size(data)
        first, total = self._fitting(lambda: self._total(sum_of, data))
        if first is total and self.processes.size == 1:  # there was nothing to add
            return tree_map(lambda x: x / tasks, first)
        wide = tree_map(lambda x: x.double(), total)
        total, count = self.processes.sum((wide, next(leaves_of_tree(wide)).new_tensor(tasks)))
        leaves = zip(leaves_of_tree(total), leaves_of_tree(first), strict=True)
        return rebuild(first, ((x / count).to(like) for x, like in leaves))

    def _total(self, sum_of: Callable[[Any], Any], data: Any) -> tuple[Any, Any]:
        """The sum over the first chunk, and that over all of them."""
        parts = self._over_chunks(sum_of, data)
        first = next(parts)
        if leading_size(data) <= self.chunk_size:
            return first, first
        return first, reduce(_plus, parts, tree_map(lambda x: x.double(), first))

    def _fitting(self, work: Callable[[], Result]) -> Result:
        """``work()``, in chunks that fit in memory."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.chunk_size == 1:
                    raise
            self.chunk_size = (self.chunk_size + 1) // 2
            torch.cuda.empty_cache()

    def _over_chunks(self, fn: Callable[[Any], Result], data: Any) -> Iterator[Result]:
        size, tasks = self.chunk_size, leading_size(data)
        if tasks <= size:  # a thread would only cost time
            return iter([fn(data)])
        chunks = (
            tree_map(itemgetter(slice(start, start + size)), data)
            for start in range(0, tasks, size)
        )
        return map(fn, chunks) if self._pool is None else self._pool.map(fn, chunks)


def _identity(fn: Callable[..., Any]) -> Hashable:
    """Equal for the same function; partials by themselves compare by identity."""
    if not isinstance(fn, partial):
        return fn
    return _identity(fn.func), fn.args, tuple(sorted(fn.keywords.items()))


def sum_of_products(a: Params, b: Params) -> Tensor:
    """Inner product of two parameter dictionaries with the same names."""
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def leaves_of(meta: Params) -> Params:
    """The same values as leaves of a new graph."""
    return {name: p.detach().requires_grad_() for name, p in meta.items()}


def gradients_of(value: Tensor, leaves: Params, create_graph: bool = False) -> Params:
    """Gradients of a scalar; zero for leaves that it does not depend on."""
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in leaves.items()}
    gradients = torch.autograd.grad(
        value, list(leaves.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(leaves, gradients, strict=True))


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return a + b
    if isinstance(a, dict):
        return {name: a[name] + b[name] for name in a}
    return tuple(_plus(x, y) for x, y in zip(a, b, strict=True))


def _concatenate(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _concatenate([part[key] for part in parts]) for key in first}
    fields = [_concatenate(list(group)) for group in zip(*parts, strict=True)]
    return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
