"""``metarl export``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.commands.command import Arguments, command
from metarl.experiment import evaluations
from metarl.experiment.overrides import RunOptions
from metarl.experiment.settings import read_config
from metarl.runtime.folder import RunFolder
from metarl.runtime.paths import PathText


@dataclass(frozen=True)
class ExportOptions(RunOptions):
    """Options of ``metarl export``.

    Args:
        output: file of the weights, ending in .pt; the program is beside it, ending in .pt2.
        checkpoint: last, best, or a number of iterations.
    """

    output: PathText = "policy.pt"
    checkpoint: str = "last"


@command(Arguments("RUN", "a run folder"), ExportOptions)
def export(paths: Sequence[str], options: ExportOptions) -> int:
    """Write a run's network: its weights, and a torch.export program that needs no metarl."""
    run = RunFolder.open(Path(paths[0]), options.trust_code)
    model = evaluations.load(run, read_config(run), options.checkpoint)
    for file in evaluations.export_to(model, Path(options.output)):
        print(f"written: {file}")
    return 0
