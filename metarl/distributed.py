"""Several processes as one run: what torchrun starts finds each other, restarts included."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from metarl.core.world import ALONE, World, connected
from metarl.errors import UserError


def launched() -> World:
    """What torchrun's environment variables say of this process; no other is talked to yet."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return World(*(int(os.environ[name]) for name in names))


def launch_id() -> str | None:
    """What names the command that torchrun was given, the same after a restart; None if nothing."""
    found = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if found == "none" else found


def restarts() -> int:
    """How often torchrun has started the processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device: str, timeout: float) -> Iterator[World]:
    """This process together with the others.

    Args:
        device: cpu, or cuda for one GPU per process.
        timeout: seconds until a process that does not answer counts as lost.

    Raises:
        Disconnected: the others are not there in time.
    """
    world = launched()
    if world.size == 1:
        yield world
        return
    if device == "cuda":
        torch.cuda.set_device(world.local_rank)
    with connected():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=_store_of_this_attempt(world.size, timedelta(seconds=timeout)),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout),
        )
    try:
        yield world
    except UserError as error:
        if not world.leads:  # which speaks for itself
            print(f"process {world.rank}: {error}", file=sys.stderr, flush=True)
        raise
    with connected():
        # Else the interpreter may end while gloo's threads still hold tensors of it, and abort.
        dist.barrier()
    dist.destroy_process_group()


def _store_of_this_attempt(size: int, timeout: timedelta) -> dist.Store:
    """Where the processes find each other's addresses.

    Torchrun's store outlives a restart, and what the dead left in it would be read again: every
    attempt has a prefix of its own. Counting restarts is not enough, as machines that come and go
    start processes again without one.
    """
    port = int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, size, is_master=False, timeout=timeout)
    attempt = f"metarl/{restarts()}/{size}"
    generation = (store.add(f"{attempt}/joined", 1) - 1) // size
    return dist.PrefixStore(f"{attempt}/{generation}", store)
