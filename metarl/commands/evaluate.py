"""``metarl evaluate``."""

from collections.abc import Sequence
from pathlib import Path

from metarl.commands.command import RUNS, command
from metarl.experiment import evaluations
from metarl.experiment.overrides import EvaluateOptions, with_options
from metarl.experiment.settings import read_config
from metarl.report import comparison, tables
from metarl.report.view import RunView, by_test
from metarl.runtime.files import require_writable

OTHER_SETTINGS = (
    "not kept, because these settings or data differ from the run's own evaluation; see --output"
)


@command(RUNS, EvaluateOptions, steps="inner_steps")
def evaluate(paths: Sequence[str], options: EvaluateOptions) -> int:
    """Adapt trained policies to held-out tasks, the same for all, and score every inner step."""
    runs = evaluations.open_runs(paths, options.trust_code)
    configs = [read_config(run) for run in runs]
    evaluations.require_same_tasks(runs, configs)
    models = [
        evaluations.load(run, with_options(config, options, configs), options.checkpoint)
        for run, config in zip(runs, configs, strict=True)
    ]
    output = Path(options.output) if options.output else None
    for file in [output] if output else [run.evaluation_file for run in runs]:
        require_writable(file)
    views = []
    for one in models:
        print(f"{one.run.path} after {one.iteration} iterations", flush=True)
        own = evaluations.is_own(one)
        views.append(evaluations.evaluated(one, keep=own and output is None))
        tables.print_scores(views[-1])
        if output is None:
            message = f"written to {one.run.evaluation_file}"
            print(message if own else OTHER_SETTINGS)
    if len(views) > 1:
        _print_comparison(views)
    if output is not None:
        evaluations.write(output, views)
        print(f"written to {output}")
    return 0


def _print_comparison(views: Sequence[RunView]) -> None:
    if different := comparison.what_differs(views):
        tables.print_whole(tables.terminal_table("what differs", *different))
    note = comparison.over_what(views)
    for test, runs in by_test(views).items():
        title = "\n".join(filter(None, [f"side by side{test and f', {test}'}", note]))
        tables.print_whole(tables.terminal_table(title, *comparison.scores(runs, views)))
        if (differences := comparison.differences(runs, views)) is None:
            continue
        how, header, rows = differences
        title = (
            f"{header[0]}, {how}\n(a model that does not adapt is the same after every inner step)"
        )
        tables.print_whole(tables.terminal_table(title, header, rows))
