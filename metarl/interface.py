"""The Python interface: train, load a trained run, adapt its policy, act."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from metarl.adapted_policy import AdaptedPolicy, record
from metarl.commands.training import Fault, Training, learner_of
from metarl.core.algorithms import split_rates
from metarl.core.params import Params
from metarl.core.processes import ALONE
from metarl.experiment import build, evaluations, plugins, settings
from metarl.experiment.checking import make
from metarl.experiment.overrides import EvaluateOptions, with_options
from metarl.experiment.reading import merged
from metarl.experiment.schema import RLExperiment
from metarl.rl.adaptation import Adaptation, of_every_task
from metarl.rl.episodes import Episode, as_trajectories
from metarl.rl.learner import MetaRLLearner
from metarl.rl.rollout import make_batch
from metarl.rl.sampler import Stream
from metarl.runtime.errors import UserError
from metarl.runtime.folder import RunFolder
from metarl.runtime.lock import locked
from metarl.runtime.paths import path_of
from metarl.runtime.record import EvaluationRecord
from metarl.runtime.seeding import Purpose
from metarl_envs.family import as_task

Callback = Callable[[int, Mapping[str, float]], Any]
"""Called with the iteration and its metrics after every iteration; an exception ends training."""


def load(path: str | Path, checkpoint: str = "last", trust_code: bool = False) -> "Run":
    """Return a trained run.

    Args:
        path: its folder.
        checkpoint: last, best, or a number of iterations.
        trust_code: import code that the run names, whoever made it.

    Raises:
        UserError: there is no run in the folder, or no such checkpoint; or it names code, was not
            made here by this user, and ``trust_code`` is false.
    """
    return Run(RunFolder.open(Path(path), trust_code), checkpoint)


def train(
    *configs: str | Path | Mapping[str, Any],
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> "Run":
    """Train as ``metarl train`` does, and return the run.

    Args:
        configs: names or files of configs, and mappings of settings such as
            ``{"iterations": 20, "outer.max_kl": 0.02}``; later ones win. A class or a function
            stands for its name: ``{"env.family": PoleLength}``.
        callbacks: called after every iteration; an exception of theirs ends training.
        resume: go on with the run of this ``name``, if there is one.

    Raises:
        UserError: a setting is not allowed, the run's folder exists, or ``resume`` has no name.
    """
    layers: list[Mapping[str, Any]] = []
    for config in configs:
        if isinstance(config, Mapping):
            layers.append(merged({}, ((key, _with_names(value)) for key, value in config.items())))
        else:
            layers += settings.read_layers(str(config))
    experiment = settings.parse(layers)
    if resume and not experiment.name:
        raise UserError("resume=True needs a name: it goes on with the run of this name")
    experiment = settings.named(experiment)
    folder = RunFolder(experiment.path)
    go_on = resume and folder.is_begun()
    with _own_threads(), locked(folder.path) if go_on else nullcontext():
        if go_on:
            settings.require_same_run(folder, experiment)
            if settings.is_done(folder, experiment):
                return load(folder.path)
        learner = learner_of(experiment, folder if go_on else None)
        training = Training(experiment, folder, learner, ALONE, callbacks)
        try:
            training.run(go_on)
        except Fault as fault:
            raise fault.__cause__ or fault from None
    return load(folder.path)


def _with_names(value: Any) -> Any:
    """Return settings with names in place of the classes and functions of the user's own."""
    if isinstance(value, Mapping):
        return {key: _with_names(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_names(entry) for entry in value]
    if isinstance(value, type) or inspect.isfunction(value):
        return plugins.name_of(value)
    if is_dataclass(value):
        name = type(value).__name__
        raise UserError(f"give the class {name}, with its settings beside it, not an object of it")
    return value


class Run:
    """A trained run; see ``load``.

    Args:
        folder: the run's folder.
        checkpoint: last, best, or a number of iterations.
    """

    def __init__(self, folder: RunFolder, checkpoint: str = "last"):
        self.path = folder.path
        self.config = settings.read_config(folder)
        self._folder = folder
        self._checkpoint = checkpoint
        with _own_threads():
            self._model = evaluations.load(folder, self.config, checkpoint)
        self.iterations = self._model.iteration

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Metrics by name, one number per logged iteration; NaN where one was not logged."""
        rows = self._folder.metrics()
        names = {name: None for row in rows for name in row}
        return {name: np.array([row.get(name) for row in rows], dtype=float) for name in names}

    @property
    def evaluation(self) -> EvaluationRecord | None:
        """The evaluation in its folder, if there is one."""
        files = self._folder.load_evaluation()
        return files[0] if files else None

    @cached_property
    def family(self) -> Any:
        """The task family with the run's constants.

        Raises:
            UserError: the run is supervised.
        """
        return build.make_family(self._policy_config.env)

    def evaluate(self, options: Mapping[str, Any] | None = None) -> EvaluationRecord:
        """Adapt to held-out tasks and score every inner step; nothing is written.

        Args:
            options: those of ``metarl evaluate``, such as ``{"tasks": 100}``.

        Raises:
            UserError: an option is not allowed.
        """
        values = merged({}, options or {})
        evaluate_options: EvaluateOptions = make(
            EvaluateOptions, {"checkpoint": self._checkpoint, **values}
        )
        with _own_threads():
            config = with_options(self.config, evaluate_options, [self.config])
            model = evaluations.load(self._folder, config, evaluate_options.checkpoint)
            return evaluations.evaluated(model, keep=False).evaluation

    def make_env(
        self,
        task: ArrayLike | Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> gymnasium.Env[Any, Any]:
        """Return an environment of the run's family, with its constants.

        Args:
            task: [task_dim], or the value of every field by name; None: a new one at every reset.
            render_mode: see gymnasium.
        """
        env: gymnasium.Env[Any, Any] = self.family.env(task, render_mode)
        return env

    def policy(self) -> AdaptedPolicy:
        """Return the meta-policy as it is before adaptation.

        Raises:
            UserError: the run is supervised.
        """
        return self._policy_with(self._theta, [])

    @property
    def module(self) -> nn.Module:
        """The policy or the model before adaptation: a module with weights of its own.

        They are those that evaluations use; an outer step may have averaged them.
        """
        return self._model.learner.network.with_parameters(self._theta)

    @property
    def rates(self) -> Params:
        """The learned inner rates by parameter name; empty where the algorithm learns none."""
        return split_rates(self._model.learner.evaluated_meta)[1]

    def export(self, path: str | Path) -> list[Path]:
        """Write the weights, the learned rates and a ``torch.export`` program; returns the files.

        Args:
            path: file of the weights, ending in .pt; see ``metarl.runtime.export``.

        Raises:
            UserError: the path has another ending, or cannot be written.
        """
        return evaluations.export_to(self._model, path_of("path", path))

    def adapt(
        self,
        task: ArrayLike | Mapping[str, float] | None = None,
        *,
        env: gymnasium.Env[Any, Any] | None = None,
        episodes: Sequence[Episode] | None = None,
        steps: int = 1,
        trajectories: int | None = None,
        seed: int = 0,
    ) -> AdaptedPolicy:
        """Adapt the policy to a task of the family, to an environment, or to recorded episodes.

        Args:
            task: [task_dim], or the value of every field by name: trajectories are sampled in the
                run's own environments.
            env: trajectories are sampled in this one, one after the other.
            episodes: every inner step takes these.
            steps: inner steps.
            trajectories: per inner step; None: as many as in evaluations.
            seed: of the trajectories.

        Raises:
            UserError: the run is supervised.
            ValueError: not exactly one of task, env and episodes is given, or it does not fit.
        """
        if steps < 0 or (trajectories is not None and trajectories < 1):
            raise ValueError(
                f"steps should be >= 0 and trajectories >= 1, got {steps} and {trajectories}"
            )
        if sum(x is not None for x in (task, env, episodes)) != 1:
            raise ValueError("give exactly one of task, env and episodes")
        evaluation = replace(self._policy_config.evaluation, inner_steps=steps)
        rates = evaluation.rates(self._policy_config.inner.alpha)
        number = trajectories or evaluation.trajectories or self._policy_config.trajectories
        with _own_threads():
            if task is not None:
                return self._adapt_to_task(as_task(self.family, task), rates, number, seed)
            return self._adapt_to_episodes(rates, number, seed, env, episodes or ())

    def _adapt_to_task(
        self, task: NDArray[np.float64], rates: list[float], number: int, seed: int
    ) -> AdaptedPolicy:
        stream = Stream(seed, Purpose.EVALUATION_ROLLOUT)
        state = self._rl.baseline_state
        rounds, _ = self._adaptation.sample_and_adapt(
            self._rl.evaluated_meta, task[None], rates, number, stream, state
        )
        returns = [float(r.trajectories.returns.nanmean()) for r in rounds]
        phi = {name: p[0] for name, p in rounds[-1].phi.items()}
        return self._policy_with(phi, returns)

    def _adapt_to_episodes(
        self,
        rates: list[float],
        number: int,
        seed: int,
        env: gymnasium.Env[Any, Any] | None,
        episodes: Sequence[Episode],
    ) -> AdaptedPolicy:
        adaptation, state = self._adaptation, self._rl.baseline_state
        phi, returns = self._theta, []
        _, alphas = adaptation.inner.split(self._rl.evaluated_meta, rates)
        generator = torch.Generator().manual_seed(seed)
        for alpha in alphas:
            if env is not None:
                actor = self._policy_with(phi, [])
                episodes = [
                    record(actor, env, self.family.horizon, generator, seed * 1000 + n)
                    for n in range(number)
                ]
            trajectories = as_trajectories(episodes, adaptation.sampler.policy, phi)
            returns.append(float(trajectories.returns.mean()))
            batch, _, _ = make_batch(
                trajectories, adaptation.advantage, adaptation.baseline, state, adaptation.task_map
            )
            phi = adaptation.step(of_every_task(phi, 1), alpha, batch)
            phi = {name: p[0] for name, p in phi.items()}
        return self._policy_with(phi, returns)

    def _policy_with(self, phi: Params, returns: list[float]) -> AdaptedPolicy:
        family = self.family  # refused where the run is supervised
        module = self._rl.network.with_parameters(phi)
        shape = build.shape_of_inputs(self.config, family)
        return AdaptedPolicy(module, family.action_space, shape, returns)

    @property
    def _policy_config(self) -> RLExperiment:
        if not isinstance(self.config, RLExperiment):
            raise UserError(f"{self.path} is a supervised run; it has no policy")
        return self.config

    @property
    def _rl(self) -> MetaRLLearner:
        assert isinstance(self._model.learner, MetaRLLearner)
        return self._model.learner

    @property
    def _adaptation(self) -> Adaptation:
        return self._rl.evaluator.adaptation

    @property
    def _theta(self) -> Params:
        theta, _ = split_rates(self._model.learner.evaluated_meta)
        return {name: p.detach() for name, p in theta.items()}


@contextmanager
def _own_threads() -> Iterator[None]:
    """Give PyTorch its number of threads back: metarl computes with one per task."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
