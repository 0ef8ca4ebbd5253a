"""Exactly N trajectories of each of M tasks, all tasks' policies acting in one batched forward."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    @property
    def qpos(self) -> NDArray[np.float64]: ...  # [M, N, nq]
    def reset(self, tasks: Any, rngs: Sequence[np.random.Generator]) -> Any: ...
    def step(self, action: Any) -> Step: ...


Watch: TypeAlias = Callable[[int, NDArray[np.float64]], None]
"""Called with the inner step and qpos [M, N, nq], a live view, at the start and every env step."""


class Stream(NamedTuple):
    """The random numbers of a call: of (seed, purpose, iteration, each task, inner step)."""

    seed: int
    purpose: Purpose
    iteration: int = 0
    inner_step: int = 0
    first_task: int = 0  # number of the first of the tasks that are sampled

    def generators(self, tasks: int) -> list[np.random.Generator]:
        return [
            generator(self.seed, self.purpose, self.iteration, task, self.inner_step)
            for task in range(self.first_task, self.first_task + tasks)
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
        self._policies = torch.func.vmap(policy)
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
        noise: float = 1.0,
        watch: Watch | None = None,
    ) -> Trajectories:
        """Sample trajectories; sum of ``mask`` in the result is the number of env steps.

        Args:
            params: adapted parameters of every task, [M, ...].
            tasks: [M, task_dim].
            num_trajectories: N.
            stream: source of initial states and action noise.
            noise: factor on the action noise; 0 takes the policy's mean actions.
            watch: sees the simulations' states.
        """
        m, n = len(tasks), num_trajectories
        env = self._envs.get((m, n)) or self._envs.setdefault((m, n), self._make_env(m, n))
        params = {name: p.cpu() for name, p in params.items()}
        dtype = next(iter(params.values())).dtype
        rngs = stream.generators(m)
        observation = torch.from_numpy(env.reset(tasks, rngs)).to(dtype)
        out = self._allocate(m, n, observation)
        for task, rng in enumerate(rngs):  # the noise now, each action once it is taken
            standard_normal = rng.standard_normal(out.actions.shape[1:], dtype=np.float32)
            out.actions[task] = noise * torch.from_numpy(standard_normal)

        for t in range(self._horizon):
            if watch is not None:
                watch(stream.inner_step, env.qpos)
            alive = torch.from_numpy(env.alive)
            if not alive.any():
                break
            mean, log_std = self._act(params, observation)
            action = mean + torch.exp(log_std) * out.actions[:, :, t]
            step = env.step(action.numpy())
            out.observations[:, :, t], out.actions[:, :, t] = observation, action
            out.sampling.mean[:, :, t], out.sampling.log_std[:, :, t] = mean, log_std
            out.rewards[:, :, t] = torch.from_numpy(step.reward)
            out.discounts[:, :, t] = torch.from_numpy(~step.terminated)
            out.mask[:, :, t] = alive
            broken = torch.from_numpy(step.diverged) | ~torch.isfinite(action).all(-1)
            out.diverged[alive & broken] = 1
            observation = torch.from_numpy(step.observation).to(dtype)
        if watch is not None:
            watch(stream.inner_step, env.qpos)
        finished = _finish(out._replace(final_observations=observation))
        return tree_map(lambda x: x.to(self._device), finished)

    def _act(self, params: Params, observation: Tensor) -> Gaussian:
        """Of every task's own policy. A task's rounding is the same whatever the number of tasks:
        a lone one would be multiplied by other kernels, so it gets company.
        """
        if len(observation) > 1:
            return self._policies(params, observation)
        pair = tree_map(lambda x: x.expand(2, *x.shape[1:]), (params, observation))
        return tree_map(lambda x: x[:1], self._policies(*pair))

    def _allocate(self, m: int, n: int, observation: Tensor) -> Trajectories:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(m, n, *shape, dtype=observation.dtype)

        horizon, action_dim = self._horizon, self._action_dim
        return Trajectories(
            observations=zeros(horizon, observation.shape[-1]),
            actions=zeros(horizon, action_dim),
            sampling=Gaussian(zeros(horizon, action_dim), zeros(horizon, action_dim)),
            log_probs=zeros(horizon),
            rewards=zeros(horizon),
            discounts=zeros(horizon),
            mask=zeros(horizon),
            final_observations=observation,
            diverged=zeros(),
        )


def _finish(out: Trajectories) -> Trajectories:
    """Blank what does not count, and add the log-probabilities."""
    # A diverged episode counts for nothing: its return, cut short, could even look good.
    mask = out.mask * (1 - out.diverged)[..., None]
    padding = mask == 0
    if padding.any():
        # Actions of finished episodes were never taken, and those of a broken policy may be NaN,
        # which no mask can multiply away.
        for x in (out.observations, out.actions, *out.sampling):
            x.masked_fill_(padding[..., None], 0)
        out.rewards.masked_fill_(padding, 0)
    return out._replace(mask=mask, log_probs=out.sampling.log_prob(out.actions) * mask)
