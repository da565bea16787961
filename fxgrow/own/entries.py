"""Finds out what the entries of a config mean, and their values after growth.

A model is built without data from the config with another value of one entry. The sizes of tensors, numbers of parts
and attributes that change show the entry's meaning. Those that change in proportion give its value after growth.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from fxgrow.modules.tensors import named_tensors
from fxgrow.planning.likeness import Setting

Entry = tuple[str | int, ...]
"""Where a number stands in a config: names of attributes, and positions in lists."""

Number = tuple[str, str, str | int]
"""A number of a model: the size of a tensor along an axis, how many parts a part has, an attribute."""

Numbers = Mapping[Number, float]

_ROUNDS = 4
"""One entry makes another known: how many heads there are, where heads times head dimension is a size."""


def numbers_of(model: nn.Module) -> dict[Number, float]:
    """The sizes of a model, and the numbers that its parts keep."""
    numbers: dict[Number, float] = {}
    for name, tensor in named_tensors(model).items():
        numbers.update({("size", name, axis): size for axis, size in enumerate(tensor.shape)})
    for path, part in model.named_modules():
        numbers["parts", path, ""] = len(part._modules)
        for name, value in part.__dict__.items():
            if type(value) in (int, float) and not name.startswith("_"):
                numbers["attribute", path, name] = value
    return numbers


def configs_in(config: Any) -> Iterator[Any]:
    """A config and those that it holds."""
    yield config
    for value in vars(config).values():
        if _is_config(value):
            yield from configs_in(value)


def _is_config(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "__dict__") and not isinstance(value, type)


def changed_entries(before: Any, after: Any) -> Iterator[Setting]:
    """The entries of a config that are no longer what they were, by name."""
    old = dict(_entries(before))
    for entry, value in _entries(after):
        if old.get(entry) != value:
            yield Setting("", _name(entry), value, old.get(entry))


class Search:
    """A config, what its class builds from it, and what each of its entries moves there.

    kind: the class. before: the numbers of the model that keeps the config, which may have changed since it was built.
    read: the names of tensors and attributes that the forward reads.
    """

    def __init__(self, kind: Any, config: Any, before: Numbers, read: Collection[str]) -> None:
        self.kind = kind
        self.config = config
        self.flags: dict[str, bool] = {}
        """Arguments of the constructor besides the config, such as `add_pooling_layer`."""
        self.flags = self._flags_for({name for which, name, _ in before if which == "size"})
        self.original = self.built(config)
        self.before = before
        self.read = read
        self.conflicts: list[str] = []
        """Entries that would have to be several things."""
        self._idle: set[Entry] = set()

    def built(self, config: Any) -> nn.Module:
        """A model of the class without data."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model: nn.Module = self.kind(copy.deepcopy(config), **self.flags)
        return model

    def _flags_for(self, names: set[str]) -> dict[str, bool]:
        """The flags, other than by default, with which the class builds tensors of the names that the model has."""
        arguments = inspect.signature(self.kind).parameters.values()
        flags = {argument.name: argument.default for argument in arguments if isinstance(argument.default, bool)}
        best: dict[str, bool] = {}
        fewest = len(names ^ named_tensors(self.built(self.config)).keys())
        for turned in (some for size in range(1, len(flags) + 1) for some in itertools.combinations(flags, size)):
            if not fewest:
                break
            self.flags = {name: not flags[name] for name in turned}
            with suppress(Exception):  # whatever a constructor raises: it does not take them together
                apart = len(names ^ named_tensors(self.built(self.config)).keys())
                best, fewest = (self.flags, apart) if apart < fewest else (best, fewest)
        return best

    def config_for(self, after: Numbers, partly: Any) -> Any:
        """The config from which the class builds what has become of the model, as nearly as it can.

        partly: the config as the grown model keeps it: what its forward reads of it is right.
        """
        first = numbers_of(self.original)
        changed = {number for number, value in first.items() if self.before.get(number, value) != value}
        config, base = copy.deepcopy(self.config), first
        old = dict(_entries(config))
        changes = {entry: value for entry, value in _entries(partly) if value != old.get(entry)}
        for _ in range(_ROUNDS):
            telling = {n for n in base.keys() & after.keys() - changed if self._tells(n, after)}
            wrong = {number for number in telling if base[number] != after[number]}
            parts = {number for number in telling if number[0] == "parts"}
            for numbers in (parts, telling) if wrong & parts else (telling,):  # blocks before what sizes they have
                if changes or wrong:
                    changes = self._solved(config, base, after, numbers, changes)
                if changes:
                    break
            if not changes:
                break
            for entry, value in changes.items():
                _put(config, entry, value)
            changes, base = {}, numbers_of(self.built(config))
        return self._as_read(config)

    def _tells(self, number: Number, after: Numbers) -> bool:
        """Whether a number of the grown model is what it has to be: what nothing reads may only not have followed."""
        kind, path, name = number
        return (
            kind == "parts"
            or (path if kind == "size" else f"{path}.{name}") in self.read
            or self.before.get(number, after[number]) != after[number]
        )

    def _solved(
        self, config: Any, base: Numbers, after: Numbers, telling: set[Number], known: Mapping[Entry, Any]
    ) -> dict[Entry, Any]:
        """What entries have become, where each number that an entry moves by itself says the same."""
        now = dict(_entries(config))
        tried = {entry: self._moved(config, entry, base) for entry in now.keys() - self._idle}
        moves = {entry: pair for entry in now if (pair := tried.get(entry)) is not None}
        self._idle |= tried.keys() - moves.keys()
        movers: dict[Number, set[Entry]] = {}
        for entry, (_, moved) in moves.items():
            for number in moved:
                movers.setdefault(number, set()).add(entry)
        said: dict[Entry, dict[Any, str]] = {}
        settled = set(known)
        for others_settled in (False, True):  # then also what it moves together with those that are right
            for entry, (steps, moved) in moves.items():
                if entry in settled or entry in said:
                    continue
                values = said[entry] = {}
                for number in moved.keys() & telling:
                    if not movers[number] - {entry} - (settled if others_settled else set()):
                        right = base[number] == after[number]
                        sizes = base[number], moved[number]
                        values[now[entry] if right else _solution(steps, sizes, after[number])] = number[1]
                values.pop(None, None)
                if not values:
                    del said[entry]
            settled |= {entry for entry, values in said.items() if list(values) == [now[entry]]}
        self.conflicts = [
            f"{_name(entry)} would be " + " and ".join(f"{v} at {place}" for v, place in list(values.items())[:2])
            for entry, values in said.items()
            if len(values) > 1
        ]
        agreed = {entry: next(iter(values)) for entry, values in said.items() if len(values) == 1}
        return {entry: value for entry, value in {**known, **agreed}.items() if value != now[entry]}

    def _moved(
        self, config: Any, entry: Entry, base: Numbers
    ) -> tuple[tuple[float, float], dict[Number, float]] | None:
        """The value of an entry and another one, and the numbers that are others with this, if the class takes one."""
        value = dict(_entries(config))[entry]
        for other in (value * 2 or 1, value + 1, value * 3):
            twin = copy.deepcopy(config)
            try:
                _put(twin, entry, other)
                numbers = numbers_of(self.built(twin))
            except Exception:  # whatever a constructor raises: it does not take the value
                continue
            moved = {number: size for number, size in numbers.items() if base.get(number, size) != size}
            return ((value, other), moved) if moved else None
        return None

    def _as_read(self, config: Any) -> Any:
        """A config with what its class works out from others as it is when it is read from a file."""
        again = type(config).from_dict(config.to_dict())
        for name, value in vars(again).items():
            if not name.startswith("_") and not _is_config(value) and vars(config).get(name) != value:
                setattr(config, name, value)
        for name, value in vars(config).items():
            old = vars(self.config).get(name)
            if isinstance(value, dict) and isinstance(old, dict) and old and value != old:
                setattr(config, name, _with_old_names(old, value))
        return config


def _name(entry: Entry) -> str:
    """What code calls an entry.

    >>> _name(("vision_config", "depths", 2))
    'vision_config.depths[2]'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in entry).removeprefix(".")


def _entries(config: Any) -> Iterator[tuple[Entry, Any]]:
    """The numbers in a config, and those that it works out and that can be set (how many labels there are)."""

    def within(value: Any, entry: Entry) -> Iterator[tuple[Entry, Any]]:
        if type(value) in (int, float):
            yield entry, value
        elif isinstance(value, (list, tuple)):
            for position, item in enumerate(value):
                yield from within(item, (*entry, position))
        elif _is_config(value):
            for name, item in vars(value).items():
                if not name.startswith("_"):
                    yield from within(item, (*entry, name))

    yield from within(config, ())
    for kind in type(config).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, property) and member.fset is not None and not name.startswith("_"):
                value = getattr(config, name, None)
                if type(value) is int:
                    yield (name,), value


def _put(held: Any, entry: Entry, value: Any) -> Any:
    """Give an entry a value; returns what holds it, which is another where it is a tuple."""
    first, rest = entry[0], entry[1:]
    if isinstance(first, int):
        items = list(held)
        items[first] = _put(items[first], rest, value) if rest else value
        return type(held)(items)
    setattr(held, first, _put(getattr(held, first), rest, value) if rest else value)
    return held


def _solution(steps: tuple[float, float], sizes: tuple[float, float], size: float) -> float | None:
    """For which value a number is of a size that is in (inverse) proportion to it; None for what is no whole number.

    >>> _solution((4, 8), (32, 64), 48), _solution((4, 8), (32, 64), 50), _solution((4, 8), (12, 6), 8)
    (6, None, 6)
    """
    if steps == sizes:
        return size
    (value, other), (old, new) = steps, sizes
    if value * old == other * new and size:
        solution = value * old / size
    else:
        solution = value + (size - old) * (other - value) / (new - old)
    if isinstance(value, float):
        return solution
    return round(solution) if abs(solution - round(solution)) < 1e-9 else None


def _with_old_names(old: dict[Any, Any], new: dict[Any, Any]) -> dict[Any, Any]:
    """Names of positions, or positions of names, with the old ones called as they were.

    >>> _with_old_names({0: "cat"}, {0: "LABEL_0", 1: "LABEL_1"}), _with_old_names({"cat": 0}, {"LABEL_0": 0, "x": 1})
    ({0: 'cat', 1: 'LABEL_1'}, {'cat': 0, 'x': 1})
    """
    if all(isinstance(key, int) for key in new):
        return {key: old.get(key, name) for key, name in new.items()}
    return {**old, **{name: position for name, position in new.items() if position not in old.values()}}
