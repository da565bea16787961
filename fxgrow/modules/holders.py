"""What attributes of modules hold others in: containers of any kind, objects of a user's own, and what has a state."""

from __future__ import annotations

import copy
import enum
import functools
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from types import CellType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.modules.libraries import is_installed, is_library

_CONTAINERS = (list, tuple, dict, set, deque, OrderedDict, defaultdict, Counter)
_LONG = 1 << 16
"""Longer containers are data rather than state."""


def held_by(value: Any, package: str = "") -> Mapping[Any, Any] | None:
    """What a container or an object of a user's own holds, by key or attribute; None of anything else.

    package: an installed package whose objects are looked into as well, such as that of the part that holds the value.

    >>> held_by([1, 2]), held_by(SimpleNamespace(last=None)), held_by("text")
    ({0: 1, 1: 2}, {'last': None}, None)
    """
    kind: Any = type(value)
    if _is_array(kind):
        return {...: value.tobytes()} if value.size < _LONG and not value.dtype.hasobject else None
    if kind is torch.Generator:
        return {...: bytes(value.get_state().tolist())} if value is not torch.default_generator else None
    if kind not in _CONTAINERS and not is_users(kind) and not (package and _is_state(kind, package)):
        return None
    if isinstance(value, _CONTAINERS):
        if len(value) >= _LONG:
            return None
        if isinstance(value, dict):
            return value
        return dict.fromkeys(value) if isinstance(value, set) else dict(enumerate(value))
    return attributes_of(value) if _is_plain(kind) else None


def compared_by(value: Any) -> Mapping[Any, Any] | None:
    """What tells an object from others of its class: as `held_by`, and the attributes of one that has no other way.

    >>> compared_by(object()), compared_by(__import__("contextlib").nullcontext(1)), compared_by(1)
    (None, {'enter_result': 1}, None)
    """
    held = held_by(value)
    kind: Any = type(value)
    if held is None and kind.__eq__ is object.__eq__ and _is_plain(kind):
        return attributes_of(value) or None
    return held


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object of a user's own holds, by name.

    >>> attributes_of(SimpleNamespace(last=None))
    {'last': None}
    """
    kind: Any = type(value)
    in_slots = {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
    return {**in_slots, **getattr(value, "__dict__", {})}


def fields_of(value: Any) -> dict[str, Any]:
    """What an object of a user's own, or a named tuple, holds, by name; nothing of any other value.

    >>> fields_of(SimpleNamespace(last=None)), fields_of((1, 2))
    ({'last': None}, {})
    """
    if isinstance(value, tuple):
        return dict(getattr(value, "_asdict", dict)())
    return attributes_of(value) if is_object(value) else {}


def holding(value: Any, held: Mapping[Any, Any]) -> Any:
    """A copy of such a value that holds others under the same keys.

    >>> holding(deque([1], maxlen=2), {0: 3})
    deque([3], maxlen=2)
    """
    if isinstance(value, tuple):
        items = tuple(held.values())
        if len(items) == len(value) and all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)._make(items) if hasattr(value, "_make") else type(value)(items)
    kind = type(value)
    if kind is torch.Generator:
        twin: Any = torch.Generator(value.device)
    else:
        twin = copy.copy(value) if isinstance(value, _CONTAINERS) or _is_array(kind) else empty(kind)
    hold(twin, held)
    return twin


def empty(kind: type) -> Any:
    """An object of a class without attributes, whatever its constructor does."""
    return SimpleNamespace() if kind is SimpleNamespace else object.__new__(kind)


def hold(value: Any, held: Mapping[Any, Any]) -> None:
    """Let a value that can change in place hold others."""
    if isinstance(value, (list, deque)):
        value.clear()
        value.extend(held.values())
    elif _is_array(type(value)):
        import numpy  # it is there, as the array is

        value[...] = numpy.frombuffer(held[...], value.dtype).reshape(value.shape)
    elif isinstance(value, torch.Generator):
        value.set_state(torch.tensor(list(held[...]), dtype=torch.uint8))
    elif isinstance(value, (dict, set)):
        value.clear()
        value.update(held)
    else:
        for name in getattr(value, "__dict__", {}).keys() - held.keys():
            del value.__dict__[name]
        for name, item in held.items():
            object.__setattr__(value, name, item)


def content_of(cell: CellType, empty: Any = None) -> Any:
    """What the cell of a closure holds; `empty` where it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return empty


def is_object(value: Any) -> bool:
    """Whether a value is an object of a user's own that holds others in its attributes.

    >>> is_object(SimpleNamespace(x=1)), is_object({"x": 1})
    (True, False)
    """
    kind: Any = type(value)
    return is_users(kind) and not isinstance(value, (*_CONTAINERS, Mapping)) and _is_plain(kind)


def attribute(holder: Any, name: str) -> Any:
    """An attribute of an object that a model is called with, or of a dictionary that stands for it."""
    return holder[name] if isinstance(holder, dict) else getattr(holder, name)


def _is_array(kind: type) -> bool:
    return (kind.__module__, kind.__name__) == ("numpy", "ndarray")


@functools.cache
def _is_plain(kind: type) -> bool:
    """Whether all that objects of a class have is attributes."""
    try:
        return kind is SimpleNamespace or isinstance(object.__new__(kind), kind)
    except TypeError:  # it is built on a class of C
        return False


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for listed in slots for name in ([listed] if isinstance(listed, str) else listed)]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__"))


@functools.cache
def is_users(kind: type) -> bool:
    """Whether a class is of no library or package, and its objects are no parts of a model."""
    return kind in (SimpleNamespace, Namespace) or (_is_no_part(kind) and not is_installed(kind))


@functools.cache
def _is_state(kind: type, package: str) -> bool:
    """Whether objects of a class of a package are state of its parts; of containers it may compute what they hold."""
    of_package = kind.__module__.partition(".")[0] == package and not issubclass(kind, (*_CONTAINERS, Mapping))
    return of_package and _is_no_part(kind)


def _is_no_part(kind: type) -> bool:
    if is_library(kind.__module__) or kind.__module__.partition(".")[0] == "fxgrow":
        return False
    return not issubclass(kind, (nn.Module, Tensor, type, enum.Enum, BaseException))
