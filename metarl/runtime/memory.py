"""The memory of this machine, or of the container that this process is in."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

OF_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNKNOWN = 2**40


@cache
def memory() -> int:
    """Return the memory that this process can have at most, bytes."""
    limits = [UNKNOWN]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no such call
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in OF_CONTAINER:
        with suppress(ValueError, OSError):  # there is none, or it says `max`
            limits.append(int(Path(file).read_text()))
    return min(limits)
