"""Task families by name, those of metarl and a user's own."""

import importlib

import gymnasium

from metarl_envs.ant import AntDirection, AntForwardBackward, AntGoal, AntParams, AntVelocity
from metarl_envs.classic_control import CartPole, MountainCar, Pendulum
from metarl_envs.family import Family, TaskFamily
from metarl_envs.half_cheetah import (
    HalfCheetahDirection,
    HalfCheetahParams,
    HalfCheetahVelocity,
)
from metarl_envs.point import PointNavigation
from metarl_envs.tables import Bandit, RandomMDP, TableFamily
from metarl_envs.upright import HopperParams, WalkerParams

FAMILIES: dict[str, type[Family]] = {
    "point-navigation": PointNavigation,
    "half-cheetah-velocity": HalfCheetahVelocity,
    "half-cheetah-direction": HalfCheetahDirection,
    "ant-direction": AntDirection,
    "ant-forward-backward": AntForwardBackward,
    "ant-velocity": AntVelocity,
    "ant-goal": AntGoal,
    "hopper-params": HopperParams,
    "walker-params": WalkerParams,
    "half-cheetah-params": HalfCheetahParams,
    "ant-params": AntParams,
    "cartpole": CartPole,
    "pendulum": Pendulum,
    "mountain-car": MountainCar,
    "bandit": Bandit,
    "random-mdp": RandomMDP,
}

SIMULATED: dict[str, type[TaskFamily]] = {
    name: family
    for name, family in FAMILIES.items()
    if issubclass(family, TaskFamily) and not issubclass(family, TableFamily)
}
"""The families of bodies that move."""


def find_family(name: str) -> type[Family]:
    """The family of this name, or the class that ``package.module:Name`` says.

    Raises:
        ValueError: there is none.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"family {name} does not import: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Family)):
        raise ValueError(f"family {name} must be a subclass of Family")
    return cls


for _name, _family in FAMILIES.items():
    if issubclass(_family, TaskFamily):  # the others are gymnasium's already
        gymnasium.register(
            id=f"metarl/{_family.__name__}-v0",
            entry_point="metarl_envs.single:TaskEnv",
            vector_entry_point="metarl_envs.vector:TaskVectorEnv",
            kwargs={"family": _name},
        )
