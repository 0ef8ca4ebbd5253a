"""The meta-gradient on a bandit whose every outcome is enumerated, against the exact one."""

import torch
from torch import Tensor

from metarl.core.adapt import adapt
from metarl.rl.distributions import Categorical
from metarl.rl.losses import Transitions, lvc_loss, reinforce_loss

REWARDS = torch.tensor([0.3, 1.0, -0.4, 0.7], dtype=torch.float64)  # of every arm
ALPHA = 0.5


def policy(params: dict[str, Tensor], observations: Tensor) -> Categorical:
    return Categorical(params["logits"].expand(*observations.shape[:-1], -1))


def every_outcome(theta: dict[str, Tensor]) -> Transitions:
    """One env step per arm; the mask has its probability, so that means are expectations."""
    arms = torch.arange(len(REWARDS), dtype=torch.float64)
    observations = torch.ones(len(arms), 1, dtype=torch.float64)
    sampling = policy({"logits": theta["logits"].detach()}, observations)
    return Transitions(
        observations,
        arms,
        REWARDS,
        sampling,
        sampling.log_prob(arms),
        sampling.probabilities[0],
        torch.zeros_like(arms),
        arms,
        REWARDS,
        torch.zeros_like(arms),
    )


def expected_reward(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1) @ REWARDS


def weighted(loss):
    """The loss with ratios that the weights in the mask do not touch."""

    def of(params: dict[str, Tensor], batch: Transitions) -> Tensor:
        new = policy(params, batch.observations)
        if loss is reinforce_loss:
            values = new.log_prob(batch.actions)
        else:
            values = torch.exp(new.log_prob(batch.actions) - batch.log_probs)
        return -(values * batch.advantages * batch.mask).sum()

    return of


def test_losses_are_expectations_over_outcomes():
    theta = {"logits": torch.tensor([0.2, -0.1, 0.4, 0.0], dtype=torch.float64)}
    batch = every_outcome(theta)
    ones = batch._replace(mask=torch.ones(4, dtype=torch.float64))
    for loss in (reinforce_loss, lvc_loss):
        weights = batch.mask * 4  # the mean over four env steps of weighted values
        expected = weighted(loss)(theta, batch)
        found = loss(policy, theta, ones._replace(advantages=REWARDS * weights))
        torch.testing.assert_close(found, expected)


def test_the_meta_gradient_is_exact_with_low_variance_curvature():
    logits = torch.tensor([0.2, -0.1, 0.4, 0.0], dtype=torch.float64)

    def exact(logits: Tensor) -> Tensor:
        gradient = torch.func.grad(expected_reward)(logits)
        return expected_reward(logits + ALPHA * gradient)

    wanted = torch.func.grad(exact)(logits)
    found = {}
    for loss in (reinforce_loss, lvc_loss):
        theta = {"logits": logits.clone().requires_grad_()}
        support = every_outcome(theta)
        support = support._replace(advantages=REWARDS * support.mask * 4, mask=torch.ones(4))
        phi = adapt(
            lambda params, batch, loss=loss: loss(policy, params, batch),
            theta,
            [{"logits": ALPHA}],
            [support],
        )
        query = every_outcome(phi)
        query = query._replace(advantages=REWARDS * query.mask * 4, mask=torch.ones(4))
        outer = lvc_loss(policy, phi, query)
        (gradient,) = torch.autograd.grad(-outer, theta["logits"])
        found[loss] = gradient
    torch.testing.assert_close(found[lvc_loss], wanted, rtol=1e-12, atol=1e-14)
    # Vanilla policy gradient takes its data as given: another derivative of the inner step.
    assert not torch.allclose(found[reinforce_loss], wanted, rtol=1e-3)
