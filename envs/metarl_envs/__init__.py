"""Task families of metarl and their gymnasium environments.

``FAMILIES`` is the one registry: name -> class. Importing this package registers every family with
gymnasium as ``metarl/<ClassName>-v0``; ``gymnasium.make("metarl_envs:metarl/<ClassName>-v0")``
imports it first.
"""

from metarl_envs.batch import BatchedEnv, EnvStep
from metarl_envs.family import Family, State, Target, TaskFamily, Transition
from metarl_envs.gym_family import GymFamily
from metarl_envs.registry import FAMILIES, find_family

__all__ = [
    "FAMILIES",
    "BatchedEnv",
    "EnvStep",
    "Family",
    "GymFamily",
    "State",
    "Target",
    "TaskFamily",
    "Transition",
    "find_family",
]
