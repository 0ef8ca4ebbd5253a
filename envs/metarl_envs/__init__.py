"""Task families of metarl and their gymnasium environments.

``FAMILIES`` is the one registry: name -> class. Importing this package registers every family with
gymnasium as ``metarl/<ClassName>-v0``, for ``gymnasium.make`` and ``gymnasium.make_vec``.
"""

import gymnasium

from metarl_envs.ant import AntDirection, AntForwardBackward, AntGoal, AntVelocity
from metarl_envs.batch import BatchedEnv, EnvStep
from metarl_envs.family import State, Target, TaskFamily
from metarl_envs.half_cheetah import HalfCheetahDirection, HalfCheetahVelocity
from metarl_envs.point import PointNavigation

__all__ = ["FAMILIES", "BatchedEnv", "EnvStep", "State", "Target", "TaskFamily"]

FAMILIES: dict[str, type[TaskFamily]] = {
    "point-navigation": PointNavigation,
    "half-cheetah-velocity": HalfCheetahVelocity,
    "half-cheetah-direction": HalfCheetahDirection,
    "ant-direction": AntDirection,
    "ant-forward-backward": AntForwardBackward,
    "ant-velocity": AntVelocity,
    "ant-goal": AntGoal,
}

for _name, _family in FAMILIES.items():
    gymnasium.register(
        id=f"metarl/{_family.__name__}-v0",
        entry_point="metarl_envs.single:TaskEnv",
        vector_entry_point="metarl_envs.vector:TaskVectorEnv",
        kwargs={"family": _name},
    )
