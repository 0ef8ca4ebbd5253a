"""``metarl export``: weights, learned rates and a program that needs no metarl."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metarl
from metarl.commands.main import export, train

READ = """
import sys, torch
program = torch.export.load("policy.pt2").module()
outputs = program(torch.load("inputs.pt", weights_only=True))
torch.save(outputs, "outputs.pt")
assert not any(name.partition(".")[0] in ("metarl", "metarl_envs") for name in sys.modules)
"""


def outputs_of_program(folder: Path, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What another process without metarl makes of them."""
    torch.save(inputs, folder / "inputs.pt")
    subprocess.run([sys.executable, "-I", "-c", READ], cwd=folder, check=True)
    return torch.load(folder / "outputs.pt", weights_only=True)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--inner.algorithm", "meta-sgd", "--observe_task", "true"),
        ("--env.family", "bandit", "--policy.name", "categorical-mlp"),
    ],
)
def test_an_exported_policy_acts_alike(toy, runs, workplace, settings):
    assert train(toy("run", *settings, "--iterations", "2")) == 0
    run = metarl.load(runs / "run")
    assert export([str(runs / "run")]) == 0
    policy = run.policy()
    weights = torch.load("policy.pt", weights_only=True)
    assert weights.keys() == policy.module.state_dict().keys()
    assert all(torch.equal(weights[n], p) for n, p in policy.module.state_dict().items())
    assert all(torch.equal(p, weights[n]) for n, p in run.module.state_dict().items())
    inputs = torch.randn(7, *policy.observation_shape)
    found, expected = outputs_of_program(workplace, inputs), policy.module(inputs)
    torch.testing.assert_close(found["action"], expected.mode())
    for name, value in expected._asdict().items():
        torch.testing.assert_close(found[name], value)
    if "meta-sgd" in settings:
        rates = torch.load("policy.rates.pt", weights_only=True)
        assert rates.keys() == dict(policy.module.named_parameters()).keys()
        assert all(torch.equal(rates[name], rate) for name, rate in run.rates.items())
    else:
        assert not Path("policy.rates.pt").exists()


def test_an_exported_model_is_the_averaged_one(toy_supervised, runs, workplace, capsys):
    average = ("--outer.average_decay", "0.9", "--iterations", "3")
    assert train(toy_supervised("run", *average)) == 0
    capsys.readouterr()
    assert export([str(runs / "run"), "--output", "models/sine.pt"]) == 0
    assert capsys.readouterr().out == "written: models/sine.pt\nwritten: models/sine.pt2\n"
    run = metarl.load(runs / "run")
    state = torch.load(next((runs / "run/checkpoints").glob("*3.pt")), weights_only=True)["learner"]
    theta = torch.cat([p.flatten() for p in run.module.state_dict().values()])
    assert torch.equal(theta, state["outer"]["average"])
    inputs = torch.randn(5, 1)
    program = torch.export.load("models/sine.pt2").module()
    torch.testing.assert_close(program(inputs)["output"], run.module(inputs))


def test_bad_exports_are_refused(toy, runs, refused):
    assert train(toy("run", "--iterations", "1")) == 0
    assert "named .pt" in refused(export, str(runs / "run"), "--output", "policy.onnx")
    assert "no run folder" in refused(export, "nowhere")
    assert "no checkpoint 7" in refused(export, str(runs / "run"), "--checkpoint", "7")
