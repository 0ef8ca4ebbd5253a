"""Exactly N trajectories of each of M tasks, all tasks' policies acting in one batched forward."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.core.params import Params, tree_map
from metarl.rl.distributions import Gaussian
from metarl.rl.losses import Policy
from metarl.rl.rollout import Trajectories
from metarl.seeding import Purpose, generator


class Step(Protocol):
    """What one env step of M x N environments gives."""

    @property
    def observation(self) -> NDArray[np.floating]: ...  # [M, N, O]
    @property
    def reward(self) -> NDArray[np.floating]: ...  # [M, N]
    @property
    def terminated(self) -> NDArray[np.bool_]: ...  # [M, N]
    @property
    def diverged(self) -> NDArray[np.bool_]: ...  # [M, N]


class Env(Protocol):
    """M tasks x N environments in lock-step, one episode each."""

    @property
    def alive(self) -> NDArray[np.bool_]: ...
    def reset(self, tasks: Any, rngs: Sequence[np.random.Generator]) -> Any: ...
    def step(self, action: Any) -> Step: ...


class Stream(NamedTuple):
    """The random numbers of a call: of (seed, purpose, iteration, each task, inner step)."""

    seed: int
    purpose: Purpose
    iteration: int = 0
    inner_step: int = 0

    def generators(self, tasks: int) -> list[np.random.Generator]:
        return [
            generator(self.seed, self.purpose, self.iteration, task, self.inner_step)
            for task in range(tasks)
        ]


class Sampler:
    """Runs policies in the environments of one family.

    Args:
        make_env: builds M x N environments; they are kept for the sizes that were asked for.
        policy: the policy as a function of its parameters.
        action_dim: A.
        horizon: T.
        device: where trajectories go; the policy acts on the CPU, beside the physics.
    """

    def __init__(
        self,
        make_env: Callable[[int, int], Env],
        policy: Policy,
        action_dim: int,
        horizon: int,
        device: torch.device | str = "cpu",
    ):
        self._make_env = make_env
        self._envs: dict[tuple[int, int], Env] = {}
        self._act = torch.func.vmap(policy)
        self._action_dim = action_dim
        self._horizon = horizon
        self._device = device

    @torch.no_grad()
    def collect(
        self,
        params: Params,
        tasks: NDArray[np.float64],
        num_trajectories: int,
        stream: Stream,
    ) -> Trajectories:
        """Sample trajectories; sum of ``mask`` in the result is the number of env steps.

        Args:
            params: adapted parameters of every task, [M, ...].
            tasks: [M, task_dim].
            num_trajectories: N.
            stream: source of initial states and action noise.
        """
        m, n, horizon = len(tasks), num_trajectories, self._horizon
        env = self._envs.get((m, n)) or self._envs.setdefault((m, n), self._make_env(m, n))
        params = {name: p.cpu() for name, p in params.items()}
        dtype = next(iter(params.values())).dtype
        rngs = stream.generators(m)
        observation = torch.from_numpy(env.reset(tasks, rngs)).to(dtype)

        actions = torch.zeros(m, n, horizon, self._action_dim, dtype=dtype)
        for task, rng in enumerate(rngs):  # the noise now, each action once it is taken
            noise = rng.standard_normal((n, horizon, self._action_dim), dtype=np.float32)
            actions[task] = torch.from_numpy(noise)
        observations = torch.zeros(m, n, horizon, observation.shape[-1], dtype=dtype)
        means, log_stds = torch.zeros_like(actions), torch.zeros_like(actions)
        rewards, discounts, mask = (torch.zeros(m, n, horizon, dtype=dtype) for _ in range(3))
        diverged = torch.zeros(m, n, dtype=torch.bool)

        for t in range(horizon):
            alive = torch.from_numpy(env.alive.copy())
            if not alive.any():
                break
            mean, log_std = self._act(params, observation)
            action = mean + torch.exp(log_std) * actions[:, :, t]
            step = env.step(action.numpy())
            observations[:, :, t], actions[:, :, t] = observation, action
            means[:, :, t], log_stds[:, :, t] = mean, log_std
            rewards[:, :, t] = torch.from_numpy(step.reward)
            discounts[:, :, t] = torch.from_numpy(~step.terminated).to(dtype)
            mask[:, :, t] = (alive & ~torch.from_numpy(step.diverged)).to(dtype)
            diverged |= torch.from_numpy(step.diverged)
            observation = torch.from_numpy(step.observation).to(dtype)

        if not mask.all():
            # Actions of finished episodes were never taken, and a broken one may hold NaN, which
            # no mask can multiply away.
            keep = mask[..., None].bool()
            for x in (observations, actions, means, log_stds):
                x.masked_fill_(~keep, 0)
        sampling = Gaussian(means, log_stds)
        trajectories = Trajectories(
            observations,
            actions,
            sampling,
            sampling.log_prob(actions) * mask,
            rewards,
            discounts,
            mask,
            observation,
            diverged.to(dtype),
        )
        return tree_map(lambda x: x.to(self._device), trajectories)
