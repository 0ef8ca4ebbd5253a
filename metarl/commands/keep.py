"""``metarl keep``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.commands.command import RUNS, command
from metarl.experiment.evaluations import open_runs
from metarl.experiment.kept_runs import keep_run, stopped_run
from metarl.experiment.overrides import RunOptions
from metarl.runtime.errors import UserError
from metarl.runtime.paths import PathText


@dataclass(frozen=True)
class KeepOptions(RunOptions):
    """Options of ``metarl keep``.

    Args:
        folder: kept runs are in here.
        name: folder of the kept run; null: the run's name.
    """

    folder: PathText = "results"
    name: PathText | None = None


@command(RUNS, KeepOptions)
def keep(paths: Sequence[str], options: KeepOptions) -> int:
    """Copy runs to small folders that evaluate, report and resume like any run."""
    runs = open_runs(paths, options.trust_code)
    if options.name is not None and len(runs) > 1:
        raise UserError(f"--name needs exactly one run, got {len(runs)}")
    for run in [stopped_run(run) for run in runs]:  # all are whole before the first is kept
        copy = keep_run(run, Path(options.folder), options.name or run.folder.name)
        print(f"kept in {copy.path}: {copy.iterations} iterations, {copy.size / 1000:,.0f} kB")
    return 0
