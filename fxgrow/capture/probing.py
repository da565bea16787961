"""Probing: a forward is recorded again on other inputs, and the two records are compared.

A number that differs between them came from an input's size in a way that recording does not follow (`int()`, numpy);
a graph would fix it. The same goes for the course that a forward takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxgrow.capture.contexts import settled
from fxgrow.capture.inputs import Inputs
from fxgrow.modules.containers import each_tensor, flat_tensors, with_items

BATCH, SIZE, DTYPE, GRADIENTS, AUTOCAST = "batch", "size", "dtype", "gradients", "autocast"
FEATURES = (BATCH, SIZE, DTYPE, GRADIENTS, AUTOCAST)
"""What can be another at the next call: how many samples, of which size, in which precision, with gradients or not, and
under autocast or not."""

COURSE = "the course of the forward"
"""What differs where other calls are made."""

_OTHER = {torch.float32: torch.float64, torch.float64: torch.float32}


@dataclass(frozen=True)
class Changed:
    """Inputs that differ from others in some features."""

    inputs: Inputs
    features: frozenset[str]


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [tensor for tensor in flat_tensors(inputs) if tensor.ndim]


def samples_of(inputs: Inputs) -> int:
    """The number of samples that the first tensor holds; 0 where there is none."""
    return next((int(tensor.shape[0]) for tensor in _tensors(inputs)), 0)


def changed(
    inputs: Inputs, features: frozenset[str], samples: int | None = None, smaller: bool = False
) -> Changed | None:
    """Inputs that differ in these features as far as inputs can; None where they are the same inputs.

    samples: how many there are to be, if that differs; else one more. smaller: of half the size, not of twice.
    """
    tensors = _tensors(inputs)
    if not tensors:
        return None
    batch = tensors[0].shape[0]
    sizes = {size: 2 * size for tensor in tensors for size in (tensor.shape[k] for k in resized_axes(tensor))}
    if smaller:
        sizes = {size: size // 2 for size in sizes if size > 1}
    impossible = {SIZE} if not sizes or batch in sizes else set()
    wanted = features - impossible
    if not wanted:
        return None

    def other(tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        if BATCH in wanted and shape and shape[0] == batch:
            shape[0] = batch + 1 if samples is None else samples
        if SIZE in wanted:
            shape[1:] = [sizes.get(size, size) if k >= _from(tensor) else size for k, size in enumerate(shape)][1:]
        dtype = _OTHER.get(tensor.dtype, tensor.dtype) if DTYPE in wanted else tensor.dtype
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)  # in memory
        laid_out = torch.empty([shape[k] for k in order], dtype=dtype, device="meta")
        return laid_out.permute([order.index(k) for k in range(tensor.ndim)]).requires_grad_(tensor.requires_grad)

    if BATCH in wanted:
        inputs = _for_samples(inputs, batch, batch + 1 if samples is None else samples)
    return Changed(each_tensor(inputs, other), wanted)


def _for_samples(value: Any, before: int, after: int) -> Any:
    """The same containers with lists of another length where they hold something for each sample, as goals may be."""
    sizes = [[t.shape[0] for t in flat_tensors(item) if t.ndim] for item in value] if isinstance(value, list) else []
    if len(sizes) == before and after and all(each and before not in each for each in sizes):
        return (value * after)[:after]
    if isinstance(value, (list, tuple, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return with_items(value, {key: _for_samples(item, before, after) for key, item in items})
    return value


def resized(inputs: Inputs, size: int, other: int, only_last: bool = False) -> Changed | None:
    """Inputs that are as large as `other` where they were of a size, samples aside; None where none was.

    only_last: the width of images, and not their height.
    """

    varied = _with_size(inputs, lambda tensor: resized_axes(tensor)[-1 if only_last else 0 :], size, other)
    pairs = zip(flat_tensors(varied), flat_tensors(inputs), strict=True)
    return Changed(varied, frozenset({SIZE})) if any(new is not old for new, old in pairs) else None


def nearby(inputs: Inputs) -> Iterator[tuple[int, Inputs]]:
    """Inputs of which one size is one more or one less, and that size; of square images also the width by itself.

    Then inputs of which every size is the same, a multiple of 32.
    """
    tried = {_shapes(inputs)}
    sizes = sorted({int(tensor.shape[axis]) for tensor in _tensors(inputs) for axis in resized_axes(tensor)})
    steps = itertools.product(sizes, (1, -1), (False, True))
    near = ((size + step, resized(inputs, size, size + step, last)) for size, step, last in steps if size + step)
    for other, varied in near:
        if varied is not None and _shapes(varied.inputs) not in tried:
            tried.add(_shapes(varied.inputs))
            yield other, varied.inputs
    even = -(-max(sizes, default=0) // 32) * 32
    for size in sizes:
        varied = resized(inputs, size, even)
        inputs = inputs if varied is None else varied.inputs
    if _shapes(inputs) not in tried:
        yield even, inputs


def between(inputs: Inputs) -> Iterator[tuple[int, int, list[Inputs]]]:
    """Each axis between the samples and the size, and its size; inputs that have one more along it, or one less."""
    axes = {(axis, int(x.shape[axis])) for x in _tensors(inputs) for axis in axes_between(x)}
    for axis, size in sorted(axes):
        others = (size + 1, size - 1) if size > 1 else (size + 1,)
        at: Callable[[Tensor], Collection[int]] = partial(_at_if_between, axis)
        yield axis, size, [_with_size(inputs, at, size, other) for other in others]


def _at_if_between(axis: int, tensor: Tensor) -> Collection[int]:
    return {axis} & {*axes_between(tensor)}


def _with_size(inputs: Inputs, axes_of: Callable[[Tensor], Collection[int]], size: int, other: int) -> Inputs:
    """Inputs with another size of some axes of each tensor, where these have one size; other tensors as they are."""

    def changed_one(tensor: Tensor) -> Tensor:
        axes = axes_of(tensor)
        if not any(tensor.shape[axis] == size for axis in axes):
            return tensor
        shape = [other if k in axes and n == size else n for k, n in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    varied: Inputs = each_tensor(inputs, changed_one)
    return varied


def _shapes(inputs: Inputs) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in _tensors(inputs))


def _from(tensor: Tensor) -> int:
    """The first axis whose size may be another: the height of images, the length of sequences."""
    if tensor.ndim >= 4:
        return tensor.ndim - 2
    integral = not tensor.dtype.is_floating_point
    return 1 if tensor.ndim == 3 or (tensor.ndim == 2 and integral) else tensor.ndim


def resized_axes(tensor: Tensor) -> range:
    """The axes whose size may be another: height and width of images, the length of sequences."""
    return range(_from(tensor), 2 if tensor.ndim == 3 else tensor.ndim)


def axes_between(tensor: Tensor) -> range:
    """The axes between the samples and the size: frames of videos and views of objects, or channels."""
    return range(1, _from(tensor)) if tensor.ndim >= 4 else range(0)


class Circumstances(NamedTuple):
    """How a forward is recorded: in the precision that is given for its own, with gradients or not, under autocast."""

    dtype: Callable[[torch.dtype], torch.dtype] | None = None
    gradients: bool = True
    casting: bool = False

    @staticmethod
    def with_other(features: Collection[str]) -> Circumstances:
        """Those in which these features are other than where a model is captured."""
        dtype = _other_dtype if DTYPE in features else None
        return Circumstances(dtype, GRADIENTS not in features, AUTOCAST in features)


AS_CAPTURED = Circumstances()


def _other_dtype(dtype: torch.dtype) -> torch.dtype:
    return _OTHER.get(dtype, dtype)


@dataclass(frozen=True)
class Difference:
    """Where two records part: a node of the first, and what differs there."""

    node: fx.Node | None
    what: str

    @property
    def place(self) -> str:
        """Where that is in the model, if there is a node."""
        return (self.node.meta.get("module_path") or self.node.name) if self.node is not None else ""


def differences(
    graph: fx.Graph, rerun: fx.Graph, paired: Mapping[fx.Node, fx.Node] = MappingProxyType({})
) -> Iterator[Difference]:
    """Where two records of a forward part. A dtype that turns out to be a literal is made one in `graph`.

    paired: nodes of `rerun` that are the same as nodes of `graph`, wherever they stand.
    """
    casts = [node for node in rerun.nodes if node.target == "to" and node.args[0] in paired and _casts_nothing(node)]
    paired = {**paired, **{node: paired[node.args[0]] for node in casts}}
    aside = {*paired, *paired.values()}
    first_nodes, rerun_nodes = (
        [node for node in g.nodes if not (node in aside or _is_dtype(node) or _is_by_mode(node))]
        for g in (graph, rerun)
    )
    partner = dict(paired)
    for first, again in zip(first_nodes, rerun_nodes, strict=False):
        partner[again] = first
        if (first.op, first.target) != (again.op, again.target):
            same = first.op == again.op == "get_attr"
            yield Difference(first, "a tensor made of numbers" if same else COURSE)
            if not same:
                return
        if first.target is settled:
            continue
        literals: list[tuple[Any, Any]] = []
        texts = [
            _compared(getattr(first, name), getattr(again, name), partner, literals) for name in ("args", "kwargs")
        ]
        if any(text is not None for text in texts):
            yield Difference(first, next(text for text in texts if text is not None))
        written = dict(literals)
        if written:
            first.args, first.kwargs = (
                fx.node.map_arg(raw, lambda node, by_node=written: by_node.get(node, node))  # type: ignore[misc]
                for raw in (first.args, first.kwargs)
            )
    if len(first_nodes) != len(rerun_nodes):
        yield Difference(first_nodes[-1] if first_nodes else None, COURSE)


def _casts_nothing(node: fx.Node) -> bool:
    """Whether a tensor is cast to the type that it has."""
    return bool(node.meta["value"].dtype == node.args[0].meta["value"].dtype)  # type: ignore[union-attr]


def _is_dtype(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is getattr and bool(node.args[1] == "dtype")


def _is_by_mode(node: fx.Node) -> bool:
    return node.op == "call_module" and not node.args and not isinstance(node.meta["value"], Tensor)


def _compared(first: Any, again: Any, partner: dict[fx.Node, fx.Node], literals: list[tuple[Any, Any]]) -> str | None:
    if isinstance(first, fx.Node) and _is_dtype(first):
        if isinstance(again, torch.dtype):
            literals.append((first, again))
            return None
        same = isinstance(again, fx.Node) and _is_dtype(again) and partner.get(again.args[0]) is first.args[0]  # type: ignore[arg-type]
        return None if same else "a dtype"
    if isinstance(first, fx.Node) and _is_by_mode(first):
        first = first.meta["value"]
    if isinstance(again, fx.Node):
        if isinstance(first, torch.dtype) and _is_dtype(again):
            return None if again.meta["value"] is first else "a dtype"
        return None if partner.get(again) is first else "what is read"
    if isinstance(first, (tuple, list)) and isinstance(again, (tuple, list)):
        pairs: Any = zip(first, again, strict=False) if len(first) == len(again) else None
    elif isinstance(first, dict) and isinstance(again, dict):
        pairs = ((first[key], again[key]) for key in first) if first.keys() == again.keys() else None
    elif isinstance(first, slice) and isinstance(again, slice):
        pairs = ((first.start, again.start), (first.stop, again.stop), (first.step, again.step))
    else:
        return None if first is again or _equal(first, again) else f"the number {first}"
    if pairs is None:
        return "what is read"
    texts = [_compared(a, b, partner, literals) for a, b in pairs]
    return next((text for text in texts if text is not None), None)


def _equal(first: Any, again: Any) -> bool:
    if isinstance(first, float) and isinstance(again, float) and first != first:
        return again != again
    same: bool = type(first) is type(again) and first == again
    return same
