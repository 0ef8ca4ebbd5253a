"""``metarl train``."""

from collections.abc import Sequence
from contextlib import ExitStack

from metarl.commands.command import HELP, command, print_settings
from metarl.commands.training import Training, learner_of, require_same_settings
from metarl.experiment.reading import read_words
from metarl.experiment.schema import plain
from metarl.experiment.settings import asked, known_settings, parse, read_settings
from metarl.experiment.suggestions import did_you_mean
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.launch import joined
from metarl.runtime.lock import locked


@command()
def train(argv: Sequence[str]) -> int:
    """Meta-train a policy or a model, then evaluate it on held-out tasks."""
    if {*HELP} & {*argv}:
        return _print_help([word for word in argv if word not in HELP])
    with ExitStack() as stack:
        config, old_run = read_settings(argv, lambda run: stack.enter_context(locked(run.path)))
        processes = stack.enter_context(joined(config.device, config.timeout))
        require_same_settings(config, processes)
        learner = processes.in_turn(lambda: learner_of(config, old_run, processes))
        run = old_run or RunFolder(config.path)
        return Training(config, run, learner, processes).run(go_on=old_run is not None)


def _print_help(argv: Sequence[str]) -> int:
    """Print the settings, with those of the family, policy and outer step that ``argv`` names."""
    topics, options = read_words(argv)
    config = parse(asked(options)[0])
    settings = known_settings(type(config), plain(config))
    if topics:
        for topic in topics:
            about = {path: s for path, s in settings.items() if path.startswith(topic)}
            if not about:
                raise UserError(f"there is no setting {topic}{did_you_mean(topic, settings)}")
            print_settings(about, whole=True)
        return 0
    train.print_usage()
    print("  --config NAME or FILE                   settings of a YAML file; later ones win")
    print("  --resume RUN                            go on with the run in this folder")
    print(
        "  --resume auto                           begin the run of this --name, or go on with it"
    )
    print("  --trust-code                            import code that a run of others names")
    print("  --print_config                          print all settings as YAML, and stop")
    print("  --help [SETTING or GROUP]               all about some settings, with their types\n")
    print_settings(settings)
    return 0
