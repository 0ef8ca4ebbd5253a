"""One task as a ``gymnasium.Env``."""

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import ArrayLike, NDArray

from metarl_envs.batch import BatchedEnv
from metarl_envs.family import Array, TaskFamily, as_task
from metarl_envs.registry import find_family
from metarl_envs.rendering import RENDERERS, make_renderer, render_metadata


class TaskEnv(gymnasium.Env[Array, NDArray[np.float32]]):
    """One environment of a family, for ``gymnasium.make``.

    An episode is truncated at the family's ``horizon``, and when the simulation diverges (with
    reward 0). ``info`` holds the "task" [task_dim] and, after an env step, whether it "diverged".

    Args:
        family: name in ``FAMILIES``, or a family.
        task: [task_dim], a number where a task has one field, or the value of every field by name;
            None: draw one at every reset.
        render_mode: None, or one of ``metadata["render_modes"]``.
        width: of frames, in pixels.
        height: of frames, in pixels.
        constants: fields of the family, where ``family`` is a name.

    Raises:
        TypeError: the family has no such constant.
        ValueError: the family or the render mode is unknown, a constant is out of its range, or
            ``task`` is not a finite task of the family.
    """

    # Of all families, as gymnasium.make reads it before there is an instance.
    metadata = {"render_modes": sorted({mode for r in RENDERERS.values() for mode in r.modes})}

    def __init__(
        self,
        family: str | TaskFamily,
        task: ArrayLike | Mapping[str, float] | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        **constants: Any,
    ):
        self.family = make_family(family, constants)
        self.batch = BatchedEnv(self.family, 1, 1)
        self.observation_space = self.family.observation_space
        self.action_space = self.family.action_space
        self.metadata = render_metadata(self.batch)
        self._renderer = make_renderer(self.batch, render_mode, width, height)
        self.render_mode = render_mode
        self._task = None if task is None else as_task(self.family, task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the generator that draws tasks and initial states; None: go on with it.
            options: "task" is the task from now on; None: draw one at every reset.

        Raises:
            ValueError: an option is unknown, or its task is not one of the family.
        """
        super().reset(seed=seed)
        options = check_options(options, {"task"})
        if "task" in options:
            task = options["task"]
            self._task = None if task is None else as_task(self.family, task)
        tasks = (
            self.family.sample_tasks(self.np_random, 1) if self._task is None else self._task[None]
        )
        observation = self.batch.reset(tasks, [self.np_random])[0, 0]
        if self._renderer is not None:
            self._renderer.start([0])
            self._render_for_human()
        return observation, {"task": self.batch.tasks[0]}

    def step(self, action: NDArray[np.floating]) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One env step.

        Raises:
            ResetNeeded: no episode is running.
            ValueError: ``action`` has the wrong shape.
        """
        if not self.batch.alive.all():
            raise ResetNeeded("no episode is running: call reset() before step()")
        step = self.batch.step(np.asarray(action)[None, None])
        if self._renderer is not None:
            self._renderer.advance()
            self._render_for_human()
        diverged = bool(step.diverged[0, 0])
        return (
            step.observation[0, 0],
            float(step.reward[0, 0]),
            bool(step.terminated[0, 0]),
            bool(step.truncated[0, 0]) or diverged,
            {"task": self.batch.tasks[0], "diverged": diverged},
        )

    def get_state(self) -> Any:
        """Return a copy of the state, which can be pickled: for planning, and for workers."""
        return copy.deepcopy(
            (self.batch.live_state(), self._task, self._np_random, self._np_random_seed)
        )

    def set_state(self, state: Any) -> None:
        """Go on from a state that ``get_state`` of an environment of this family returned."""
        # At once: the batch's generator is this environment's own.
        of_batch, self._task, self._np_random, self._np_random_seed = copy.deepcopy(state)
        self.batch.set_live_state(of_batch)
        if self._renderer is not None:
            self._renderer.start([0])

    def render(self) -> Any:
        return None if self._renderer is None else self._renderer.render(0)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()

    def _render_for_human(self) -> None:
        if self.render_mode == "human":
            self.render()


def make_family(family: str | TaskFamily, constants: dict[str, Any]) -> TaskFamily:
    """The family called ``family`` with these constants, or the given family.

    Raises:
        TypeError: the family has no such constant.
        ValueError: the name is unknown, or a constant is out of its range.
    """
    if isinstance(family, TaskFamily):
        if constants:
            raise TypeError(f"a given family has its constants, got {', '.join(constants)}")
        return family
    cls = find_family(family)
    if not issubclass(cls, TaskFamily):
        raise ValueError(f"{family} is a family of gymnasium environments: use its make()")
    try:
        return cls(**constants)
    except (TypeError, ValueError) as error:
        defaults = ", ".join(f"{field.name}={field.default}" for field in fields(cls))
        raise type(error)(
            f"{error}; constants of {family} and their defaults: {defaults}"
        ) from error


def check_options(options: dict[str, Any] | None, names: set[str]) -> dict[str, Any]:
    """The options of a reset, {} for None.

    Raises:
        ValueError: one is not in ``names``.
    """
    options = options or {}
    if unknown := options.keys() - names:
        raise ValueError(f"reset options must be among {sorted(names)}, got {sorted(unknown)}")
    return options
