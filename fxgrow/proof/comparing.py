"""What is compared without a claim: plain values, and modules by their attributes."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.modules.holders import compared_by
from fxgrow.modules.tensors import OF_TREE
from fxgrow.proof.claims import Claim, Unproved
from fxgrow.rules.registry import kind_of

ABSENT = type("Absent", (), {"__repr__": lambda self: "nothing"})()
"""Stands for an argument that one of the two nodes does not have."""


@dataclass(frozen=True)
class Both:
    """A value that is no tensor: what the original has at this place, and what the grown model has."""

    old: Any
    new: Any

    @property
    def same(self) -> bool:
        return equal_values(self.old, self.new)


def equal_values(value: Any, other: Any) -> bool:
    """Whether two plain values are equal; floats up to the rounding of one multiplication."""
    if isinstance(value, float) and isinstance(other, (int, float)) and not isinstance(other, bool):
        return value == other or math.isclose(value, other, rel_tol=1e-15) or (math.isnan(value) and math.isnan(other))
    if isinstance(value, int) and isinstance(other, int):  # one may remember where it comes from
        return value == other and isinstance(value, bool) == isinstance(other, bool)
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(value) == len(other) and all(map(equal_values, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(equal_values(value[k], other[k]) for k in value)
    if isinstance(value, slice) and isinstance(other, slice):
        return equal_values((value.start, value.stop, value.step), (other.start, other.stop, other.step))
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        alike = isinstance(value, Tensor) and isinstance(other, Tensor)
        return (
            alike
            and value.shape == other.shape
            and value.dtype == other.dtype
            and (value is other or torch.equal(value, other))
        )
    if isinstance(value, nn.Module) and isinstance(other, nn.Module):
        return module_difference(value, other, frozenset()) is None
    if isinstance(value, weakref.ref) and isinstance(other, weakref.ref):
        referred, looked_at = (value(), other()), (nn.Parameter, nn.Module)  # where they stand in the tree
        of_tree = all(held is None or isinstance(held, looked_at) for held in referred)
        return of_tree or equal_values(*referred)
    if type(value) is not type(other):
        return False
    held, others = compared_by(value), compared_by(other)
    if held is None or others is None or held is value:
        return bool(value == other)
    return equal_values(dict(held), dict(others))


def plain(item: Any) -> Both:
    """A structure of plain values, as one pair of values."""
    if isinstance(item, Both):
        return item
    if isinstance(item, Claim):
        raise Unproved("a tensor is given where a number is expected")
    if isinstance(item, slice):
        parts = [plain(p) for p in (item.start, item.stop, item.step)]
        return Both(slice(*(p.old for p in parts)), slice(*(p.new for p in parts)))
    if isinstance(item, dict):
        by_key = {key: plain(value) for key, value in item.items()}
        return Both({k: v.old for k, v in by_key.items()}, {k: v.new for k, v in by_key.items()})
    pairs = [plain(value) for value in item]
    kind = type(item) if type(item) in (tuple, list) else tuple
    return Both(kind(p.old for p in pairs), kind(p.new for p in pairs))


_OF_HOOKS = ("_forward_", "_backward_", "_is_full_backward_", "_state_dict_", "_load_state_")
"""How the names begin of what modules keep of their hooks."""


def module_difference(old: nn.Module, new: nn.Module, besides: frozenset[str]) -> str | None:
    """The first attribute in which two modules differ, as a sentence; parameters and buffers are not looked at."""
    before_kind, after_kind = kind_of(old), kind_of(new)
    if before_kind is not after_kind:
        return f"it is a {after_kind.__name__}, it was a {before_kind.__name__}"
    besides |= {"factor"} if before_kind is not type(old) or after_kind is not type(new) else set()
    names = [name for name in old.__dict__ if old.__dict__[name] is not new.__dict__.get(name, ABSENT)]
    names += [name for name in new.__dict__ if name not in old.__dict__]
    for name in names:
        if name in OF_TREE or name in besides:
            continue
        before, after = old.__dict__.get(name, ABSENT), new.__dict__.get(name, ABSENT)
        if name.endswith("_hooks") or name.startswith(_OF_HOOKS):
            if (
                (before or after)
                and not _equal_attribute(list(_values(before)), list(_values(after)))
                and "forward" in name
            ):
                return f"its {name} differ"
            continue
        if isinstance(before, (nn.Module, Tensor)) or isinstance(after, (nn.Module, Tensor)):
            continue  # the same objects as in the tree, which is looked at below
        if before is not after and not _equal_attribute(before, after):
            return f"its {name} is {after}, it was {before}"
    if old._modules.keys() != new._modules.keys():
        return f"its parts are {list(new._modules)}, they were {list(old._modules)}"
    for name, part in old._modules.items():
        twin = new._modules[name]
        if (part is None) != (twin is None):
            return f"its {name} is there in one of the models only"
        if part is not None and twin is not None and (difference := module_difference(part, twin, besides)) is not None:
            return f"{name}: {difference}"
    return None


def _values(hooks: Any) -> list[Any]:
    return list(hooks.values()) if isinstance(hooks, dict) else []


def _equal_attribute(before: Any, after: Any) -> bool:
    try:
        return equal_values(before, after)
    except (RuntimeError, TypeError, ValueError):
        return False
