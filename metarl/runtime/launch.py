"""Several processes as one run: torchrun's processes find each other, also after a restart."""

import ctypes
import importlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from metarl.core.processes import ALONE, Processes, connected
from metarl.runtime.console import complain
from metarl.runtime.errors import UserError, under_torchrun


def launched() -> Processes:
    """Return this process's place by torchrun's environment variables, before any contact."""
    if not under_torchrun():
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Processes(*(int(os.environ[name]) for name in names))


def launch_id() -> str | None:
    """Return a name of torchrun's launch, the same after a restart; None without torchrun.

    Raises:
        UserError: torchrun was given no name.
    """
    if not under_torchrun():
        return None
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name == "none":
        raise UserError("give torchrun an --rdzv-id, by which restarted processes find their run")
    return name


@contextmanager
def joined(device: str, timeout: float) -> Iterator[Processes]:
    """This process together with the others.

    Args:
        device: cpu, or cuda for one GPU per process.
        timeout: seconds until a process that does not answer counts as lost.

    Raises:
        Disconnected: the others are not there in time.
    """
    processes = launched()
    if processes.size == 1:
        yield processes
        return
    # Imported later, by what needs it, it keeps the group alive and with it gloo's threads, which
    # make Python abort at its end when they still hold a tensor.
    importlib.import_module("torch._dynamo")
    die_with_parent()
    if device == "cuda":
        if processes.local_rank >= (gpus := torch.cuda.device_count()):
            raise UserError(f"there are {gpus} GPUs for the {processes.local_size} processes here")
        torch.cuda.set_device(processes.local_rank)
    with connected():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=_store_of_this_attempt(processes, timeout),
            rank=processes.rank,
            world_size=processes.size,
            timeout=timedelta(seconds=timeout),
        )
    try:
        yield processes
    except UserError as error:
        if not processes.leads:  # which speaks for itself
            complain(f"process {processes.rank}: {error}")
        raise
    dist.destroy_process_group()


def die_with_parent() -> None:
    """End when the parent is killed, which would leave a process behind that goes on and writes."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _store_of_this_attempt(processes: Processes, timeout: float) -> dist.Store:
    """Return the store in which the processes find each other's addresses.

    Torchrun's store outlives a restart, and what the dead left in it would be read again: every
    attempt has a prefix of its own. The count of restarts is none, as machines count on their own.
    """
    port, limit = int(os.environ["MASTER_PORT"]), timedelta(seconds=timeout)
    host = os.environ["MASTER_ADDR"]
    store = dist.TCPStore(host, port, processes.size, is_master=False, timeout=limit)
    deadline = time.monotonic() + timeout
    meet = _call_together if processes.leads else _answer
    for attempt in meet(store, processes, secrets.token_hex(8)):
        if attempt:
            return dist.PrefixStore(f"metarl/{attempt}", store)
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {processes.size} processes came within {timeout:g} s")
        time.sleep(0.02)
    raise AssertionError("they try until they are told to stop")


def _call_together(store: dist.Store, processes: Processes, me: str) -> Iterator[str]:
    """List the other processes, in the first one, until all on the list have answered."""
    ranks = range(1, processes.size)
    while True:
        present = store.check([f"metarl/rank{r}" for r in ranks])
        names = [store.get(f"metarl/rank{r}").decode() for r in ranks] if present else []
        attempt = "-".join([me, *names])
        store.set("metarl/attempt", attempt)
        if present and store.check([f"metarl/{attempt}/{name}" for name in names]):
            store.set(f"metarl/{attempt}/begin", "")
            yield attempt
        yield ""


def _answer(store: dist.Store, processes: Processes, me: str) -> Iterator[str]:
    """Answer the first process, from another one, and begin with a list that all are on."""
    store.set(f"metarl/rank{processes.rank}", me)
    while True:
        attempt = store.get("metarl/attempt").decode()
        if me in attempt.split("-"):
            store.set(f"metarl/{attempt}/{me}", "")
            if store.check([f"metarl/{attempt}/begin"]):
                yield attempt
        yield ""
