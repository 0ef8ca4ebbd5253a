"""A policy with the parameters of one task: it acts in any environment."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from torch import nn

from metarl.rl.episodes import Episode
from metarl_envs.family import native_actions


class AdaptedPolicy:
    """A policy with the parameters of one task.

    Args:
        module: from observations [..., *observation_shape] to a distribution of actions.
        action_space: of the environment.
        observation_shape: shape of one observation.
        returns: mean return of the trajectories that were sampled or given, after 0, 1, ... inner
            steps. Only adaptation to a task of the family samples again after the last one.
    """

    def __init__(
        self,
        module: nn.Module,
        action_space: spaces.Space[Any],
        observation_shape: tuple[int, ...],
        returns: Sequence[float] = (),
    ):
        self.module = module
        self.action_space = action_space
        self.observation_shape = observation_shape
        self.returns = list(returns)

    def predict(
        self,
        observation: ArrayLike,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Return actions for ``env.step``.

        Args:
            observation: one observation, or many [..., *observation_shape].
            deterministic: take the mode of the policy's distribution.
            generator: source of random actions; None: PyTorch's own.

        Raises:
            ValueError: the observation has another shape, or is not finite.
        """
        array = np.asarray(observation, dtype=np.float64)
        many = array.shape[: array.ndim - len(self.observation_shape)]
        if array.shape != (*many, *self.observation_shape):
            raise ValueError(
                f"an observation should have shape [..., {self.observation_shape}], "
                f"got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("an observation should be finite")
        dtype = next(self.module.parameters()).dtype
        with torch.no_grad():
            distribution = self.module(torch.from_numpy(array).to(dtype))
            if deterministic:
                action = distribution.mode()
            else:
                noise = torch.randn(*many, distribution.noise_dim, generator=generator)
                action = distribution.sample(noise.to(dtype))
        native = native_actions(self.action_space, action.numpy())
        return native.item() if native.ndim == 0 else native

    def save(self, path: str | Path) -> None:
        """Write the module's weights; ``torch.load(path, weights_only=True)`` reads them."""
        torch.save(self.module.state_dict(), path)

    def copy(self) -> "AdaptedPolicy":
        """Return a policy whose weights are its own."""
        module = copy.deepcopy(self.module)
        return AdaptedPolicy(module, self.action_space, self.observation_shape, self.returns)


def record(
    policy: AdaptedPolicy,
    env: gymnasium.Env[Any, Any],
    horizon: int,
    generator: torch.Generator,
    seed: int,
) -> Episode:
    """Play one episode with random actions of the policy, at most ``horizon`` env steps long."""
    observation, _ = env.reset(seed=seed)
    observations = [np.asarray(observation).reshape(policy.observation_shape)]
    actions: list[NDArray[np.float64]] = []
    rewards: list[float] = []
    space = policy.action_space
    start = int(space.start) if isinstance(space, spaces.Discrete) else 0
    terminated = truncated = False
    while not (terminated or truncated or len(rewards) == horizon):
        action = policy.predict(observations[-1], deterministic=False, generator=generator)
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(np.asarray(action, dtype=float) - start)
        rewards.append(float(reward))
        observations.append(np.asarray(observation).reshape(policy.observation_shape))
    return Episode(
        np.stack(observations[:-1]),
        np.stack(actions),
        np.array(rewards),
        observations[-1],
        bool(terminated),
    )
