"""The processes that share a run: one alone, or several side by side (``torch.distributed``)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.core.params import leaves_of_tree, rebuild

Tree = TypeVar("Tree")
Result = TypeVar("Result")


class Disconnected(Exception):
    """Another process is gone, or did not answer in time."""


class World:
    """Process ``rank`` of ``size``, which all call the same methods in the same order.

    A process on its own talks to nobody. Of several, each owns a share of every iteration's tasks;
    only sums over tasks, and what is logged of them, travel.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank, local_size: the same among those on this machine.

    Raises (by whatever talks to the others):
        Disconnected: another process is gone, or did not answer in time.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1):
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.local_size = local_size

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def share(self, tasks: int) -> range:
        """Which of so many tasks are this one's: neighbours, and as many as any other's, or one
        less.
        """
        return range(self.rank * tasks // self.size, (self.rank + 1) * tasks // self.size)

    def sum(self, tree: Tree) -> Tree:
        """Sum of every tensor over all processes; each has the same bits then."""
        if self.size == 1:
            return tree
        leaves = list(leaves_of_tree(tree))
        flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
        with connected():
            dist.all_reduce(flat)
        parts = torch.split(flat, [leaf.numel() for leaf in leaves])
        return rebuild(tree, (p.view_as(leaf) for p, leaf in zip(parts, leaves, strict=True)))

    def gather(self, tree: Tree) -> Tree:
        """Rows [m, ...] of every process, on the CPU, as one tensor in the order of the ranks."""
        if self.size == 1:
            return tree
        return rebuild(tree, (self._gather(leaf.cpu()) for leaf in leaves_of_tree(tree)))

    def _gather(self, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with connected():
            dist.all_gather(counts, torch.tensor([len(rows)]))
            longest = max(int(n) for n in counts)
            padded = rows.new_zeros(longest, *rows.shape[1:])
            padded[: len(rows)] = rows
            found = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(found, padded)
        return torch.cat([part[: int(n)] for part, n in zip(found, counts, strict=True)])

    def leading(self, value: Tensor) -> Tensor:
        """What the first process has; the others give a tensor of the same shape and type.

        Machines of different makes round differently: this keeps them together.
        """
        if self.size > 1:
            value = value.clone()
            with connected():
                dist.broadcast(value, 0)
        return value

    def leading_bytes(self, data: bytes) -> bytes:
        """What the first process has."""
        if self.size == 1:
            return data
        size = int(self.leading(torch.tensor([len(data)])))
        content = torch.tensor([*data], dtype=torch.uint8) if self.leads else None
        room = torch.empty(size, dtype=torch.uint8)
        return bytes(self.leading(room if content is None else content).tolist())

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.sum(torch.tensor([float(flag)]))) if self.size > 1 else flag

    def in_turn(self, make: Callable[[], Result]) -> Result:
        """``make()``, on every machine in its first process before it is in the others."""
        if self.local_rank == 0:
            result = make()
        self.any(False)
        return result if self.local_rank == 0 else make()


ALONE = World()


@contextmanager
def connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise Disconnected(reason) from error
