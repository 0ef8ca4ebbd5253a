"""``metarl export``: weights, learned rates and a program that needs no metarl."""

import subprocess
import sys
from pathlib import Path

import torch

import metarl
from metarl.commands.main import export, train

READ = """
import sys, torch
for folder in sys.argv[1:]:
    program = torch.export.load(f"{folder}/policy.pt2").module()
    outputs = program(torch.load(f"{folder}/inputs.pt", weights_only=True))
    torch.save(outputs, f"{folder}/outputs.pt")
assert not any(name.partition(".")[0] in ("metarl", "metarl_envs") for name in sys.modules)
"""
"""A process without metarl."""

POLICIES = {
    "gaussian": (),
    "rates": ("--inner.algorithm", "meta-sgd", "--observe_task", "true"),
    "categorical": ("--env.family", "bandit", "--policy.name", "categorical-mlp"),
}


def test_exported_policies_act_alike(toy, runs, workplace):
    exported = {}
    for name, settings in POLICIES.items():
        assert train(toy(name, *settings, "--iterations", "2")) == 0
        assert export([str(runs / name), "--output", f"{name}/policy.pt"]) == 0
        run = exported[name] = metarl.load(runs / name)
        torch.save(torch.randn(7, *run.policy().observation_shape), f"{name}/inputs.pt")
        weights = torch.load(f"{name}/policy.pt", weights_only=True)
        module = run.policy().module
        assert weights.keys() == module.state_dict().keys()
        assert all(torch.equal(weights[n], p) for n, p in module.state_dict().items())
        assert all(torch.equal(p, weights[n]) for n, p in run.module.state_dict().items())
        assert Path(name, "policy.rates.pt").exists() == (name == "rates")
    rates, run = torch.load("rates/policy.rates.pt", weights_only=True), exported["rates"]
    assert rates.keys() == dict(run.policy().module.named_parameters()).keys()
    assert all(torch.equal(rates[name], rate) for name, rate in run.rates.items())

    subprocess.run([sys.executable, "-I", "-c", READ, *POLICIES], cwd=workplace, check=True)
    for name, run in exported.items():
        inputs, found = (
            torch.load(f"{name}/{of}.pt", weights_only=True) for of in ("inputs", "outputs")
        )
        expected = run.policy().module(inputs)
        torch.testing.assert_close(found["action"], expected.mode())
        for part, value in expected._asdict().items():
            torch.testing.assert_close(found[part], value)


def test_a_policy_is_exported_under_its_own_name(toy, runs, workplace):
    assert train(toy("run", "--iterations", "1")) == 0
    assert export([str(runs / "run")]) == 0
    assert {path.name for path in workplace.iterdir()} == {"policy.pt", "policy.pt2"}


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
