"""What one record settled: a forward is recorded again on other inputs, and the two records are compared.

A number that differs between them came from the size of an input by a way that is not followed (`int()`, numpy); a
graph would hold it for good. The same goes for the course that a forward takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from fxgrow.capture.contexts import settled
from fxgrow.capture.inputs import Inputs
from fxgrow.containers import each_tensor

BATCH, SIZE, DTYPE, GRADIENTS, NUMBER = "batch", "size", "dtype", "gradients", "number"
FEATURES = (BATCH, SIZE, DTYPE, GRADIENTS)
"""What can be another at the next call: how many samples, of which size, in which precision, with gradients or not."""

_OTHER = {torch.float32: torch.float64, torch.float64: torch.float32}


@dataclass(frozen=True)
class Changed:
    """Inputs that differ from others in some features."""

    inputs: Inputs
    features: frozenset[str]


def _tensors(inputs: Inputs) -> list[Tensor]:
    return [value for value in (*inputs[0], *inputs[1].values()) if isinstance(value, Tensor) and value.ndim]


def samples_of(inputs: Inputs) -> int:
    """The number of samples that the first tensor holds; 0 where there is none."""
    return next((int(tensor.shape[0]) for tensor in _tensors(inputs)), 0)


def changed(inputs: Inputs, features: frozenset[str], samples: int | None = None) -> Changed | None:
    """Inputs that differ in these features as far as inputs can; None where they are the same inputs.

    samples: how many there are to be, if that differs; else one more.
    """
    tensors = _tensors(inputs)
    if NUMBER in features:
        args, kwargs = inputs
        return Changed((tuple(map(_nudged, args)), {k: _nudged(v) for k, v in kwargs.items()}), features)
    if not tensors:
        return None
    batch = tensors[0].shape[0]
    sizes = {size: 2 * size for tensor in tensors for size in (tensor.shape[k] for k in resized_axes(tensor))}
    possible = {BATCH: True, SIZE: bool(sizes) and batch not in sizes, DTYPE: True, GRADIENTS: True}
    wanted = frozenset(feature for feature in features if possible[feature])
    if not wanted:
        return None

    def other(tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        if BATCH in wanted and shape and shape[0] == batch:
            shape[0] = batch + 1 if samples is None else samples
        if SIZE in wanted:
            shape[1:] = [sizes.get(size, size) if k >= _from(tensor) else size for k, size in enumerate(shape)][1:]
        dtype = _OTHER.get(tensor.dtype, tensor.dtype) if DTYPE in wanted else tensor.dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    args, kwargs = inputs
    return Changed(
        (
            tuple(other(value) if isinstance(value, Tensor) else _cast(value, wanted) for value in args),
            {key: other(value) if isinstance(value, Tensor) else _cast(value, wanted) for key, value in kwargs.items()},
        ),
        wanted,
    )


def _nudged(value: Any) -> Any:
    """Another number, if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return value + 1 if isinstance(value, int) else 1.25 * value + 0.375


def _from(tensor: Tensor) -> int:
    """The first axis whose size may be another: the height of images, the length of sequences."""
    if tensor.ndim >= 4:
        return tensor.ndim - 2
    whole = not tensor.dtype.is_floating_point
    return 1 if tensor.ndim == 3 or (tensor.ndim == 2 and whole) else tensor.ndim


def _to(tensor: Tensor) -> int:
    return 2 if tensor.ndim == 3 else tensor.ndim


def resized_axes(tensor: Tensor) -> range:
    """The axes whose size may be another: height and width of images, the length of sequences."""
    return range(_from(tensor), _to(tensor))


def _cast(value: Any, features: frozenset[str]) -> Any:
    if DTYPE not in features:
        return value
    return each_tensor(value, lambda t: t.to(_OTHER.get(t.dtype, t.dtype)))


def other_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision to record in, in place of another."""
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
    graph: fx.Graph, other: fx.Graph, known: Mapping[fx.Node, fx.Node] = MappingProxyType({})
) -> Iterator[Difference]:
    """Where two records of a forward part. A dtype that turns out to be a literal is made one in `graph`.

    known: nodes of `other` that are the same as nodes of `graph`, wherever they stand.
    """
    aside = {*known, *known.values()}
    ours, theirs = (
        [node for node in g.nodes if not (node in aside or _is_dtype(node) or _is_by_mode(node))]
        for g in (graph, other)
    )
    partner = dict(known)
    for mine, its in zip(ours, theirs, strict=False):
        partner[its] = mine
        if (mine.op, mine.target) != (its.op, its.target):
            same = mine.op == its.op == "get_attr"
            yield Difference(mine, "a tensor made of numbers" if same else "the course of the forward")
            if not same:
                return
        if mine.target is settled:
            continue
        literals: list[tuple[Any, Any]] = []
        found = [_compared(getattr(mine, name), getattr(its, name), partner, literals) for name in ("args", "kwargs")]
        if any(text is not None for text in found):
            yield Difference(mine, next(text for text in found if text is not None))
        written = dict(literals)
        if written:
            mine.args, mine.kwargs = (
                fx.node.map_arg(raw, lambda node, known=written: known.get(node, node))  # type: ignore[misc]
                for raw in (mine.args, mine.kwargs)
            )
    if len(ours) != len(theirs):
        yield Difference(ours[-1] if ours else None, "the course of the forward")


def _is_dtype(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is getattr and bool(node.args[1] == "dtype")


def _is_by_mode(node: fx.Node) -> bool:
    return node.op == "call_module" and not node.args and not isinstance(node.meta["value"], Tensor)


def _compared(mine: Any, its: Any, partner: dict[fx.Node, fx.Node], literals: list[tuple[Any, Any]]) -> str | None:
    if isinstance(mine, fx.Node) and _is_dtype(mine):
        if isinstance(its, torch.dtype):
            literals.append((mine, its))
            return None
        same = isinstance(its, fx.Node) and _is_dtype(its) and partner.get(its.args[0]) is mine.args[0]  # type: ignore[arg-type]
        return None if same else "a dtype"
    if isinstance(mine, fx.Node) and _is_by_mode(mine):
        mine = mine.meta["value"]
    if isinstance(its, fx.Node):
        if isinstance(mine, torch.dtype) and _is_dtype(its):
            return None if its.meta["value"] is mine else "a dtype"
        return None if partner.get(its) is mine else "what is read"
    if isinstance(mine, (tuple, list)) and isinstance(its, (tuple, list)):
        pairs: Any = zip(mine, its, strict=False) if len(mine) == len(its) else None
    elif isinstance(mine, dict) and isinstance(its, dict):
        pairs = ((mine[key], its[key]) for key in mine) if mine.keys() == its.keys() else None
    elif isinstance(mine, slice) and isinstance(its, slice):
        pairs = ((mine.start, its.start), (mine.stop, its.stop), (mine.step, its.step))
    else:
        return None if mine is its or _equal(mine, its) else f"the number {mine}"
    if pairs is None:
        return "what is read"
    texts = [_compared(a, b, partner, literals) for a, b in pairs]
    return next((text for text in texts if text is not None), None)


def _equal(mine: Any, its: Any) -> bool:
    if isinstance(mine, float) and isinstance(its, float) and mine != mine:
        return its != its
    same: bool = type(mine) is type(its) and mine == its
    return same
