"""Cases to measure: families and few-shot problems at published sizes."""

from dataclasses import dataclass, replace
from typing import Any

from metarl.core.task_map import cores
from metarl.experiment.registries import make_family
from metarl.experiment.resolution import resolve
from metarl.experiment.schema import RLExperiment, SupervisedExperiment
from metarl.rl.evaluate import PolicyEvaluationConfig
from metarl.supervised.models import ModelConfig

RELU = {"name": "gaussian-mlp", "activation": "relu"}
TRPO = {"name": "trpo", "hvp_check_every": 0}  # the check is of the algorithm, and no part of it

RL_CASES = {
    "point-navigation": RLExperiment(env={"family": "point-navigation"}, outer=TRPO),
    "half-cheetah-velocity": RLExperiment(
        env={"family": "half-cheetah-velocity"}, policy=RELU, tasks=40, outer=TRPO
    ),
    "half-cheetah-velocity-exact": RLExperiment(
        env={"family": "half-cheetah-velocity"},
        policy=RELU,
        tasks=40,
        outer=TRPO | {"curvature_fraction": 1.0, "inner_hessian": "exact"},
    ),
    "half-cheetah-velocity-paper": RLExperiment(
        env={
            "family": "half-cheetah-velocity",
            "frame_skip": 1,
            "velocity_of": "centre-of-mass",
            "observation": "rllab",
            "position_noise": 0.01,
        },
        policy=RELU,
        tasks=40,
        trajectories=10,
        outer=TRPO,
    ),
    # the sizes of the published PyTorch port of MAML's reinforcement learning
    "half-cheetah-velocity-port": RLExperiment(
        env={"family": "half-cheetah-velocity", "horizon": 100},
        policy={"name": "gaussian-mlp", "hidden_sizes": [64, 64], "activation": "tanh"},
        tasks=40,
        outer=TRPO,
    ),
    "ant-direction": RLExperiment(
        env={"family": "ant-direction"}, policy=RELU, tasks=40, outer=TRPO
    ),
}
CARTPOLE = RLExperiment(
    env={"family": "cartpole"}, policy={"name": "categorical-mlp"}, tasks=20, workers=1, outer=TRPO
)
GYMNASIUM_CASES = {
    "cartpole": CARTPOLE,  # random actions end its episodes after some twenty env steps
    "cartpole-upright": replace(  # too slow to fall within the horizon
        CARTPOLE,
        env=CARTPOLE.env
        | {"half_length_range": [50.0, 50.1], "force_range": [0.001, 0.002]}
        | {"gravity_range": [0.001, 0.002]},
    ),
}
SUPERVISED_CASES = {
    "sinusoid": SupervisedExperiment(),
    "omniglot-5way-1shot": SupervisedExperiment(
        data={"source": "glyphs", "ways": 5},  # 28 by 28 pixels too
        model=ModelConfig(name="conv"),
        tasks=32,
        shots=1,
        queries=1,
        chunk_size=16,
    ),
}


@dataclass(frozen=True)
class Settings:
    """How a case is measured, and its sizes where they are not its own.

    Args:
        repeats: measurements of a number.
        seconds: length of one of supervised learning.
        threads: of physics and update, and workers of gymnasium; 0 for one per core.
        device: of adaptation and update.
        chunk_size: tasks per vectorised call of the update.
        eager: compile nothing of policies, as in short runs.
        tasks: M.
        trajectories: N.
        horizon: T, env steps.
        width: units of every hidden layer of a policy.
    """

    repeats: int = 5
    seconds: float = 2.0
    threads: int = 0
    device: str = "cpu"
    chunk_size: int | None = None
    eager: bool = False
    tasks: int | None = None
    trajectories: int | None = None
    horizon: int | None = None
    width: int | None = None


def experiment(case: str, settings: Settings) -> RLExperiment | SupervisedExperiment:
    """The case at the sizes that are asked for."""
    base = resolve((RL_CASES | GYMNASIUM_CASES | SUPERVISED_CASES)[case])
    threads = settings.threads or cores()
    common: dict[str, Any] = {
        "tasks": settings.tasks or base.tasks,
        "threads": threads,
        "device": settings.device,
        "chunk_size": settings.chunk_size or base.chunk_size,
    }
    if isinstance(base, SupervisedExperiment):
        return replace(base, **common)
    layers = base.policy["hidden_sizes"]
    return replace(
        base,
        **common,
        workers=threads if base.workers else 0,
        compile=settings.device == "cpu" and not settings.eager,
        trajectories=settings.trajectories or base.trajectories,
        env=base.env | ({"horizon": settings.horizon} if settings.horizon else {}),
        policy=base.policy | {"hidden_sizes": [settings.width or n for n in layers]},
        evaluation=PolicyEvaluationConfig(tasks=common["tasks"], inner_steps=1),
    )


def describe(config: RLExperiment | SupervisedExperiment) -> str:
    """Return the settings that a number depends on; results are compared where these are equal."""
    words = [f"M {config.tasks}"]
    if isinstance(config, RLExperiment):
        words += [f"N {config.trajectories}", f"T {make_family(config.env).horizon}"]
        layers = "x".join(str(size) for size in config.policy["hidden_sizes"])
        words += [f"{layers} {config.policy['activation']}"]
        by = " by differences" if config.outer["inner_hessian"] == "finite-difference" else ""
        words += [f"curvature of {config.outer['curvature_fraction']:g}{by}"]
        words += ["compiled" if config.compile else "eager"]
    if config.chunk_size:
        words += [f"chunks of {config.chunk_size}"]
    return ", ".join([*words, f"{config.threads} threads", config.device])
