"""``metarl sweep``."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from metarl.commands.command import HELP, command
from metarl.experiment.sweeps import Planned, planned
from metarl.report import tables
from metarl.runtime.errors import UserError, under_torchrun
from metarl.runtime.launch import die_with_parent

STOPS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
CHILD = "from metarl.commands.sweep import main_of_run; main_of_run()"


@command()
def sweep(argv: Sequence[str]) -> int:
    """Train with every combination of some settings; --print: print the commands."""
    if {*HELP} & {*argv}:
        return _print_help()
    runs = planned([word for word in argv if word != "--print"])
    if "--print" in argv:
        print("\n".join(run.command for run in runs))
        return 0
    if under_torchrun():
        raise UserError("under torchrun there is one run at a time; see --print")
    codes = run_all(runs)
    header, rows = results(runs, codes)
    tables.print_whole(tables.terminal_table(f"{len(runs)} runs", header, rows))
    return int(any(codes))


def run_all(runs: Sequence[Planned]) -> list[int]:
    """Train one run after the other; return the exit codes of those that were begun.

    A failed run does not end the sweep. The first signal to stop is handed on to the run, which
    saves and stops; no other run is begun.
    """
    codes: list[int] = []
    with _Stops() as stops:
        for number, run in enumerate(runs, start=1):
            print(f"[{number}/{len(runs)}] {run.command}", flush=True)
            with stops.start(run) as process:
                codes.append(process.wait())
            if stops.is_set:
                break
    return codes


def results(runs: Sequence[Planned], codes: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of runs; runs that were not begun have no exit code."""
    cells = [*map(str, codes), *["not begun"] * (len(runs) - len(codes))]
    return ["run", "exit code"], [[run.name, code] for run, code in zip(runs, cells, strict=True)]


def main_of_run() -> None:
    """Run ``metarl train`` in a child process of a sweep."""
    from metarl.__main__ import main

    die_with_parent()
    sys.argv[0] = "metarl"
    sys.exit(main())


class _Stops:
    """Signals to stop go to the run's process, which is in a process group of its own.

    Otherwise Ctrl-C in a terminal would reach it twice, and the second one stops it at once.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._process: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Stops":
        self._previous = {number: signal.signal(number, self._stop) for number in STOPS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def start(self, run: Planned) -> Iterator[subprocess.Popen[bytes]]:
        """Start a run, and hand signals on to it while it goes."""
        words = [sys.executable, "-P", "-c", CHILD, "train", *run.words]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0) as process:
            self._process = process
            if self.is_set:  # before the process was known, and so not handed on to it
                process.send_signal(signal.SIGTERM)
            yield process
            self._process = None

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)


def _print_help() -> int:
    sweep.print_usage()
    print(
        "  --grid KEY=[VALUE,...]                  values of a setting; again for another setting"
    )
    print("  --print                                 print one command a line, for job arrays")
    print("  --config NAME or FILE                   settings of a YAML file; later ones win")
    print("  --name NAME                             what the names of all runs begin with")
    print("\nThe other options are settings of every run; metarl train --help lists them.")
    print("Runs that are done are left as they are, and others go on (--resume auto).")
    return 0
