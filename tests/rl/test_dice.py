"""Inner losses on a Markov decision process whose every trajectory is enumerated, in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from metarl.core.adapt import adapt
from metarl.rl.distributions import Categorical
from metarl.rl.losses import (
    Transitions,
    dice_loss,
    discounted_sums,
    loaded_dice_loss,
    lvc_loss,
    reinforce_loss,
)

HORIZON, ALPHA = 3, 0.7
TRANSITIONS = torch.tensor(  # [state, action, next state]
    [[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64
)
REWARDS = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)  # [state, action]
LOGITS = torch.tensor([[0.2, -0.3], [0.1, 0.4]], dtype=torch.float64)


def policy(params: dict[str, Tensor], observations: Tensor) -> Categorical:
    return Categorical(observations @ params["logits"])


def expected_return(logits: Tensor) -> Tensor:
    """From state 0, by dynamic programming."""
    values = torch.zeros(2, dtype=torch.float64)
    for _ in range(HORIZON):
        values = (torch.softmax(logits, -1) * (REWARDS + TRANSITIONS @ values)).sum(-1)
    return values[0]


def every_trajectory(logits: Tensor) -> Transitions:
    """All trajectories, each advantage its reward to go times the trajectory's probability.

    Also times the number of env steps, so that the mean of a loss is the expected sum.
    """
    rows = []
    choices = [(action, following) for action in range(2) for following in range(2)]
    for number, steps in enumerate(itertools.product(choices, repeat=HORIZON)):
        state, probability, states, actions, rewards = 0, 1.0, [], [], []
        for action, following in steps:
            probability *= float(torch.softmax(logits[state], -1)[action])
            probability *= float(TRANSITIONS[state, action, following])
            states.append(state)
            actions.append(action)
            rewards.append(float(REWARDS[state, action]))
            state = following
        for t in range(HORIZON):
            rows.append((states[t], actions[t], sum(rewards[t:]) * probability, t, number))
    state, action, advantage, time, number = torch.tensor(rows, dtype=torch.float64).T
    observations = torch.eye(2, dtype=torch.float64)[state.long()]
    sampling = policy({"logits": logits.detach()}, observations)
    ones = torch.ones_like(action)
    return Transitions(
        observations,
        action,
        advantage * len(rows),
        sampling,
        sampling.log_prob(action),
        ones,
        time,
        number,
        ones,
        ones,
    )


def meta_gradient(loss) -> Tensor:
    """Of the exact return after one inner step on all trajectories."""
    theta = {"logits": LOGITS.clone().requires_grad_()}
    phi = adapt(
        lambda params, batch: loss(policy, params, batch),
        theta,
        [{"logits": ALPHA}],
        [every_trajectory(LOGITS)],
    )
    return torch.autograd.grad(expected_return(phi["logits"]), theta["logits"])[0]


def exact_meta_gradient() -> Tensor:
    def after(logits: Tensor) -> Tensor:
        return expected_return(logits + ALPHA * torch.func.grad(expected_return)(logits))

    return torch.func.grad(after)(LOGITS)


@pytest.mark.parametrize("loss", [reinforce_loss, lvc_loss, dice_loss, loaded_dice_loss])
def test_every_loss_has_the_policy_gradient(loss):
    def value(logits: Tensor) -> Tensor:
        return loss(policy, {"logits": logits}, every_trajectory(LOGITS))

    gradient = torch.func.grad(value)(LOGITS)
    torch.testing.assert_close(-gradient, torch.func.grad(expected_return)(LOGITS))


def test_the_meta_gradient_of_dice_is_exact():
    torch.testing.assert_close(meta_gradient(dice_loss), exact_meta_gradient(), rtol=1e-12, atol=0)
    for loss in (reinforce_loss, lvc_loss, loaded_dice_loss):  # they see less of the past
        assert not torch.allclose(meta_gradient(loss), exact_meta_gradient(), rtol=1e-3)


def test_loaded_dice_lies_between_lvc_and_dice():
    def loaded(decay):
        return meta_gradient(lambda *args: loaded_dice_loss(*args, decay=decay))

    torch.testing.assert_close(loaded(0.0), meta_gradient(lvc_loss), rtol=1e-12, atol=0)
    torch.testing.assert_close(loaded(1.0), exact_meta_gradient(), rtol=1e-12, atol=0)
    errors = [(loaded(decay) - exact_meta_gradient()).norm() for decay in (0.0, 0.5, 0.95, 1.0)]
    assert errors == sorted(errors, reverse=True)


def test_padding_and_order_of_the_trajectories_do_not_matter():
    batch = every_trajectory(LOGITS)
    params = {"logits": LOGITS + 0.3}
    expected = loaded_dice_loss(policy, params, batch)
    padded = Transitions(
        *(
            Categorical(torch.nn.functional.pad(x.logits, (0, 0, 0, 7)))
            if isinstance(x, Categorical)
            else torch.nn.functional.pad(x, (*[0, 0] * (x.dim() - 1), 0, 7))
            for x in batch
        )
    )
    torch.testing.assert_close(loaded_dice_loss(policy, params, padded), expected)
    order = torch.arange(len(batch.actions)).reshape(-1, HORIZON).flip(0).flatten()
    turned = Transitions(
        *(Categorical(x.logits[order]) if isinstance(x, Categorical) else x[order] for x in batch)
    )
    torch.testing.assert_close(loaded_dice_loss(policy, params, turned), expected)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 100])
def test_discounted_sums_are_those_of_the_recurrence(size):
    generator = torch.Generator().manual_seed(size)
    x, factors = torch.randn(2, 3, size, dtype=torch.float64, generator=generator)
    factors = factors * (torch.rand(3, size, generator=generator) > 0.2)
    expected, y = [], torch.zeros(3, dtype=torch.float64)
    for t in range(size):
        y = factors[:, t] * y * (t > 0) + x[:, t]
        expected.append(y)
    torch.testing.assert_close(discounted_sums(x, factors), torch.stack(expected, -1))
