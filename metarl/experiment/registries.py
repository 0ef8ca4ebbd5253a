"""The registries: names in a config, and the objects they stand for."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from metarl.core.outer.adam import Adam
from metarl.core.outer.step import OuterStep
from metarl.core.outer.trust_region import TrustRegion
from metarl.experiment.checking import REQUIRED, Setting, arguments, leaves, make
from metarl.experiment.plugins import Check, class_with, find, function_of, subclass_of
from metarl.rl.baselines import Baseline, LinearFeatureBaseline
from metarl.rl.critic import Critic
from metarl.rl.learner import PolicyInnerConfig
from metarl.rl.losses import INNER_LOSSES, loaded_dice_loss
from metarl.rl.policies import CategoricalCNN, CategoricalMLP, GaussianMLP, TanhGaussianMLP
from metarl.rl.ppo import PPO, ProMP
from metarl.runtime.errors import UserError
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


Made = TypeVar("Made")


@dataclass(frozen=True)
class Group(Generic[Made]):
    """A group of settings that names a class or function: ``outer: {name: adam, ...}``.

    Args:
        where: the group's path.
        key: the setting that has the name.
        registry: what metarl has by name.
        check: of the user's own object that a name stands for.
        later: first arguments that are not settings: the group makes a function of them.
    """

    where: str
    key: str
    registry: Mapping[str, Any]
    check: Check
    later: Sequence[str] = ()

    @property
    def path(self) -> str:
        """The path of the name."""
        return f"{self.where}.{self.key}"

    def find(self, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what the group names, and its other settings.

        Raises:
            UserError: the name is unknown, does not import or is of the wrong kind.
        """
        name = settings.get(self.key)
        part = find(self.path, name, self.registry, self.check)
        if self.key in inspect.signature(part).parameters:
            raise UserError(f"{self.path} {name}: call its field {self.key} something else")
        return part, {k: v for k, v in settings.items() if k != self.key}

    def make(self, settings: dict[str, Any]) -> Made:
        """Return an object of the class that the group names, or its function of ``later``.

        Raises:
            UserError: see ``find``; or a setting is unknown, or a value is not allowed.
        """
        kind, values = self.find(settings)
        if self.later:
            kwargs = arguments(partial(kind, *self.later), values, self.where)
            return cast(Made, partial(kind, **kwargs))
        result: Made = make(kind, values, self.where)
        return result

    def resolved(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the group with all settings written out."""
        part: Any = self.make(settings)
        values = part.keywords if self.later else asdict(part)
        return {self.key: settings[self.key], **values}

    def leaves(self, settings: Any) -> dict[str, Setting]:
        """Return the settings by path, the name first; the name only if it is unknown."""
        meaning = f"{', '.join(self.registry)}, or package.module:Name"
        own = {self.path: Setting(str, REQUIRED, meaning)}
        try:
            kind, _ = self.find(settings if isinstance(settings, dict) else {})
        except UserError:  # raised again where the group is made
            return own
        return own | leaves(partial(kind, *self.later), self.where)


def is_labelled(kind: Any) -> bool:
    """Return whether a source of data is a set of labelled examples."""
    return isinstance(kind, type) and issubclass(kind, LabelledSet)


def _fault_of_source(source: Any) -> str:
    """Check for a source of supervised tasks."""
    if is_labelled(source):
        return subclass_of(LabelledSet)(source)
    if isinstance(source, type) and issubclass(source, RegressionFamily):
        return subclass_of(RegressionFamily, needs=["task_fields"])(source)
    fault = class_with("task_fields", "input_shape", "draw", "variants", "require")(source)
    return fault or ("" if is_dataclass(source) else "should be a frozen dataclass")


FAMILY = Group[Family]("env", "family", FAMILIES, subclass_of(Family, needs=["task_fields"]))
OUTER = Group[OuterStep]("outer", "name", OUTER_STEPS, subclass_of(OuterStep))
BASELINE = Group[Baseline]("baseline", "name", BASELINES, subclass_of(Baseline))
SPACES = ("observation_space", "action_space")  # that a policy is made from, which are not settings
POLICY = Group[Callable[..., Any]]("policy", "name", POLICIES, function_of(*SPACES), SPACES)
SOURCE = Group[Any]("data", "source", SOURCES, _fault_of_source)
GROUPS: dict[str, Group[Any]] = {
    group.where: group for group in (FAMILY, SOURCE, POLICY, OUTER, BASELINE)
}


make_family = FAMILY.make


def inner_loss(inner: PolicyInnerConfig) -> Any:
    """Return the inner loss that the settings name, a function of (policy, params, batch).

    Raises:
        UserError: there is none, or it is not such a function.
    """
    check = function_of("policy", "params", "batch")
    loss = find("inner.loss", inner.loss, INNER_LOSSES, check)
    return partial(loss, decay=inner.dice_lambda) if loss is loaded_dice_loss else loss


def find_sink(name: str) -> Any:
    """The class of a sink of the user's own.

    Raises:
        UserError: it does not import, or lacks a method.
    """
    return find("logging.sinks", name, {}, class_with("log", "show", "close"))
