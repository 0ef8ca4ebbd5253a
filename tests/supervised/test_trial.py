"""The trial of a user's own model: what vmap cannot do, and what has no second derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.experiment import build
from metarl.experiment.build import make_supervised_learner
from metarl.experiment.schema import SupervisedExperiment
from metarl.runtime.errors import UserError
from metarl.supervised.inner_config import SupervisedInnerConfig
from metarl.supervised.learner import SupervisedLearner
from metarl.supervised.models import ModelConfig


class Recurrent(nn.Module):
    """An LSTM over the inputs as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(1, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x[..., None])[0][:, -1])
        return result


class Attention(nn.Module):
    """Fused attention over the inputs as a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x[:, None, :, None])
        result: Tensor = self.head(F.scaled_dot_product_attention(h, h, h)[:, 0, -1])
        return result


def half_frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 1))


def learner(
    monkeypatch: pytest.MonkeyPatch, make: type[nn.Module], algorithm: str = "maml"
) -> SupervisedLearner:
    monkeypatch.setattr(build, "find", lambda *_: lambda shape, outputs: make())
    config = SupervisedExperiment(
        model=ModelConfig(name="mine:net"),
        tasks=3,
        threads=1,
        compile=False,
        inner=SupervisedInnerConfig(algorithm=algorithm),
    )
    return make_supervised_learner(config)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_vmap_cannot_do_is_done_one_task_at_a_time(monkeypatch, capsys):
    recurrent = learner(monkeypatch, Recurrent)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metarl: warning: tasks are taken one at a time, which is slower: Batch")
    assert recurrent.iterate(0)["loss/after"] > 0
    assert recurrent.evaluate(1).measure == "MSE"


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("algorithm", ["maml", "meta-sgd", "imaml"])
def test_what_has_no_second_derivative_is_told_of_first_order_maml(monkeypatch, capsys, algorithm):
    with pytest.raises(UserError, match="mine:net: it has no second derivative") as error:
        learner(monkeypatch, Attention, algorithm)
    assert str(error.value).endswith("first-order MAML does not: --inner.algorithm fomaml")
    assert learner(monkeypatch, Attention, "fomaml").iterate(0)["loss/after"] > 0
    assert capsys.readouterr().err == ""


def test_frozen_parameters_stay_as_they_are_in_both_loops(monkeypatch):
    half = learner(monkeypatch, half_frozen)  # type: ignore[arg-type]
    before = half.network.with_parameters(half.evaluated_meta).state_dict()
    half.iterate(0)
    half.evaluate(1)
    after = half.network.with_parameters(half.evaluated_meta).state_dict()
    moved = [name for name, p in after.items() if not torch.equal(p, before[name])]
    assert moved == ["2.weight", "2.bias"]
    with pytest.raises(UserError, match="mine:net: none of its parameters has requires_grad"):
        learner(monkeypatch, lambda: half_frozen().requires_grad_(False))  # type: ignore[arg-type]
