"""What the modules of a model hold besides parameters, and what of it is another after a run."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxgrow.capture.numbers import plain
from fxgrow.modules.containers import of_kind
from fxgrow.modules.holders import attributes_of, held_by, is_object
from fxgrow.modules.libraries import package_of
from fxgrow.modules.tensors import OF_MODULES

Key = tuple[str, str, str]
"""What `HeldState` tells an attribute by: the path of its module, its kind ("buffer" or "attribute") and its name."""

_NOTHING = object()
"""What was there before an attribute: the same as nothing else."""

_PLAIN = frozenset((bool, int, float, str, type(None), torch.Tensor, nn.Parameter))
"""Classes of values that hold no others."""


class HeldState:
    """What the modules of a model hold besides parameters at one time: says what of it is another later."""

    def __init__(self, model: nn.Module) -> None:
        seen: set[int] = set()
        self.parts = {path: _Part(module, seen) for path, module in model.named_modules()}

    def changes_since(self, before: HeldState) -> dict[Key, tuple[Any, Any]]:
        """What is another of buffers, and of attributes of modules with a forward of their own: it was, and it is."""
        return {
            (path, *named): values
            for path, part, was in self._pairs(before)
            for named, values in part.changes_since(was)
        }

    def numbers_since(self, before: HeldState) -> dict[tuple[str, str], tuple[Any, Any]]:
        """The numbers that attributes were given, by path and name: what was and is there, perhaps the same."""
        return {
            (path, name): (plain(was.attributes.get(name)), plain(value))
            for path, part, was in self._pairs(before)
            if not _are_same(part.attributes, was.attributes)
            for name, value in part.attributes.items()
            if isinstance(value, (int, float)) and type(value) is not bool and value is not was.attributes.get(name)
        }

    def is_that_of(self, before: HeldState) -> bool:
        """Whether all that the modules hold, each other included, is what they held before."""
        return self.parts.keys() == before.parts.keys() and all(
            part.module is was.module
            and _are_same(part.attributes, was.attributes)
            and part.registered.keys() == was.registered.keys()
            and all(_are_same(held, was.registered[name]) for name, held in part.registered.items())
            and all(is_same(contents, was.contents[name]) for name, contents in part.contents.items())
            for _, part, was in self._pairs(before)
        )

    def _pairs(self, before: HeldState) -> Iterator[tuple[str, _Part, _Part]]:
        for path, part in self.parts.items():
            yield path, part, before.parts.get(path) or _Part(nn.Module(), set())


class _Part:
    """What one module holds. contents: of containers and objects in its attributes; seen: those met before."""

    def __init__(self, module: nn.Module, seen: set[int]) -> None:
        self.module = module
        self.is_torchs = type(module).__module__.startswith("torch.nn.")
        self.attributes: dict[str, Any] = {}
        self.registered: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, Any] = {}
        package = package_of(type(module))
        for name, value in module.__dict__.items():
            if name not in OF_MODULES:
                self.attributes[name] = value
                if not (self.is_torchs or type(value) in _PLAIN):
                    self.contents[name] = contents_of(value, seen, package)
            elif value and isinstance(value, dict):
                self.registered[name] = dict(value)

    def changes_since(self, before: _Part) -> Iterator[tuple[tuple[str, str], tuple[Any, Any]]]:
        buffers, had = (part.registered.get("_buffers", {}) for part in (self, before))
        for name, tensor in buffers.items():
            if tensor is not had.get(name, _NOTHING):
                yield ("buffer", name), (had.get(name), tensor)
        for name, value in self.attributes.items():
            if self.is_torchs and not isinstance(value, torch.Tensor):
                continue
            was = before.attributes.get(name, _NOTHING)
            if not is_same(self.contents.get(name, value), before.contents.get(name, was)):
                yield ("attribute", name), (was, value)


def _are_same(held: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return held.keys() == before.keys() and all(map(operator.is_, held.values(), before.values()))


def with_tensors(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """An attribute, or those of an object, that hold tensors, perhaps in containers, by their paths."""
    if is_object(value):
        for name, item in attributes_of(value).items():
            yield from with_tensors(item, f"{where}.{name}")
    elif next(of_kind(value, torch.Tensor), None) is not None:
        yield where, value


def contents_of(value: Any, seen: set[int], package: str = "") -> Any:
    """A container or an object of a user's own as it is now, whatever is put into it later; each once."""
    held = held_by(value, package) if id(value) not in seen else None
    if held is None:
        return value
    seen.add(id(value))
    return value, tuple((key, contents_of(item, seen, package)) for key, item in held.items())


def is_same(value: Any, before: Any) -> bool:
    """Whether what `state_of` says of something is what it said before."""
    if type(value) is tuple and type(before) is tuple:
        return len(value) == len(before) and all(map(is_same, value, before))
    return value is before or (type(value) is type(before) and isinstance(value, (int, str, bytes)) and value == before)
