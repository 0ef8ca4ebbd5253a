"""``metarl report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from metarl.commands.command import RUNS, command
from metarl.experiment import evaluations
from metarl.experiment.overrides import EvaluateOptions, RunOptions, with_options
from metarl.experiment.schema import Experiment
from metarl.experiment.settings import read_config
from metarl.runtime.errors import UserError
from metarl.runtime.files import require_writable
from metarl.runtime.folder import RunFolder
from metarl.runtime.paths import PathText


@dataclass(frozen=True)
class ReportOptions(RunOptions):
    """Options of ``metarl report``.

    Args:
        videos: held-out tasks whose adaptation is filmed; of several runs, one each.
        output: the HTML file; null: report.html in the run's folder, or comparison.html in the
            first of several. Runs of different tasks then have a page for each task.
    """

    videos: Annotated[int, Interval(ge=0, le=3)] = 3
    output: PathText | None = None


@command(RUNS, ReportOptions)
def report(paths: Sequence[str], options: ReportOptions) -> int:
    """Write figures, videos and a page about a run, or about several side by side."""
    runs = evaluations.open_runs(paths, options.trust_code)
    if options.output and Path(options.output).suffix != ".html":
        raise UserError(f"the output should be a file named .html, got {options.output}")
    configs = [read_config(run) for run in runs]
    if options.output:
        evaluations.require_same_tasks(runs, configs)
    pages = {}
    for group, group_configs in evaluations.by_tasks(runs, configs):
        first, alone = group[0], len(group) == 1
        page = first.report_file if alone else first.path / "comparison.html"
        pages[Path(options.output) if options.output else page] = group, group_configs
    for page in pages:
        require_writable(page)
    for page, (group, group_configs) in pages.items():
        _write_page(page, group, group_configs, options.videos)
        print(f"report: {page}")
    return 0


def _write_page(
    page: Path, runs: Sequence[RunFolder], configs: Sequence[Experiment], videos: int
) -> None:
    """Evaluate the runs alike, where that is still to do, and write their page."""
    alike = [with_options(config, EvaluateOptions(), configs) for config in configs]
    has_videos = videos > 0
    views = [
        evaluations.newest(run, config, has_videos) for run, config in zip(runs, alike, strict=True)
    ]
    from metarl.report.page import write_report

    try:
        write_report(views, page, videos)
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror}") from error
