"""The processes that share a run: one alone, or several side by side (``torch.distributed``)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from metarl.core.params import leaves_of_tree, rebuild

Tree = TypeVar("Tree")
Result = TypeVar("Result")


class Disconnected(Exception):
    """Another process is gone, or did not answer in time."""


class StoppedElsewhere(Exception):
    """Another process has failed, and says why."""


class Processes:
    """Process ``rank`` of ``size``, which all call the same methods in the same order.

    A process on its own talks to nobody. Of several, each owns a share of every iteration's tasks;
    only sums over tasks and metrics travel.

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
        """Return whether this process is the one that writes files and talks to the user."""
        return self.rank == 0

    def share(self, tasks: int) -> range:
        """Return the indices of this process's tasks: neighbours, split as evenly as possible."""
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
        """Rows [m, ...] of every process, on the CPU, as one tensor in the order of the ranks.

        They travel as float64, which holds whole numbers up to 2^53.
        """
        if self.size == 1:
            return tree
        leaves = list(leaves_of_tree(tree))
        widths = [math.prod(leaf.shape[1:]) for leaf in leaves]
        columns = [
            leaf.cpu().double().reshape(len(leaf), width)
            for leaf, width in zip(leaves, widths, strict=True)
        ]
        parts = torch.split(self._gather(torch.cat(columns, 1)), widths, 1)
        return rebuild(
            tree,
            (
                part.reshape(len(part), *leaf.shape[1:]).to(leaf.dtype)
                for part, leaf in zip(parts, leaves, strict=True)
            ),
        )

    def _gather(self, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with connected():
            dist.all_gather(counts, torch.tensor([len(rows)]))
            block = rows.new_zeros(max(int(n) for n in counts), rows.shape[1])
            block[: len(rows)] = rows
            blocks = [torch.empty_like(block) for _ in range(self.size)]
            dist.all_gather(blocks, block)
        return torch.cat([part[: int(n)] for part, n in zip(blocks, counts, strict=True)])

    def leading(self, value: Tensor) -> Tensor:
        """Return the first process's tensor; the others give a tensor of the same shape and type.

        Machines of different makes round differently: this keeps them together.
        """
        if self.size > 1:
            value = value.clone()
            with connected():
                dist.broadcast(value, 0)
        return value

    def leading_bytes(self, data: bytes) -> bytes:
        """Return the first process's bytes, at least one."""
        size = int(self.leading(torch.tensor([len(data)])))
        room = bytearray(data if self.leads else size)
        return self.leading(torch.frombuffer(room, dtype=torch.uint8)).numpy().tobytes()

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return bool(self.sum(torch.tensor([float(flag)]))) if self.size > 1 else flag

    def in_turn(self, make: Callable[[], Result]) -> Result:
        """Run ``make()`` in local rank 0 of each machine first, then in the other ranks.

        Raises:
            StoppedElsewhere: it failed in another one, which has said why.
        """
        first = self._in_those(self.local_rank == 0, make)
        others = self._in_those(self.local_rank > 0, make)
        return cast(Result, first if self.local_rank == 0 else others)

    def by_leader(self, make: Callable[[], Result]) -> Result | None:
        """``make()`` in the first process, None in the others; all go on only if it succeeds.

        Raises:
            StoppedElsewhere: it failed there.
        """
        return self._in_those(self.leads, make)

    def _in_those(self, here: bool, make: Callable[[], Result]) -> Result | None:
        result, error = None, None
        try:
            result = make() if here else None
        except Exception as exception:
            error = exception
        has_failure = self.any(error is not None)
        if error is not None:
            raise error
        if has_failure:
            raise StoppedElsewhere
        return result


ALONE = Processes()


@contextmanager
def connected() -> Iterator[None]:
    """Turn PyTorch's errors about other processes into ``Disconnected``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise Disconnected(reason) from error
