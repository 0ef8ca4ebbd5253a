"""Labelled examples in memory: sets of them, for few-shot tasks, and their checks."""

import hashlib
import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from metarl.runtime.errors import UserError
from metarl.runtime.record import SplitRecord

SPLITS = ("train", "validation", "test")


class LabelledTensors:
    """Examples by class.

    Args:
        inputs: [n, ...]; bytes stand for numbers from 0 to 1.
        labels: class of every example, [n].
        names: of the classes.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, names: tuple[str, ...]):
        self.inputs = inputs
        self.labels = labels
        self.names = names
        order = torch.argsort(labels, stable=True).numpy()
        counts = torch.bincount(labels, minlength=len(names)).numpy()
        self.of_class = np.split(order, np.cumsum(counts)[:-1])

    def __getitem__(self, index: NDArray[np.integer]) -> Tensor:
        """Examples [*index.shape, ...] as floating-point numbers."""
        examples = self.inputs[torch.from_numpy(index)]
        return examples / 255 if examples.dtype == torch.uint8 else examples

    @cached_property
    def record(self) -> SplitRecord:
        """The classes, and a hash of everything that tasks are drawn from.

        A gigabyte takes about 0.6 s.
        """
        counts = {n: len(of) for n, of in zip(self.names, self.of_class, strict=True)}
        kind = [list(counts.items()), str(self.inputs.dtype), list(self.inputs.shape)]
        digest = hashlib.sha256(json.dumps(kind).encode())
        for tensor in (self.labels, self.inputs):
            digest.update(tensor.contiguous().numpy().data)
        return SplitRecord(counts, digest.hexdigest())


@dataclass(frozen=True)
class LabelledSet(ABC):
    """A set of labelled examples, of which few-shot tasks are made.

    Subclasses are frozen dataclasses; their fields are settings.

    Args:
        ways: N, classes of a task.
    """

    ways: Annotated[int, Ge(2)] = field(default=5, kw_only=True)

    @abstractmethod
    def load(self, folder: Path | None) -> Mapping[str, Any]:
        """Return the examples by split: train, test and, where there are any, validation.

        The examples of a split are one of these:

        - a pair (inputs [n, ...], labels [n]) of tensors or arrays;
        - a ``torch.utils.data.Dataset`` of pairs (input, label);
        - (inputs, labels, names), where labels are indices into the names of the classes.

        Bytes (uint8) stand for numbers from 0 to 1. Labels are integers that name the same class in
        every split, and no class is in two of them. Equal settings give equal examples: to evaluate
        a run is to load them again.

        Args:
            folder: the setting ``data_folder``.

        Raises:
            UserError: the data are absent or damaged.
        """


def require_disjoint(splits: Mapping[str, Iterable[str]]) -> None:
    """Raise UserError when a class is in two splits: scores would be worth nothing."""
    owner: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise UserError(
                    f"the splits leak: {name} is in {owner[name]} and in {split}; "
                    f"each class should be in one only"
                )


def checked_splits(data: Any) -> dict[str, LabelledTensors]:
    """Return the examples that ``LabelledSet.load`` gave, by split.

    Raises:
        ValueError: a split is missing, empty or unknown, inputs are not finite or of different
            shapes, labels are not integers, or their number differs.
        UserError: a class is in two splits.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"load should return a mapping of splits, got {type(data).__name__}")
    if unknown := [str(name) for name in data if name not in SPLITS]:
        raise ValueError(f"{unknown[0]} is not a split; splits are {', '.join(SPLITS)}")
    if missing := [split for split in ("train", "test") if split not in data]:
        raise ValueError(f"there is no {missing[0]} split")
    splits = {split: _examples(split, data[split]) for split in SPLITS if split in data}
    require_disjoint({split: examples.names for split, examples in splits.items()})
    shapes = {split: [*examples.inputs.shape[1:]] for split, examples in splits.items()}
    for split, shape in shapes.items():
        if shape != shapes["train"]:
            raise ValueError(
                f"inputs of the {split} split have shape {shape}, those of train {shapes['train']}"
            )
    return splits


def _examples(split: str, data: Any) -> LabelledTensors:
    if isinstance(data, Dataset):
        data = _stack(split, data)
    if not (isinstance(data, tuple | list) and len(data) in (2, 3)):
        raise ValueError(
            f"the {split} split should be (inputs, labels) or a torch.utils.data.Dataset, "
            f"got {type(data).__name__}"
        )
    inputs = _tensor(f"inputs of the {split} split", data[0])
    labels = _tensor(f"labels of the {split} split", data[1])
    _require_labels(split, inputs, labels)
    inputs, labels = _require_numbers(split, inputs), labels.long()
    if len(data) == 2:
        classes, labels = torch.unique(labels, return_inverse=True)
        return LabelledTensors(inputs, labels, tuple(map(str, classes.tolist())))
    names = tuple(map(str, data[2]))
    if len({*names}) < len(names):
        raise ValueError(f"two classes of the {split} split have the same name")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise ValueError(
            f"labels of the {split} split should be from 0 to {len(names) - 1}, as there are "
            f"{len(names)} names, got {int(labels.min())} to {int(labels.max())}"
        )
    return LabelledTensors(inputs, labels, names)


def _stack(split: str, dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Inputs [n, ...] and labels [n] of a dataset."""
    inputs: list[Tensor] = []
    labels: list[int] = []
    for n, item in enumerate(_items(dataset)):
        example = f"example {n} of the {split} split"
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise ValueError(f"{example} should be (input, label), got {type(item).__name__}")
        inputs.append(_tensor(f"the input of {example}", item[0]))
        if inputs[n].shape != inputs[0].shape:
            raise ValueError(
                f"{example} has shape {[*inputs[n].shape]}, the first one {[*inputs[0].shape]}"
            )
        try:
            labels.append(operator.index(item[1]))
        except TypeError:
            raise ValueError(
                f"the label of {example} should be an integer, got {item[1]}"
            ) from None
    if not inputs:
        raise ValueError(f"the {split} split is empty")
    return torch.stack(inputs), torch.tensor(labels)


def _items(dataset: Dataset[Any]) -> Iterable[Any]:
    if isinstance(dataset, IterableDataset):
        return dataset
    # Python's own iteration over objects without __iter__ hides where their data end.
    return (dataset[i] for i in range(len(dataset)))  # type: ignore[arg-type]


def _tensor(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if not isinstance(value, np.ndarray | Sequence):
        raise ValueError(f"{what} should be a tensor or an array, got {type(value).__name__}")
    try:
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} should be numbers in a tensor or an array: {error}") from error


def _require_labels(split: str, inputs: Tensor, labels: Tensor) -> None:
    shape = [*labels.shape]
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels of the {split} split should be integers [n], got {kind} {shape}")
    if inputs.ndim < 2 or inputs.is_complex():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise ValueError(
            f"inputs of the {split} split should be real numbers [n, ...], "
            f"got {kind} {[*inputs.shape]}"
        )
    if len(inputs) != len(labels):
        raise ValueError(f"the {split} split has {len(inputs)} inputs and {len(labels)} labels")


def _require_numbers(split: str, inputs: Tensor) -> Tensor:
    """Return bytes, or finite numbers of single precision."""
    if not inputs.numel():
        raise ValueError(f"the {split} split is empty")
    if inputs.dtype == torch.uint8:
        return inputs
    numbers = inputs.to(torch.float32)
    finite = torch.isfinite(numbers).flatten(1).all(1)
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"inputs of the {split} split are not finite, as those of example {first}")
    return numbers
