"""Exactly N trajectories of each of M tasks, all tasks' policies acting in one batched forward."""

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.core.compile import Compiled, Traced
from metarl.core.params import Params, leaves_of_tree, tree_map
from metarl.core.task_map import thread_pool
from metarl.rl.distributions import Distribution
from metarl.rl.losses import Policy
from metarl.rl.rollout import Trajectories
from metarl.runtime.seeding import Purpose, generator


class Step(Protocol):
    """Results of one env step of M x N environments."""

    @property
    def observation(self) -> NDArray[np.floating]: ...  # [M, N, O]
    @property
    def reward(self) -> NDArray[np.floating]: ...  # [M, N]
    @property
    def terminated(self) -> NDArray[np.bool_]: ...  # [M, N]
    @property
    def diverged(self) -> NDArray[np.bool_]: ...  # [M, N]
    @property
    def success(self) -> NDArray[np.float64]: ...  # [M, N], 1, 0, or NaN where not defined


class Env(Protocol):
    """M tasks x N environments in lock-step, one episode each."""

    @property
    def alive(self) -> NDArray[np.bool_]: ...
    @property
    def qpos(self) -> NDArray[np.float64]: ...  # [M, N, nq]
    def reset(self, tasks: Any, rngs: Sequence[np.random.Generator]) -> Any: ...
    def step(self, action: Any) -> Step: ...


CONTIGUOUS = torch.contiguous_format
HALVES = 2  # more would only wait for Python's interpreter lock

Watch: TypeAlias = Callable[[int, NDArray[np.float64]], None]
"""Called with the inner step and qpos [M, N, nq], a live view, at the start and every env step."""

Act: TypeAlias = Callable[[Params, Tensor, Tensor], tuple[Distribution, Tensor]]
"""Of parameters [M, ...], observations [M, N, O] and noise [M, N, noise_dim]: distributions and
actions [M, N, *action_shape]."""


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

    Two threads each run half of the tasks: one half's policies act while the other half's physics
    runs. Results are the same as in one go.

    Args:
        make_env: builds M x N environments on a number of threads; they are kept for the sizes
            that were asked for.
        policy: the policy as a function of its parameters.
        horizon: T.
        threads: physics threads in all.
        device: where trajectories go; the policy acts on the CPU, beside the physics.
        compiled: compile the policies, for every number of tasks and trajectories anew, which
            changes the last bits.
    """

    def __init__(
        self,
        make_env: Callable[[int, int, int], Env],
        policy: Policy,
        horizon: int,
        threads: int = 1,
        device: torch.device | str = "cpu",
        compiled: bool = False,
    ):
        self._make_env = make_env
        self._envs: dict[tuple[int, ...], Env] = {}
        self.policy = policy
        self._policies = torch.func.vmap(policy)
        self.act: Act = Compiled(self._samples) if compiled else Traced(self._samples)
        self._act_by_mode: Act = Traced(self._modes)
        self._like: Distribution | None = None  # of one env step
        self._horizon = horizon
        self._threads = threads
        self._pool = thread_pool(HALVES) if threads > 1 else None
        self._device = device

    def collect(
        self,
        params: Params,
        tasks: NDArray[np.float64],
        num_trajectories: int,
        stream: Stream,
        mean_actions: bool = False,
        watch: Watch | None = None,
    ) -> Trajectories:
        """Sample trajectories; sum of ``mask`` in the result is the number of env steps.

        Args:
            params: adapted parameters of every task, [M, ...].
            tasks: [M, task_dim].
            num_trajectories: N.
            stream: source of initial states and action noise.
            mean_actions: take the mode of the policy's distribution.
            watch: sees the simulations' states, of all tasks at once.
        """
        m, n = len(tasks), num_trajectories
        groups = 1 if watch is not None else min(m, HALVES, self._threads)
        parts = [slice(i * m // groups, (i + 1) * m // groups) for i in range(groups)]
        envs = [self._env(i, groups, part.stop - part.start, n) for i, part in enumerate(parts)]
        rngs = stream.generators(m)
        starts = [e.reset(tasks[part], rngs[part]) for e, part in zip(envs, parts, strict=True)]
        params = {name: p.cpu() for name, p in params.items()}
        dtype = next(iter(params.values())).dtype
        observations = torch.from_numpy(np.concatenate(starts)).to(dtype)
        out = self._allocate(params, observations)
        act = self._act_by_mode if mean_actions else self.act

        def roll(env: Env, part: slice) -> None:
            of_part = tree_map(itemgetter(part), (params, out))
            watch_states = None if watch is None else partial(watch, stream.inner_step)
            self._roll(env, act, *of_part, rngs[part], watch_states)

        if self._pool is None or groups == 1:
            list(map(roll, envs, parts))
        else:
            rolls = [self._pool.submit(roll, e, part) for e, part in zip(envs, parts, strict=True)]
            wait(rolls)  # all, even if one fails: the next call uses the same environments
            for future in rolls:
                future.result()
        return tree_map(lambda x: x.to(self._device), out)

    def _env(self, group: int, groups: int, m: int, n: int) -> Env:
        """The environments of a group of tasks, on its share of the physics threads."""
        key = group, groups, m, n
        if key not in self._envs:
            threads = self._threads // groups + (group < self._threads % groups)
            self._envs[key] = self._make_env(m, n, threads)
        return self._envs[key]

    @torch.no_grad()
    def _roll(
        self,
        env: Env,
        act: Act,
        params: Params,
        out: Trajectories,
        rngs: Sequence[np.random.Generator],
        watch: Callable[[NDArray[np.float64]], None] | None,
    ) -> None:
        """Play the episodes that ``env`` has just begun, and write them into ``out``."""
        observation = out.final_observations
        noise = self._noise(out, rngs)
        fields = (out.observations, out.actions, *leaves_of_tree(out.sampling))
        fields = (*fields, out.rewards, out.discounts, out.mask)
        # In the order of time an env step is one block of memory; NumPy writes it in a microsecond.
        by_time = [torch.zeros_like(x.movedim(2, 0), memory_format=CONTIGUOUS) for x in fields]
        rows = [x.numpy() for x in by_time]
        diverged, success = out.diverged.numpy(), out.success.numpy()
        for t in range(self._horizon):
            if watch is not None:
                watch(env.qpos)
            alive = env.alive
            if not alive.any():
                break
            distribution, action = act(params, observation, noise[t])
            step = env.step(action.numpy())
            values = [x.numpy() for x in (observation, action, *leaves_of_tree(distribution))]
            for row, now in zip(rows, (*values, step.reward, ~step.terminated, alive), strict=True):
                row[t] = now
            diverged[step.diverged] = 1
            np.fmax(success, step.success, out=success, casting="same_kind")
            observation = torch.from_numpy(step.observation).to(observation)
        if watch is not None:
            watch(env.qpos)
        for field, x in zip(fields, by_time, strict=True):
            field.copy_(x.movedim(0, 2))
        out.final_observations.copy_(observation)
        _finish(out)

    def _noise(self, out: Trajectories, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Standard normal numbers [T, m, N, noise_dim] for the actions of every task."""
        assert self._like is not None
        shape = *out.mask.shape[1:], self._like.noise_dim
        noise = [rng.standard_normal(shape, dtype=np.float32) for rng in rngs]
        by_time = np.ascontiguousarray(np.moveaxis(np.stack(noise), 2, 0))
        return torch.from_numpy(by_time).to(out.observations.dtype)

    def _samples(
        self, params: Params, observation: Tensor, noise: Tensor
    ) -> tuple[Distribution, Tensor]:
        distribution = self._distributions(params, observation)
        return distribution, distribution.sample(noise)

    def _modes(
        self, params: Params, observation: Tensor, noise: Tensor
    ) -> tuple[Distribution, Tensor]:
        distribution = self._distributions(params, observation)
        return distribution, distribution.mode()

    def _distributions(self, params: Params, observation: Tensor) -> Distribution:
        """Distributions of every task's own policy, with the same rounding whatever other tasks
        there are.

        The kernels of matrix products depend on whether there is more than one, and on where the
        operands begin: a lone task gets company, and the rows of a task are a multiple of four.
        """
        tasks, rows = observation.shape[:2]
        one_row = [0, 0] * (observation.dim() - 2)
        observation = torch.nn.functional.pad(observation, (*one_row, 0, -rows % 4))
        if tasks == 1:
            params, observation = tree_map(
                lambda x: x.expand(2, *x.shape[1:]), (params, observation)
            )
        of_all = self._policies(params, observation)
        distribution: Distribution = tree_map(lambda x: x[:tasks, :rows], of_all)
        return distribution

    def _allocate(self, params: Params, observation: Tensor) -> Trajectories:
        m, n, horizon = *observation.shape[:2], self._horizon
        if self._like is None:
            one = self._policies(tree_map(lambda x: x[:1], params), observation[:1, :1])
            self._like = tree_map(lambda x: x[0, 0], one)
        action = self._like.mode()

        number = observation.new_zeros(())

        def zeros(like: Tensor, *shape: int) -> Tensor:
            return like.new_zeros(m, n, *shape, *like.shape)

        return Trajectories(
            observations=zeros(observation[0, 0], horizon),
            actions=zeros(action, horizon),
            sampling=tree_map(lambda x: zeros(x, horizon), self._like),
            log_probs=zeros(number, horizon),
            rewards=zeros(number, horizon),
            discounts=zeros(number, horizon),
            mask=zeros(number, horizon),
            final_observations=observation,
            diverged=zeros(number),
            success=zeros(number) + torch.nan,
        )


def _finish(out: Trajectories) -> None:
    """Blank env steps that do not count, and add the log-probabilities."""
    broken_policy = (
        ~torch.isfinite(out.actions).reshape(*out.mask.shape, -1).all(-1) & out.mask.bool()
    )
    out.diverged[broken_policy.any(-1)] = 1
    # A diverged episode counts for nothing: its return, cut short, could even look good.
    out.mask.mul_((1 - out.diverged)[..., None])
    padding = out.mask == 0
    if padding.any():
        # Actions of finished episodes were never taken, and those of a broken policy may be NaN,
        # which no mask can multiply away.
        for x in (out.observations, out.actions, *leaves_of_tree(out.sampling), out.rewards):
            x.masked_fill_(padding.reshape(padding.shape + (1,) * (x.dim() - 3)), 0)
    torch.mul(out.sampling.log_prob(out.actions), out.mask, out=out.log_probs)
