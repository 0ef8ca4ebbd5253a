"""Sizes are refused up front: in one line, before a folder or a network is made."""

import pytest
from torch import nn

from metarl.commands.main import evaluate, train
from metarl.experiment import sizes
from metarl.experiment.schema import RLExperiment
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.memory import memory

BILLION = "1000000000"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"--tasks {BILLION}", "tasks 1000000000 with 20 trajectories of 100 env steps"),
        (f"--trajectories {BILLION}", "tasks 20 with 1000000000 trajectories"),
        (f"--env.horizon {BILLION}", "trajectories of 1000000000 env steps"),
        (f"--inner.steps {BILLION}", "before and after 1000000000 inner steps"),
        (f"--evaluation.tasks {BILLION}", "evaluation.tasks 1000000000 with 20 trajectories"),
        (f"--evaluation.inner_steps {BILLION}", "after 1000000000 inner steps"),
        ("--policy.hidden_sizes [300000,300000]", "90,001,800,004 parameters and their gradient"),
        ("--policy.hidden_sizes [30000,30000]", "and 900,180,004 parameters, need"),
        (f"--data.source sinusoid --tasks {BILLION}", "tasks 1000000000 with 20 examples and 1 in"),
        (f"--data.source sinusoid --inner.steps {BILLION}", "examples and 1000000000 inner steps"),
        (
            f"--data.source sinusoid --evaluation.queries {BILLION}0",
            "evaluation.tasks 600 with 100",
        ),
        (
            "--data.source sinusoid --model.hidden_sizes [300000,300000]",
            "parameters and their gradient need 720",
        ),
    ],
)
def test_what_does_not_fit_in_memory_is_refused_up_front(
    refused, monkeypatch, options: str, said: str
):
    monkeypatch.setattr(sizes, "memory", lambda: 16 * 10**9)
    message = refused(train, *options.split(), "--compile", "false")
    assert said in message
    assert "GB of memory or more; there are 16.0" in message


def test_only_what_is_larger_than_the_memory_is_refused(monkeypatch):
    config = RLExperiment(tasks=10, trajectories=20)
    of_its_evaluation = sizes.NUMBER * 40 * 4 * (20 * 100 * (2 + 3 * 2 + 4) + 6)
    monkeypatch.setattr(sizes, "memory", lambda: of_its_evaluation)
    sizes.require_room_for_policies(config, 100, (2,), (2,), {"w": [2, 3]}, 1)
    monkeypatch.setattr(sizes, "memory", lambda: of_its_evaluation - 1)
    with pytest.raises(UserError, match=r"evaluation.tasks 40 .* and 6 parameters"):
        sizes.require_room_for_policies(config, 100, (2,), (2,), {"w": [2, 3]}, 1)


def test_shapes_of_a_network_take_no_memory():
    shapes = sizes.shapes_of(lambda: nn.Linear(10**6, 10**6))
    assert shapes == {"weight": [10**6, 10**6], "bias": [10**6]}
    assert memory() < 4 * 10**12


def test_a_strangers_config_is_compared_with_the_checkpoint_before_a_network_is_made(
    toy, runs, capsys, monkeypatch
):
    assert train(toy("run", "--iterations", "0")) == 0
    config = runs / "run" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("hidden_sizes:\n  - 4\n", "hidden_sizes:\n  - 20000\n  - 9\n"))
    assert config.read_text() != text
    monkeypatch.setattr(nn.init, "xavier_uniform_", lambda x, **_: _require_meta(x))
    info = runs / "run" / "run.json"
    info.write_text(info.read_text().replace('"signature": "', '"signature": "0'))
    run = str(runs / "run")
    for command, arguments in ((evaluate, [run]), (train, ["--resume", run])):
        assert command(arguments) == 2
        said = capsys.readouterr().err
        assert "checkpoint does not fit this run: body.0.weight has shape [4, 2], not [20" in said
    assert RunFolder(runs / "run").load_evaluation() is not None


def _require_meta(x):
    assert x.is_meta, "a network was made"
