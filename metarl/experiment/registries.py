"""The registries: names in a config, and the objects they stand for."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from metarl.core.outer.adam import Adam
from metarl.core.outer.step import OuterStep
from metarl.core.outer.trust_region import TrustRegion
from metarl.experiment.checking import REQUIRED, Setting, arguments, leaves, make, settings_of
from metarl.experiment.plugins import Check, class_with, find, function_of, subclass_of
from metarl.rl.baselines import Baseline, LinearFeatureBaseline
from metarl.rl.critic import Critic
from metarl.rl.learner import PolicyInnerConfig
from metarl.rl.losses import INNER_LOSSES, loaded_dice_loss
from metarl.rl.policies import CategoricalCNN, CategoricalMLP, GaussianMLP, TanhGaussianMLP
from metarl.rl.ppo import PPO, ProMP
from metarl.runtime.errors import UserError
from metarl.supervised.fewshot import FewShotConfig
from metarl.supervised.glyphs import Glyphs
from metarl.supervised.images import ImageFolder
from metarl.supervised.labelled import LabelledSet
from metarl.supervised.omniglot import Omniglot
from metarl.supervised.regression import RegressionFamily
from metarl.supervised.sinusoid import Sinusoid
from metarl_envs import FAMILIES, Family

SOURCES: dict[str, Any] = {
    "sinusoid": Sinusoid,
    "omniglot": Omniglot,
    "image-folder": ImageFolder,
    "glyphs": Glyphs,
}
OUTER_STEPS: dict[str, type[OuterStep]] = {
    "trpo": TrustRegion,
    "adam": Adam,
    "ppo": PPO,
    "promp": ProMP,
}
BASELINES: dict[str, type[Baseline]] = {"linear": LinearFeatureBaseline, "critic": Critic}
POLICIES: dict[str, Any] = {
    "gaussian-mlp": GaussianMLP,
    "tanh-gaussian-mlp": TanhGaussianMLP,
    "categorical-mlp": CategoricalMLP,
    "categorical-cnn": CategoricalCNN,
}


class Group:
    """A group of settings that names what it is of: ``outer: {name: adam, learning_rate: 0.1}``.

    Args:
        where: the group's path.
        key: the setting that has the name.
        registry: what metarl has by name.
        check: of what a user's own name stands for.
        skip: number of its first arguments that are not settings.
    """

    def __init__(
        self, where: str, key: str, registry: Mapping[str, Any], check: Check, skip: int = 0
    ):
        self.where = where
        self.key = key
        self.skip = skip
        self._registry = registry
        self._check = check

    def find(self, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what the group names, and its other settings.

        Raises:
            UserError: the name is unknown, does not import or is of the wrong kind.
        """
        where = f"{self.where}.{self.key}"
        found = find(where, settings.get(self.key), self._registry, self._check)
        return found, {k: v for k, v in settings.items() if k != self.key}

    def make(self, settings: dict[str, Any]) -> Any:
        """Return an object of the class that the group names.

        Raises:
            UserError: see ``find``; or a setting is unknown, or a value is not allowed.
        """
        kind, values = self.find(settings)
        return make(kind, values, self.where)

    def resolved(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the group with all settings written out."""
        return {self.key: settings[self.key], **dataclasses.asdict(self.make(settings))}

    def leaves(self, settings: Any) -> dict[str, Setting]:
        """Return the settings by path, the name first; the name only if it is unknown."""
        name = settings.get(self.key) if isinstance(settings, dict) else None
        meaning = f"{', '.join(self._registry)}, or package.module:Name"
        found = {f"{self.where}.{self.key}": Setting(str, name, meaning)}
        try:
            kind, _ = self.find({self.key: name})
        except UserError:  # raised again where the group is made
            return found
        if is_labelled(kind):
            found |= leaves(FewShotConfig, self.where)
        return found | leaves(kind, self.where, self.skip)


def is_labelled(kind: Any) -> bool:
    """Return whether a source of data is a set of labelled examples."""
    return isinstance(kind, type) and issubclass(kind, LabelledSet)


def _fault_of_source(found: Any) -> str:
    """Check for a source of supervised tasks."""
    if is_labelled(found):
        return subclass_of(LabelledSet)(found)
    if isinstance(found, type) and issubclass(found, RegressionFamily):
        return subclass_of(RegressionFamily, needs=["task_fields"])(found)
    return class_with("task_fields", "input_shape", "draw", "variants", "require")(found)


FAMILY = Group("env", "family", FAMILIES, subclass_of(Family, needs=["task_fields"]))
OUTER = Group("outer", "name", OUTER_STEPS, subclass_of(OuterStep))
BASELINE = Group("baseline", "name", BASELINES, subclass_of(Baseline))
SPACES = ("observation_space", "action_space")  # that a policy is made from, which are not settings
POLICY = Group("policy", "name", POLICIES, function_of(*SPACES), skip=len(SPACES))
SOURCE = Group("data", "source", SOURCES, _fault_of_source)
GROUPS = {group.where: group for group in (FAMILY, SOURCE, POLICY, OUTER, BASELINE)}


def make_family(env: dict[str, Any]) -> Family:
    """The task family that ``env`` names, with its constants.

    Raises:
        UserError: the family or a constant is unknown, or a value is not allowed.
    """
    family: Family = FAMILY.make(env)
    return family


def parse_source(data: dict[str, Any]) -> tuple[Any, FewShotConfig | None]:
    """The source that ``data`` names and, if it has classes, the settings of few-shot tasks.

    Raises:
        UserError: the source or a setting is unknown, or a value is not allowed.
    """
    source, settings = SOURCE.find(data)
    if not is_labelled(source):
        return make(source, settings, "data"), None
    of_tasks = {f.name for f in dataclasses.fields(FewShotConfig)}
    if taken := sorted({SOURCE.key, *of_tasks} & settings_of(source).keys()):
        raise UserError(f"data.source {data['source']}: call its field {taken[0]} something else")
    tasks = {name: settings.pop(name) for name in of_tasks & settings.keys()}
    return make(source, settings, "data"), make(FewShotConfig, tasks, "data")


def policy_settings(policy: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of the policy that ``policy`` names, its name first.

    Raises:
        UserError: it is unknown, or a setting is, or a value is not allowed.
    """
    function, values = POLICY.find(policy)
    settings = settings_of(function, POLICY.skip)
    defaults = {name: s.default for name, s in settings.items() if s.default is not REQUIRED}
    given = arguments(function, values, "policy", POLICY.skip)
    return {"name": policy["name"], **defaults, **given}


def inner_loss(inner: PolicyInnerConfig) -> Any:
    """Return the inner loss that the settings name, a function of (policy, params, batch).

    Raises:
        UserError: there is none, or it is not such a function.
    """
    check = function_of("policy", "params", "batch")
    found = find("inner.loss", inner.loss, INNER_LOSSES, check)
    return partial(found, decay=inner.dice_lambda) if found is loaded_dice_loss else found


def find_sink(name: str) -> Any:
    """The class of a sink of the user's own.

    Raises:
        UserError: it does not import, or lacks a method.
    """
    return find("logging.sinks", name, {}, class_with("log", "show", "close"))
