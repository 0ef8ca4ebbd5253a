"""``metarl train``."""

from collections.abc import Sequence
from pathlib import Path

from metarl.commands.command import command
from metarl.commands.training import Training, require_same_settings
from metarl.experiment import build
from metarl.experiment.settings import read_settings
from metarl.runtime.folder import RunFolder
from metarl.runtime.launch import joined


@command
def train(argv: Sequence[str]) -> int:
    """Meta-train a policy or a model, then evaluate it on held-out tasks."""
    config, resumed = read_settings(argv)
    with joined(config.device, config.timeout) as processes:
        require_same_settings(config, processes)
        learner = processes.in_turn(lambda: build.make_learner(config, processes))
        run = resumed or RunFolder(Path(config.folder) / str(config.name))
        return Training(config, run, learner, processes).run(go_on=resumed is not None)
