"""The processes that gymnasium environments run in, and the memory that they share."""

import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from numpy.typing import NDArray

from metarl_envs.family import Array, Mask, native_actions

if TYPE_CHECKING:
    from metarl_envs.gym_family import Env, GymFamily


START = 120.0  # seconds that a worker may take at least to import its modules on a busy machine


class WorkerError(RuntimeError):
    """A worker process died, hangs, or its environment raised."""


class Buffers(NamedTuple):
    """The numbers of B environments, which this process and the workers share."""

    tasks: Array  # [B, task_dim]
    seeds: NDArray[np.int64]  # [B]
    running: Mask  # [B], whether the episode goes on
    actions: Array  # [B, *action_shape]
    observations: NDArray[np.float32]  # [B, *observation_shape]
    rewards: Array  # [B]
    terminated: Mask  # [B]
    truncated: Mask  # [B]
    success: Array  # [B], 1 or 0; NaN where the environment does not say


class Envs:
    """The environments ``ids`` of a batch, in the process that owns them."""

    def __init__(self, family: "GymFamily", buffers: Buffers, ids: range):
        self._family = family
        self._buffers = buffers
        self._ids = np.arange(ids.start, ids.stop)
        self._envs = [_without_guards(family.make(), family.horizon) for _ in ids]

    def reset(self) -> None:
        """Start an episode in every environment."""
        family, buffers = self._family, self._buffers
        for i, env in zip(self._ids.tolist(), self._envs, strict=True):
            family.set_task(env, buffers.tasks[i].copy())
            observation, _ = env.reset(seed=int(buffers.seeds[i]))
            buffers.observations[i] = family.observe(observation)

    def step(self) -> None:
        """Step every environment whose episode is running.

        Results are checked and copied for all at once: for each it would take longer than
        a step of a small environment.
        """
        family, buffers = self._family, self._buffers
        running = buffers.running[self._ids]
        if not running.any():
            return
        ids, envs = self._ids[running], compress(self._envs, running.tolist())
        actions = native_actions(family.action_space, buffers.actions[ids])
        rows = actions.tolist() if actions.ndim == 1 else actions  # numbers of Python are faster
        steps = [env.step(action) for env, action in zip(envs, rows, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        buffers.observations[ids] = family.observe_all(observations)
        buffers.rewards[ids] = rewards
        finite = np.isfinite(buffers.rewards[ids])
        if not finite.all():
            first = ids[finite.argmin()]
            raise ValueError(
                f"{type(family).__name__}: the reward is {buffers.rewards[first]} in the task "
                f"{buffers.tasks[first].tolist()}"
            )
        buffers.terminated[ids] = terminated
        buffers.truncated[ids] = truncated
        buffers.success[ids] = np.array([*map(family.is_success, infos)], dtype=float)  # None: NaN

    def close(self) -> None:
        for env in self._envs:
            env.close()


RESET, STEP, DONE, FAULT = b"r", b"s", b"d", b"f"
REQUESTS = {RESET: Envs.reset, STEP: Envs.step}


def _without_guards(env: "Env", horizon: int) -> "Env":
    """Return ``env`` without gymnasium's outer wrappers that keep order and ``horizon``.

    The batch does both itself; every wrapper takes a twentieth of a small environment's step.
    """
    while type(env) is OrderEnforcing or (type(env) is TimeLimit and _limit(env) >= horizon):
        env = env.env
    return env


def _limit(env: "Env") -> int:
    """Return the time limit that an environment's spec tells, in env steps; 0: it tells none."""
    return (env.spec and env.spec.max_episode_steps) or 0


class Worker:
    """A process with some of the environments; it shares the batch's buffers."""

    def __init__(self, family: "GymFamily", memory: dict[str, Any], number: int, ids: range):
        context = multiprocessing.get_context("spawn")
        # A round trip over sockets of our own takes half as long as over multiprocessing's pipes.
        self._socket, worker_socket = socket.socketpair()
        self._process = context.Process(
            target=_work, args=(worker_socket, family, memory, number, ids), daemon=True
        )
        self._timeout = family.timeout
        with _without_main_module(family):
            self._process.start()
        worker_socket.close()
        self._waits_for_start = True

    def __reduce__(self) -> Any:
        raise TypeError("environments in worker processes cannot be copied: use 0 workers")

    def send(self, request: bytes) -> None:
        """Ask for one of ``REQUESTS``; ``wait`` for the answer."""
        if self._waits_for_start:
            self._wait(max(START, self._timeout))
            self._waits_for_start = False
        with suppress(OSError):  # it is gone: waiting says why
            self._socket.sendall(request)

    def wait(self) -> None:
        """Raise ``WorkerError`` unless the request succeeded."""
        self._wait(self._timeout)

    def _wait(self, timeout: float) -> None:
        name = f"worker process {self._process.pid}"
        self._socket.settimeout(timeout)
        try:
            answer = self._socket.recv(1)
        except TimeoutError as error:
            self._process.kill()
            raise WorkerError(f"{name} did not answer for {timeout:g} s (env.timeout)") from error
        except OSError:
            answer = b""
        if not answer:
            self._process.join(self._timeout)
            raise WorkerError(f"{name} died, exit code {self._process.exitcode}")
        if answer != DONE:
            with self._socket.makefile(errors="replace") as rest:
                raise WorkerError(f"{name}: {rest.read()}")

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()


def _work(
    requests: socket.socket, family: "GymFamily", memory: dict[str, Any], number: int, ids: range
) -> None:
    """Answer requests until the socket is closed: the program of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides
    with requests:
        try:
            envs = Envs(family, buffers_in(memory, family, number), ids)
            requests.sendall(DONE)
            while request := requests.recv(1):
                REQUESTS[request](envs)
                requests.sendall(DONE)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # whatever a user's environment does
            with suppress(OSError):
                text = f"{type(error).__name__}: {error}"
                requests.sendall(FAULT + text.encode(errors="replace"))


def kinds_of_buffers(family: "GymFamily", number: int) -> list[tuple[str, tuple[str, int]]]:
    """Return type code and size of every buffer."""
    actions = int(np.prod(family.action_space.shape or ()))
    observations = int(np.prod(family.observation_space.shape))
    return [
        ("tasks", ("d", number * family.task_dim)),
        ("seeds", ("q", number)),
        ("running", ("b", number)),
        ("actions", ("d", number * actions)),
        ("observations", ("f", number * observations)),
        ("rewards", ("d", number)),
        ("terminated", ("b", number)),
        ("truncated", ("b", number)),
        ("success", ("d", number)),
    ]


def memory_of(shared: bool, code: str, size: int) -> Any:
    if shared:
        return multiprocessing.get_context("spawn").RawArray(code, size)
    return np.zeros(size, dtype=np.dtype(code)).data


def buffers_in(memory: dict[str, Any], family: "GymFamily", number: int) -> Buffers:
    """Return the memory as arrays."""
    shapes = {
        "tasks": (family.task_dim,),
        "actions": family.action_space.shape or (),
        "observations": family.observation_space.shape,
    }
    masks = ("running", "terminated", "truncated")
    arrays = {}
    for name, (code, _) in kinds_of_buffers(family, number):
        dtype = np.dtype(bool if name in masks else code)
        flat = np.frombuffer(memory[name], dtype=dtype)
        arrays[name] = flat.reshape(number, *shapes.get(name, ()))
    return Buffers(**arrays)


@contextmanager
def _without_main_module(family: "GymFamily") -> Iterator[None]:
    """Keep a worker from importing the program that starts it, where the family is from elsewhere.

    ``multiprocessing`` imports the main module in every spawned process; that of metarl takes
    seconds.
    """
    main = sys.modules["__main__"]
    if type(family).__module__ == "__main__":
        yield
        return
    names = ("__file__", "__spec__")
    attributes = {name: getattr(main, name) for name in names if hasattr(main, name)}
    for name in attributes:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in attributes.items():
            setattr(main, name, value)
