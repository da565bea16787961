"""Attributes that count blocks or name them by their position: they follow when a deeper model moves the blocks.

Names of attributes do not tell which these are. One is moved where that brings the copy nearer to the original.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from fxgrow.capture.attributes import is_settings
from fxgrow.capture.inputs import Inputs, fitted
from fxgrow.capture.numbers import Attribute
from fxgrow.capture.recorder import FEATURES
from fxgrow.capture.skeleton import skeleton
from fxgrow.modules.containers import flat_tensors, with_items
from fxgrow.modules.devices import callers_code
from fxgrow.modules.switching import in_mode
from fxgrow.modules.tensors import OF_MODULES
from fxgrow.own.sizes import SizeSettings, put
from fxgrow.planning.deepening import Children, Deepening
from fxgrow.planning.names import recounted, series

INTERMEDIATES = "forward_intermediates"
"""What models of timm's call the method that gives what their blocks give."""


class NewValue(NamedTuple):
    """Another value for an attribute of the module at a path, or of an object of settings that it holds."""

    path: str
    keys: tuple[str, ...]
    value: Any


def follow_positions(
    own: nn.Module, depth: Deepening, distance: Callable[[nn.Module], float], at_once: int = 1
) -> None:
    """Move positions in a deeper copy while `distance` falls by it; none if it does not fall to 0.

    at_once: how many attributes may have to move together.
    """
    best = distance(own)
    as_they_were: list[NewValue] = []
    for children in depth.children if best else ():
        candidates = list(_moved_by(own, children))
        while best:
            nearer = (
                (reached, moved)
                for together in range(1, at_once + 1)
                for reached, moved in _tried(own, itertools.combinations(candidates, together), distance)
                if reached < best
            )
            best_now, moved = next(nearer, (best, ()))
            if not moved:
                break
            best = best_now
            as_they_were += [_put(own, position) for position in moved]
            candidates = [position for position in candidates if position not in moved]
    for before in reversed(as_they_were) if best else ():
        _put(own, before)


def _tried(
    own: nn.Module, together: Iterable[tuple[NewValue, ...]], distance: Callable[[nn.Module], float]
) -> Iterator[tuple[float, tuple[NewValue, ...]]]:
    """How near each move of several positions brings a copy, which stays as it is."""
    for moved in together:
        as_they_were = [_put(own, position) for position in moved]
        reached = distance(own)
        for before in as_they_were:
            _put(own, before)
        yield reached, moved


def _put(own: nn.Module, moved: NewValue) -> NewValue:
    """Give an attribute another value; what it was."""
    attribute = Attribute(moved.path, moved.keys)
    before = SizeSettings(own).now(attribute)
    put(own, attribute, moved.value)
    return moved._replace(value=before)


def _moved_by(own: nn.Module, children: Children) -> Iterator[NewValue]:
    """Attributes that may count blocks or name them by their position, with what they are among new ones.

    In what holds the blocks and in parts around it, the number of these (for `range(self.depth)`), the place of one
    (`self.blocks[: self.split]`), lists of such numbers (`self.depths`), collections of positions (timm's
    `out_indices`) or names (torchvision's `return_layers`), lists of what each block has (`self.rates[k]`), lists and
    dictionaries of the blocks themselves; the number, and lists, also in settings that a part holds
    (`self.config.layers`); anywhere, dictionaries with an entry for each position.
    """
    for counted in series(new for new, _ in children.names).values():
        some = tuple(pair for pair in children.names if pair[0] in counted)
        if len(some) < len(children.names) and {bool(old) for _, old in some} == {True, False}:
            yield from _moved_in(own, replace(children, names=some))
    yield from _moved_in(own, children)


def _moved_in(own: nn.Module, children: Children) -> Iterator[NewValue]:
    is_old = [bool(old) for _, old in children.names]
    news, olds = [new for new, _ in children.names], [old for _, old in children.names if old]
    places = last_places(is_old)
    before, after = len(places), len(is_old)
    by_place, by_name = dict(enumerate(places)), {old: news[places[k]] for k, old in enumerate(olds)}
    origins = [sum(is_old[: place + 1]) - 1 for place in range(after)]
    parts = _held_at(own, children.path).get("_modules", {})

    def longer(items: Iterable[Any]) -> list[Any]:
        """What is held for each block; the blocks themselves, if it is them."""
        each = list(items)
        if all(each[origin] is parts.get(new) for origin, new, old in zip(origins, news, is_old, strict=True) if old):
            return [parts[new] for new in news]
        return [each[origin] for origin in origins]

    def ways(value: Any, stage: int) -> Iterator[Any]:
        yield recounted(value, olds, news)
        if type(value) is int and 0 <= value < before:
            yield from {place: 0 for place in (places[value], places[value - 1] + 1) if value < place}
        if type(value) in (list, tuple):
            if stage < len(value) and type(value[stage]) is int and value[stage] == before:
                yield type(value)((*value[:stage], after, *value[stage + 1 :]))
            if len(value) == before:
                yield type(value)(longer(value))
        for names in (by_place, by_name) if _names_items(value) and value else ():
            if all(type(item) in (int, str) and item in names for item in value):
                yield _renamed(value, names)
        for keys, now in ((range(before), range(after)), (olds, news)):
            if isinstance(value, dict) and [*value] == [*keys]:
                yield with_items(value, dict(zip(now, longer(value.values()), strict=True)))

    steps = children.path.split(".") if children.path else []
    for length in range(len(steps) + 1):
        path, stage = ".".join(steps[:length]), next((int(step) for step in steps[length:] if step.isdigit()), 0)
        for name, value in _attributes(own, path):
            yield from (NewValue(path, (name,), now) for now in ways(value, stage) if now is not None)
            for key, setting in list(vars(value).items()) if is_settings(value) else ():
                counts = setting == before if type(setting) is int else type(setting) in (list, tuple)
                again = ways(setting, stage) if counts else ()
                yield from (NewValue(path, (name, key), now) for now in again if now is not None)
    for path, _ in own.named_modules():
        for name, value in _attributes(own, path):
            if isinstance(value, dict) and value and list(value) == list(range(before)):
                yield NewValue(path, (name,), with_items(value, dict(enumerate(longer(value.values())))))


def _names_items(value: Any) -> bool:
    return type(value) in (list, tuple, set, frozenset) or isinstance(value, dict)


def _renamed(value: Any, now: Mapping[Any, Any]) -> Any:
    """A collection with others for its items, or a dictionary with others for its keys."""
    if isinstance(value, dict):
        return with_items(value, {now[key]: item for key, item in value.items()})
    return type(value)(now[item] for item in value)


def last_places(old: Sequence[bool]) -> list[int]:
    """For each block that was there, the place of the last before the next such: who read it, reads that one now."""
    starts = [place for place, was_there in enumerate(old) if was_there]
    return [place - 1 for place in (*starts[1:], len(old))]


def intermediates_apart(source: nn.Module, inputs: tuple[Inputs, Inputs]) -> Callable[[nn.Module], float]:
    """How much `forward_intermediates` of a grown copy does otherwise than growth explains: shapes, parts that run.

    inputs: those of the source, and those of the copy.
    """
    before = intermediates_of(source, inputs[0])

    def distance(own: nn.Module) -> float:
        if before is None:
            return 0
        after = intermediates_of(own, inputs[1])
        if after is None:
            return float("inf")
        apart = float(after.last != after.features) + float(after.runs_all < before.runs_all)
        if len(before.each) == len(after.each):  # else a block more gives one more
            apart += sum(not _may_become(old, new) for old, new in zip(before.each, after.each, strict=True))
        return apart

    return distance


Shapes = list[tuple[int, ...]]


class Intermediates(NamedTuple):
    """Shapes; runs_all: whether every part runs that runs in `forward_features`."""

    features: Shapes
    last: Shapes
    each: Shapes
    runs_all: bool


def intermediates_of(model: Any, inputs: Inputs) -> Intermediates | None:
    """What the blocks of a model of timm's give; None where it does not say."""
    if not hasattr(model, INTERMEDIATES) or not hasattr(model, FEATURES):
        return None
    runner: Any = in_mode(skeleton(model), False)
    ran: set[nn.Module] = set()
    for part in runner.modules():
        part.register_forward_hook(lambda part, *_: ran.add(part))
    with suppress(Exception), callers_code(), torch.device("meta"), torch.no_grad():
        arguments, keywords = fitted(runner, inputs)
        last, each = getattr(runner, INTERMEDIATES)(*arguments, **keywords)
        in_intermediates = set(ran)
        features = getattr(runner, FEATURES)(*arguments, **keywords)
        if next(flat_tensors(each), None) is not None:
            return Intermediates(_shapes(features), _shapes(last), _shapes(each), ran == in_intermediates)
    return None


def _shapes(value: Any) -> Shapes:
    return [tuple(tensor.shape) for tensor in flat_tensors(value)]


def _may_become(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape can be of the other after growth: as large, or wider in one dimension."""
    return (
        len(old) == len(new)
        and sum(new_item != old_item for new_item, old_item in zip(old, new, strict=True)) <= 1
        and old <= new
    )


def _attributes(own: nn.Module, path: str) -> list[tuple[str, Any]]:
    held = _held_at(own, path)
    return [(name, value) for name, value in held.items() if name not in OF_MODULES]


def _held_at(own: nn.Module, path: str) -> dict[str, Any]:
    """What a part holds."""
    try:
        return own.get_submodule(path).__dict__
    except AttributeError:  # it has moved itself
        return {}
