"""Adaptation and meta-gradients of any model: PyTorch only, one task at a time."""

from metarl.core.adapt import adapt
from metarl.core.params import Functional, parameters_of
from metarl.core.task_map import TaskMap

__all__ = ["Functional", "TaskMap", "adapt", "parameters_of"]
