"""Parameters in flight: plain dictionaries of tensors, and a module as a pure function of them."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from metarl.core.networks import make_stateless

Params: TypeAlias = dict[str, Tensor]

Tree = TypeVar("Tree")


class Functional:
    """A module as a pure function ``f(params, *args)``, safe to call from several threads.

    Parameters with ``requires_grad=False`` are constants. Batch norm uses the statistics of the
    batch at hand; ``has_changed`` says whether it did not before. The module itself stays as it is.

    ``torch.func.functional_call`` swaps the tensors of the module for the time of the call, so two
    threads must never share one: each gets a skeleton of its own.

    Raises:
        ValueError: every parameter is frozen, or the module has state or is random.
    """

    def __init__(self, module: nn.Module):
        self._module = copy.deepcopy(module)
        self.has_changed = make_stateless(self._module)
        if not parameters_of(module):
            raise ValueError("none of its parameters has requires_grad: there is nothing to train")
        named_parameters = self._module.named_parameters()
        self._constants = {n: p.detach() for n, p in named_parameters if not p.requires_grad}
        self._on_device: dict[torch.device, Params] = {}
        count = [len(list(module.named_parameters(remove_duplicate=r))) for r in (True, False)]
        # Here, as finding out at every call costs more than a small layer.
        self._has_shared_parameters = count[0] < count[1]
        self._skeletons = threading.local()

    def __call__(self, params: Mapping[str, Tensor], *args: Any) -> Any:
        skeleton = getattr(self._skeletons, "module", None)
        if skeleton is None:
            skeleton = self._skeletons.module = copy.deepcopy(self._module)
        return torch.func.functional_call(
            skeleton,
            {**self._constants_on(params), **params} if self._constants else dict(params),
            args,
            tie_weights=self._has_shared_parameters,
            strict=True,
        )

    def _constants_on(self, params: Mapping[str, Tensor]) -> Params:
        """The frozen parameters on the device of others; moved once."""
        device = next(iter(params.values())).device
        if device not in self._on_device:
            self._on_device[device] = {n: p.to(device) for n, p in self._constants.items()}
        return self._on_device[device]

    def with_parameters(self, params: Mapping[str, Tensor]) -> nn.Module:
        """Return a module of its own that has these parameters, on their device."""
        module = copy.deepcopy(self._module).to(next(iter(params.values())).device)
        module.load_state_dict({**module.state_dict(), **params})
        return module.eval()


def parameters_of(module: nn.Module) -> Params:
    """Detached copies of a module's parameters by name, without those that are frozen."""
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """One vector [P] of all entries, in the dictionary's order."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The inverse of ``flatten``: views of ``vector`` [P] with the names and shapes of ``like``.

    Raises:
        RuntimeError: the number of elements differs.
    """
    parts = torch.split(vector, [p.numel() for p in like.values()])
    return {name: part.view_as(p) for (name, p), part in zip(like.items(), parts, strict=True)}


def require_like(candidate: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have the same names, shapes and kinds of numbers, and no NaN."""
    kinds, like_kinds = (
        {name: (tuple(p.shape), p.dtype, p.layout) for name, p in params.items()}
        for params in (candidate, like)
    )
    if kinds != like_kinds or any(p.is_meta for p in candidate.values()):
        raise ValueError(f"the checkpoint's parameters are {kinds}, expected {like_kinds}")
    if broken := [name for name, p in candidate.items() if p.isnan().any()]:
        raise ValueError(f"the checkpoint has NaN {broken[0]}".rstrip())


def tree_map(fn: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply ``fn`` to every tensor of nested tuples, named tuples, lists and dictionaries.

    Raises:
        TypeError: a leaf is not a tensor.
    """
    if isinstance(tree, Tensor):
        return fn(tree)  # type: ignore[return-value]
    if isinstance(tree, dict):
        return type(tree)({key: tree_map(fn, value) for key, value in tree.items()})
    if isinstance(tree, tuple | list):
        values = [tree_map(fn, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    raise TypeError(f"expected tensors in tuples, lists or dictionaries, got {type(tree).__name__}")


def leaves_of_tree(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves_of_tree(child)


def rebuild(like: Tree, leaves: Iterator[Tensor]) -> Tree:
    """The inverse: a tree as ``like``, of other tensors."""
    return tree_map(lambda _: next(leaves), like)


def leading_size(tree: Any) -> int:
    """Length of the first axis of the tensors in ``tree``, the number of tasks M.

    Raises:
        ValueError: it has no tensor.
    """
    if isinstance(tree, Tensor):
        return len(tree)
    for child in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(child, Tensor) or child:  # an empty tuple has nothing to say
            return leading_size(child)
    raise ValueError("there is no tensor, so no number of tasks")


def plain_tree(tree: Any) -> Any:
    """Nested (named) tuples and dictionaries of tensors as dictionaries and lists on the CPU."""
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {name: plain_tree(child) for name, child in tree.items()}
    if hasattr(tree, "_asdict"):
        return {name: plain_tree(child) for name, child in tree._asdict().items()}
    return [plain_tree(child) for child in tree]


def like_tree(plain: Any, like: Tree) -> Tree:
    """The inverse of ``plain_tree``: ``plain`` as a tree of the kinds and devices of ``like``.

    Raises:
        ValueError: the two do not have the same names, shapes and kinds of numbers, or a number is
            NaN.
    """
    if isinstance(like, Tensor):
        require_like({"": plain}, {"": like})
        return plain.to(like)  # type: ignore[no-any-return]
    like_children, children = _children(like), _children(plain)
    if like_children.keys() != children.keys():
        raise ValueError(f"the checkpoint's state has {[*children]}, expected {[*like_children]}")
    values = [like_tree(children[name], child) for name, child in like_children.items()]
    if isinstance(like, dict):
        return type(like)(zip(like_children, values, strict=True))
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)  # type: ignore[call-arg]


def _children(tree: Any) -> dict[Any, Any]:
    """Children of a dictionary, a named tuple, a tuple or a list, by name or number."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return tree
    if not isinstance(tree, list | tuple):
        raise ValueError(f"the checkpoint's state holds {type(tree).__name__}, expected tensors")
    return dict(enumerate(tree))
