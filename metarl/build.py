"""The one place where names in a config become objects."""

import dataclasses
from typing import Any

import torch

from envs import FAMILIES, BatchedEnv, TaskFamily
from metarl.config import Config, parse_object, suggestion
from metarl.core.algorithms import ALGORITHMS, adapted_names, with_rates
from metarl.core.outer import TaskMap, cores
from metarl.core.params import Functional, parameters_of
from metarl.errors import UserError
from metarl.rl.learner import MetaRLLearner
from metarl.rl.policy import GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.seeding import Purpose, torch_seed


def make_family(env: dict[str, Any]) -> TaskFamily:
    """The task family that ``env`` names, with its constants.

    Raises:
        UserError: the family or a constant is unknown, or a value is not allowed.
    """
    settings = dict(env)
    name = settings.pop("family", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"env.family {name!r} is unknown{suggestion(str(name), list(FAMILIES))}; "
            f"there are {', '.join(FAMILIES)}"
        )
    return parse_object(FAMILIES[name], settings, "env")


def resolve(config: Config) -> Config:
    """The config with every constant of its family written out.

    Raises:
        UserError: the env settings are not allowed.
    """
    family = make_family(config.env)
    env = {"family": config.env["family"], **dataclasses.asdict(family)}
    return dataclasses.replace(config, env=env)


def make_learner(config: Config) -> MetaRLLearner:
    """The learner of an experiment.

    Raises:
        UserError: the env settings are not allowed, or there is no such device.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: there is no CUDA GPU here (or PyTorch is a CPU build); use cpu")
    # Threads run tasks, not pieces of one matrix product: faster at these sizes, and the result of
    # every task is the same whatever the number of threads.
    torch.set_num_threads(1)
    family = make_family(config.env)
    module = GaussianMLP(
        family.observation_dim + config.observe_task * family.task_dim,
        family.action_dim,
        seed=torch_seed(config.seed, Purpose.PARAMETERS),
        **dataclasses.asdict(config.policy),
    )
    policy = Functional(module)
    theta = {name: p.to(config.device) for name, p in parameters_of(module).items()}
    algorithm = ALGORITHMS[config.inner.algorithm]
    adapted = adapted_names(algorithm, list(theta), head=("head.", "log_std"))
    return MetaRLLearner(
        config=config,
        evaluation=config.evaluation,
        family=family,
        policy=policy,
        meta=with_rates(algorithm, theta, adapted, config.inner.rate),
        algorithm=algorithm,
        adapted=adapted,
        sampler=Sampler(
            lambda tasks, envs: BatchedEnv(
                family, tasks, envs, config.threads or cores(), config.observe_task
            ),
            policy,
            family.action_dim,
            family.horizon,
            config.device,
        ),
        task_map=TaskMap(
            config.chunk_size or (1 if config.device == "cpu" else config.tasks), config.threads
        ),
        seed=config.seed,
    )
