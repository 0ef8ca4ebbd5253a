"""Networks: against PyTorch's own layers, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.core.networks import make_stateless
from metarl.core.params import Functional, parameters_of
from metarl.supervised.models import (
    MODELS,
    BatchNorm,
    Conv3x3,
    MaxPool,
    ModelConfig,
    make_model,
    require_outputs,
    sees_batches,
)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(28, 28), (7, 4), (1, 3)])
def test_the_convolution_is_pytorchs(stride: int, size: tuple[int, int]):
    torch.manual_seed(0)
    layer = Conv3x3(3, 5, stride).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    kernel = layer.weight.reshape(3, 3, 3, 5).permute(3, 2, 0, 1)  # row, column, in, out
    expected = F.conv2d(x, kernel, layer.bias, stride, padding=1)
    found = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)


def test_pooling_and_batch_norm_are_pytorchs():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 7, 6, dtype=torch.float64)
    last = x.permute(0, 2, 3, 1)
    torch.testing.assert_close(MaxPool()(last).permute(0, 3, 1, 2), F.max_pool2d(x, 2))
    norm = BatchNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    expected = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    torch.testing.assert_close(norm(last).permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("pooling", ["stride", "max"])
def test_conv4_has_the_size_of_the_papers(pooling: str):
    config = ModelConfig(name="conv", pooling=pooling)  # type: ignore[arg-type]
    model = make_model(config, (1, 28, 28), 5, seed=0)
    features = 64 * (2 * 2 if pooling == "stride" else 1)
    convolutions = 9 * (1 + 3 * 64) * 64 + 4 * 64
    expected = convolutions + 4 * 2 * 64 + (features + 1) * 5
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 5)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_come_from_the_seed_and_the_head_is_named(name: str):
    config = ModelConfig(name=name, filters=4, hidden_sizes=[6, 5])
    first, same, other = (make_model(config, (1, 16, 16), 3, seed) for seed in (0, 0, 1))
    for (key, a), b, c in zip(
        first.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        if a.dim() > 1:
            assert not torch.equal(a, c)
            assert float(a.detach().abs().max()) <= (6 / sum(a.shape)) ** 0.5, "Glorot uniform"
        elif key.endswith("bias"):
            assert not a.any()
    heads = [key for key, _ in first.named_parameters() if key.startswith("head.")]
    assert heads == ["head.weight", "head.bias"]
    assert sees_batches(first, (1, 16, 16)) == (name != "mlp")
    require_outputs(first, (1, 16, 16), 3)


def test_any_way_to_look_at_other_examples_is_seen():
    class Centred(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.mean(0))

    assert sees_batches(Centred(4, 2), (4,))
    assert not sees_batches(nn.Linear(4, 2), (4,))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="8x8 are too small"):
        make_model(ModelConfig(name="conv", pooling="max"), (1, 8, 8), 5, seed=0)


def test_batch_norm_of_a_users_module_is_made_stateless():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
    assert make_stateless(model)
    assert not make_stateless(model)
    assert sees_batches(model, (1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    trained, evaluated = model(x), model.eval()(x)
    assert torch.equal(trained, evaluated), "the statistics are always the batch's"
    assert not list(model.buffers())
    torch.testing.assert_close(Functional(model)(parameters_of(model), x), trained)


def _with_buffer() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.register_buffer("c", torch.ones(1))
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.5), "layer 0 is random"),
        (nn.InstanceNorm1d(3, track_running_stats=True), "layer 0 has running statistics"),
        (_with_buffer(), r"it has buffers \(0.c\)"),
    ],
)
def test_other_state_is_refused(layer: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        make_stateless(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(4, 2), r"the model gives \(3, 2\) for 3 inputs, not \(3, 5\)"),
        (nn.Linear(3, 5), r"the model fails on inputs \[4\]"),
        (nn.LSTM(4, 5), "the model gives tuple for 3 inputs"),
        (nn.Sequential(nn.Linear(4, 5), nn.RReLU()), "other outputs for the same inputs"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(model: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        require_outputs(model, (4,), 5)
