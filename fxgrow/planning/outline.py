"""The parts and runs of blocks of a model in order, with the sizes that each makes, as its plan knows them.

All is read off the paths of tensors in the plan, so a plan that was read from a file has an outline too.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from fxgrow.grouping import grouped
from fxgrow.modules.tensors import dotted, within
from fxgrow.planning.deepening import renamed
from fxgrow.planning.showing import shortened

if TYPE_CHECKING:
    from fxgrow.planning.plan import Axis, Plan


@dataclass(frozen=True)
class Dimension:
    """A dimension that a part makes. group: the growth group, "" where it stays; said: what there is to say of it."""

    old: int
    new: int
    group: str
    said: str


@dataclass(frozen=True)
class Box:
    """A part that is drawn as one: a layer, or a block of a run.

    new: growth adds it. stays: why factors of its axes do. makes: False of a part that only shifts and scales.
    """

    path: str
    dimensions: tuple[Dimension, ...]
    new: bool = False
    stays: tuple[str, ...] = ()
    makes: bool = True


@dataclass(frozen=True)
class Section:
    """A stretch of the model: one part, or a run of them. stays: why a run has no more blocks."""

    path: str
    boxes: tuple[Box, ...]
    is_run: bool = False
    stays: str = ""

    @property
    def old(self) -> tuple[Box, ...]:
        """What was there before growth."""
        return tuple(box for box in self.boxes if not box.new)


@dataclass(frozen=True)
class _Place:
    """A tensor's axis that makes a dimension. rank: of the tensor, where the plan says; factor: others grow there."""

    name: str
    dimension: Dimension
    rank: int | None
    factor: bool = False

    @property
    def makes(self) -> bool:
        """Whether units are computed there, as by a layer, and not only shifted or scaled, as by a norm."""
        return self.rank is None or self.rank > 1


def outline(plan: Plan) -> tuple[Section, ...]:
    """The stretches of the model that a plan grows, in order, with everything under the names after growth."""
    sections = _Outline(plan).sections("")
    return tuple(_with_norms_before(sections))


class _Outline:
    def __init__(self, plan: Plan) -> None:
        self.places = grouped((place.name, place) for place in _places(plan))
        self.orders = [
            [tensor.name for tensor in plan.tensors],
            [n for staying in plan.held for n in _names(staying.where)],
        ]
        self.added: set[str] = set()
        if plan.depth is not None:
            self.added = {new for block in plan.depth.blocks for new, _ in block.modules}
            children = {c.path: {old: name for name, old in c.names if old} for c in plan.depth.children}
            units = [f"{renamed(unit, children)}." for run in plan.depth.runs for unit in run.units]
            self.orders.append([*units, *(tensor.name for tensor in plan.depth.tensors)])
        self.runs_held = {
            path: staying.reason for staying in plan.held for path in staying.where if not path.endswith("]")
        }
        self.runs = {*self.runs_held, *(run.path for run in plan.depth.runs)} if plan.depth is not None else set()
        self._children: dict[str, list[str]] = {}

    # -- the tree of parts -------------------------------------------------------------------------------

    def below(self, path: str) -> list[list[str]]:
        """The names of tensors below a path, without it, in each of the orders in which the plan has them."""
        start = dotted(path, "")
        return [[name[len(start) :] for name in order if name.startswith(start)] for order in self.orders]

    def children(self, path: str) -> list[str]:
        """The parts of a part, in order."""
        if path not in self._children:
            orders = [[name.partition(".")[0] for name in order if "." in name] for order in self.below(path)]
            names = _merged(orders)
            self._children[path] = sorted(names, key=_number) if _numbered(names) else names
        return self._children[path]

    def is_run(self, path: str) -> bool:
        """Whether the parts of a part are blocks: numbered, of several layers, and not themselves stages of blocks."""
        children = self.children(path)
        paths = [dotted(path, name) for name in children]
        if not _numbered(children) or not (path in self.runs or all(map(self.children, paths))):
            return False
        if path in self.runs or not any(map(self.has_run, paths)):
            return True
        stages = any(run.startswith(dotted(path, "")) for run in self.runs)
        return not stages and len(paths) > 1 and len({self._shape(child) for child in paths}) == 1

    def has_run(self, path: str) -> bool:
        return self.is_run(path) or any(self.has_run(dotted(path, name)) for name in self.children(path))

    def _shape(self, path: str) -> tuple[object, ...]:
        """What blocks of one run have in common and stages do not: names and sizes."""
        names = sorted(set(itertools.chain(*self.below(path))))
        sizes = [[place.dimension.old for place in self.places.get(dotted(path, name), ())] for name in names]
        return (*names, *map(tuple, sizes))

    def sections(self, path: str) -> Iterator[Section]:
        children = self.children(path)
        own = _merged([[name for name in order if name and "." not in name] for order in self.below(path)])
        if path == "" and self.is_run(path):
            yield self._run(path)
            return
        if own:
            yield Section(", ".join(own), (self._box(path, [dotted(path, name) for name in own]),))
        for name in children:
            child = dotted(path, name)
            if self.is_run(child):
                yield self._run(child)
            elif self.has_run(child):
                yield from self.sections(child)
            elif _numbered(layers := self.children(child)) and not any(
                self.children(dotted(child, layer)) for layer in layers
            ):
                yield self._layers(child, [dotted(child, layer) for layer in layers])
            else:
                yield Section(child, (self._box(child),))

    def _run(self, path: str) -> Section:
        boxes = tuple(self._box(dotted(path, name)) for name in self.children(path))
        return Section(path, boxes, True, self.runs_held.get(path, ""))

    def _layers(self, path: str, layers: Sequence[str]) -> Section:
        """A sequence of layers; those that only shift and scale are left out beside others."""
        makers = [layer for layer in layers if any(place.makes for place in self._places(layer))]
        boxes = tuple(map(self._box, makers or layers[:1]))
        return Section(path, boxes, len(boxes) > 1)

    # -- what a part makes -------------------------------------------------------------------------------

    def _is_new(self, name: str) -> bool:
        return any(within(name, path) for path in self.added)

    def _places(self, path: str, names: Sequence[str] | None = None) -> list[_Place]:
        if names is None:
            names = [dotted(path, name) for name in _merged(self.below(path))]
        return [place for name in names for place in self.places.get(name, ())]

    def _box(self, path: str, names: Sequence[str] | None = None) -> Box:
        places = self._places(path, names)
        unfactored = [place for place in places if not place.factor]
        makers = [place for place in unfactored if place.makes] or unfactored[:1]
        largest: dict[str, Dimension] = {}  # of each group: a table beside a layer may have an axis of heads alone
        for dimension in (place.dimension for place in makers):
            key = dimension.group or dimension.said
            largest[key] = max(largest.get(key, dimension), dimension, key=attrgetter("new"))
        stays = dict.fromkeys(place.dimension.said for place in places if place.factor)
        makes = any(place.makes for place in places)
        return Box(path, tuple(largest.values()), bool(path) and self._is_new(path), tuple(stays), makes)


def _places(plan: Plan) -> Iterator[_Place]:
    """Every axis that makes a dimension, of growing groups, then of what stays."""
    tensors = {tensor.name: tensor.axes for tensor in plan.tensors}
    seen: set[str] = set()
    for group in plan.groups:
        made_by = f"made by {shortened(group.where, 1)}" if group.where else ""
        parts = (
            f"{group.name}: {group.old:,} → {group.new:,} units",
            made_by,
            group.how,
            f"+{group.added:,} parameters",
        )
        said = "; ".join(filter(None, parts))
        for name, axis in _axes(group.where):
            old, new = _sizes(tensors[name][axis], group.name) if name in tensors else (group.old, group.new)
            seen.add(name)
            yield _Place(name, Dimension(old, new, group.name, said), len(tensors[name]) if name in tensors else None)
    for staying in plan.held:
        said = f"{staying.size:,} stays: {staying.reason}"
        for name, axis in _axes(staying.where):
            factor = name in tensors and any(tensors[name][axis].runs())
            seen.add(name)
            rank = len(tensors[name]) if name in tensors else None
            yield _Place(name, Dimension(staying.size, staying.size, "", said), rank, factor)
    for name, axes in tensors.items():
        fixed = [axis for axis in axes if not any(axis.runs())]
        if name not in seen and len(axes) > 1 and fixed:
            size = fixed[0].old
            yield _Place(
                name, Dimension(size, size, "", f"{size:,} stays: outside the model others count on it"), len(axes)
            )


def _sizes(axis: Axis, group: str) -> tuple[int, int]:
    """How much of an axis the units of a group are, before and after."""
    if axis.kind == "grow":
        return (axis.old, axis.new) if axis.group == group else (0, 0)
    if axis.kind == "product":
        inside = [_sizes(part, group) for part in axis.parts]
        if not any(new for _, new in inside):
            return 0, 0
        sizes = [pair if pair[1] else (part.old, part.new) for pair, part in zip(inside, axis.parts, strict=True)]
        return math.prod(old for old, _ in sizes), math.prod(new for _, new in sizes)
    old, new = zip((0, 0), *(_sizes(part, group) for part in axis.parts), strict=True)
    return sum(old), sum(new)


def _axes(where: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Tensors and axes from places such as `conv1.weight[0]`."""
    for place in where:
        if place.endswith("]"):
            name, _, axis = place[:-1].rpartition("[")
            yield name, int(axis)


def _names(where: Iterable[str]) -> Iterator[str]:
    return (name for name, _ in _axes(where))


def _numbered(names: Sequence[str]) -> bool:
    """Whether names differ in the number at their end alone: `0` and `1`, `block1` and `block2`."""
    return len({re.sub(r"\d+$", "", name) for name in names}) == 1 and all(name[-1:].isdecimal() for name in names)


def _number(name: str) -> int:
    return int(re.findall(r"\d+$", name)[0])


def _merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """What several sequences have, each once: the first in its order, others behind what they come after there."""
    merged: list[str] = []
    seen: set[str] = set()
    for order in orders:
        place = 0
        for name in order:
            if name in seen:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                seen.add(name)
                place += 1
    return merged


def _with_norms_before(sections: Iterable[Section]) -> Iterator[Section]:
    """Layers that only shift and scale what the one before makes count as part of it."""
    waiting: Section | None = None
    for section in sections:
        if waiting is not None and not section.is_run and not waiting.is_run and _follows(waiting, section):
            waiting = replace(waiting, path=f"{waiting.path}, {section.path.rpartition('.')[2]}")
            continue
        if waiting is not None:
            yield waiting
        waiting = section
    if waiting is not None:
        yield waiting


def _follows(before: Section, section: Section) -> bool:
    last, norm = before.boxes[-1], section.boxes[0]
    outputs = {(dimension.group, dimension.new) for dimension in last.dimensions}
    same_parent = last.path.rpartition(".")[0] == norm.path.rpartition(".")[0]
    matched = [(dimension.group, dimension.new) in outputs for dimension in norm.dimensions]
    return not norm.makes and same_parent and last.new == norm.new and bool(matched) and all(matched)


def spread(sections: Iterable[Section]) -> Mapping[str, int]:
    """In how many boxes each growth group is made."""
    boxes = (box for section in sections for box in section.boxes)
    return Counter(group for box in boxes for group in {d.group for d in box.dimensions if d.group})
