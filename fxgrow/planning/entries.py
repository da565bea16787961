"""The entries of a plan: what settled growth does to each tensor, node and attribute, and what stays and why."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from fxgrow.axes.layout import Join, Layout, Leaf, Product, leaves, resolve
from fxgrow.capture import Captured
from fxgrow.capture.inputs import described
from fxgrow.errors import AmountError
from fxgrow.planning.analysis import Analysis
from fxgrow.planning.edits import AttributeEdit, NodeEdit
from fxgrow.planning.indexing import old_positions
from fxgrow.planning.numbers import positions_after, size_attributes
from fxgrow.planning.plan import Axis, GrowthGroup, Held, Plan, TensorGrowth, Totals
from fxgrow.planning.sizes import flops_after, parameters_after
from fxgrow.planning.sizing import MOST_BYTES, Sizing, producing_places, size_after
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Fact, Range
from fxgrow.rules.op import Op

DRAWS = {"weight": "normal", "gain": "level", "bias": "zeros", "mean": "zeros", "variance": "level"}
"""How free new entries are drawn, by what the parameter is for; any other parameter: like its old entries."""

_SAID = {
    "mean": "mean-fill, norms rescaled",
    "zero": "zero-in",
    "silence": "zero-out",
    "opposite": "mirror",
    "share": "replicate",
}
"""How a dimension stays invisible, by a fill of its."""

READING = frozenset({"silence", "opposite", "share"})
"""Fills of axes that read new units."""


@dataclass
class Entries:
    """What a plan says of growth whose sizes and knowledge are settled.

    numbers: the edits of numbers in the graphs. roles, factors, silent: what parameters are for, by their names.
    """

    analysis: Analysis
    sizing: Sizing
    know: Knowledge
    numbers: list[NodeEdit]
    roles: dict[str, str]
    factors: Collection[str]
    silent: Collection[str]
    over_core: set[Leaf] = field(default_factory=set)

    def plan(self, name: str, captured: Captured, init: str) -> Plan:
        """The settled growth as a value."""
        tensors = tuple(self._tensors())
        nodes, attributes = self.edits()
        return Plan(
            model=name,
            init=init,
            groups=tuple(self._groups(tensors)),
            held=tuple(self._held()),
            tensors=tensors,
            nodes=tuple(nodes),
            attributes=tuple(attributes),
            totals=self._totals(),
            inputs=described(captured.inputs),
            tier=captured.tier,
            hooked_whole=True,
            hooks=tuple((hook.path, hook.name) for hook in captured.hooks),
        )

    @cached_property
    def names(self) -> dict[Leaf, str]:
        """What the growing dimensions are called, in the order of the parameters."""
        growth = self.sizing.growth
        axes = (axis for tensor in self.analysis.parameters.values() for axis in tensor.axes)
        ordered = (leaf for axis in axes for leaf in leaves(axis) if leaf in growth)
        return {leaf: f"d{k}" for k, leaf in enumerate(dict.fromkeys([*ordered, *growth]))}

    def _tensors(self) -> Iterable[TensorGrowth]:
        for name, tensor in self.analysis.parameters.items():
            if not self.know.growing(*tensor.axes):
                continue
            factors = set(self.know.scales.get(name, {}).values()) or {1.0}
            axes = tuple(self._axis(name, k, layout) for k, layout in enumerate(tensor.axes))
            growth = TensorGrowth(name, axes, self._draw(name, axes), factors.pop())
            if math.prod(growth.new_shape) * self.analysis.learnable[name].element_size() > MOST_BYTES:
                shape = list(growth.new_shape)
                raise AmountError(f"{shape} are more entries than a tensor can have", where=name, remedy="ask for less")
            yield growth

    def _draw(self, name: str, axes: Sequence[Axis]) -> str:
        if name in self.roles:
            return DRAWS[self.roles[name]]
        if any(run.fill in READING for axis in axes for run in axis.runs()):
            return DRAWS["weight"]  # weights of several layers in one, such as a packed projection
        if name in self.factors and sum(axis.old > 1 for axis in axes) == 1:  # one for each unit
            return "factor"
        return "zeros" if name in self.silent else "alike"

    def _axis(self, name: str, axis: int, layout: Layout) -> Axis:
        layout = resolve(layout)
        ranged = {
            where
            for leaf in self.know.growing(layout)
            for where in self.know.fills.get((name, axis, leaf), {})
            if where is not None
        }
        if not ranged:
            return self._term(name, axis, layout, 0, layout.size)
        cuts = sorted({0, layout.size, *(r.low for r in ranged), *(r.high for r in ranged)})
        sizes = [high - low for low, high in itertools.pairwise(cuts)]
        pieces = self.analysis.unifier.split(layout, sizes)
        parts = tuple(
            self._term(name, axis, resolve(piece), low, low + size)
            for piece, low, size in zip(pieces, cuts, sizes, strict=False)
        )
        return Axis("join", layout.size, sum(p.new for p in parts), parts=parts)

    def _term(self, name: str, axis: int, layout: Layout, low: int, high: int) -> Axis:
        growth = self.sizing.growth
        new = size_after(layout, growth)
        if isinstance(layout, Leaf):
            if layout not in growth:
                return Axis("keep", layout.size, layout.size)
            return Axis("grow", layout.size, new, self.names[layout], self._fill(name, axis, layout, low, high))
        if new == layout.size:
            return Axis("keep", layout.size, layout.size)
        if isinstance(layout, Product):
            parts = tuple(self._term(name, axis, factor, low, high) for factor in layout.parts)
            return Axis("product", layout.size, new, parts=parts)
        assert isinstance(layout, Join)
        start, pieces = low, []
        for part in layout.parts:
            pieces.append(self._term(name, axis, part, start, start + part.size))
            start += part.size
        return Axis("join", layout.size, new, parts=tuple(pieces))

    def _fill(self, name: str, axis: int, leaf: Leaf, low: int, high: int) -> str:
        slot = (name, axis, leaf)
        fills = self.know.fills.get(slot, {})
        fact = fills.get(Range(axis, low, high)) or next(
            (f for r, f in fills.items() if r is not None and r.low <= low and high <= r.high),
            fills.get(None),
        )
        way = self.know.ways[leaf]
        if fact is Fact.ZERO:
            return "zero"
        if fact is Fact.MEAN:
            return "mean"
        if fact is Fact.IGNORED:
            return {Way.ZERO: "silence", Way.MIRROR: "opposite", Way.REPLICATE: "share"}[way]
        if slot in self.know.contracted and slot not in self.know.produced:
            return "draw"
        return {Way.ZERO: "draw", Way.MIRROR: "pair", Way.REPLICATE: "copy"}[way]

    def edits(self) -> tuple[list[NodeEdit], list[AttributeEdit]]:
        """What becomes of the nodes of the graphs, and of the attributes of modules."""
        nodes: list[NodeEdit] = list(self.numbers)
        attributes = {
            (edit.module, edit.attribute): edit for edit in size_attributes(self.analysis, self.sizing.growth)
        }
        mode_of = {id(graph): mode for mode, graph in self.analysis.graphs.items()}
        for op in self.analysis.ops:
            mode, target = mode_of[id(op.node.graph)], str(op.node.target)
            for edit in op.law.edits(op, self.know):
                if edit.kind == "attribute":
                    for attribute, value in edit.values.items():
                        attributes[target, attribute] = AttributeEdit(target, attribute, value)
                elif edit.kind == "argument":
                    nodes.append(NodeEdit(mode, op.node.name, "literal", edit.values["path"], edit.values["value"]))
                elif edit.kind == "core":
                    value = self._core(edit.values["core"], edit.values["old"])
                    nodes.append(NodeEdit(mode, op.node.name, "literal", edit.values["path"], value))
                elif edit.kind == "cores":
                    part, cores = f"{target}.{edit.values['part']}", edit.values["cores"]
                    attributes[part, "core"] = AttributeEdit(part, "core", tuple(self._core(*core) for core in cores))
                    self.over_core.update(self.know.growing(*(layout for layout, _ in cores)))
                elif edit.kind == "core_input":
                    value = {**edit.values, "core": self._core(edit.values["core"])}
                    nodes.append(NodeEdit(mode, op.node.name, "core_input", value=value))
                else:
                    nodes.append(NodeEdit(mode, op.node.name, "guard", value=self._guard(op, edit.values)))
        return nodes, list(attributes.values())

    def _guard(self, op: Op, values: dict[str, Any]) -> dict[str, Any]:
        layout = values["core"]
        arguments = {k: v for k, v in values["arguments"].items() if not hasattr(v, "op")}
        return {
            "function": values["function"],
            "core": self._core(layout),
            "arguments": arguments,
            "size": size_after(layout, self.sizing.growth),
            "module": op.module is not None,
        }

    def _core(self, layout: Layout, old: Any = None) -> tuple[tuple[int, int], ...]:
        """The old units of a layout, as ranges of all units; old: where they were, None for everywhere."""
        axis = self._term("", -1, resolve(layout), 0, layout.size)
        return positions_after([tuple(r) for r in old or ((0, layout.size),)], old_positions(axis).tolist())

    def _groups(self, tensors: tuple[TensorGrowth, ...]) -> Iterable[GrowthGroup]:
        places_of: dict[Leaf, list[str]] = {}
        for place, layout in producing_places(self.analysis):
            for leaf in self.know.growing(layout):
                places_of.setdefault(leaf, []).append(str(place))
        fills: dict[str, set[str]] = {name: set() for name in self.names.values()}
        added = dict.fromkeys(fills, 0)
        for tensor in tensors:
            runs = [run for axis in tensor.axes for run in axis.runs()]
            for run in runs:
                fills[run.group].add(run.fill)
            if self._is_parameter(tensor.name):
                groups = {run.group for run in runs}
                for name in groups:  # what several groups add together is shared evenly
                    added[name] += (math.prod(tensor.new_shape) - math.prod(tensor.old_shape)) // len(groups)
        for leaf, name in self.names.items():
            where, how = tuple(places_of.get(leaf, [])), self._how(leaf, fills[name])
            yield GrowthGroup(name, leaf.size, self.sizing.growth[leaf], where, how, added[name])

    def _how(self, leaf: Leaf, fills: set[str]) -> str:
        said = [text for fill, text in _SAID.items() if fill in fills]
        if leaf in self.know.guarded | self.over_core:
            said.append("guarded statistics")
        return ", ".join(said) or "zero-in"

    def _is_parameter(self, name: str) -> bool:
        return isinstance(self.analysis.learnable[name], nn.Parameter)

    def _held(self) -> Iterable[Held]:
        places_of: dict[Leaf, list[str]] = {}
        for place, layout in producing_places(self.analysis):
            if not isinstance(self.analysis.learnable[place.parameter], nn.Parameter):
                continue
            for leaf in leaves(layout):
                if leaf not in self.sizing.growth and leaf.size > 1 and not leaf.quiet:
                    places_of.setdefault(leaf, []).append(str(place))
        why_not = {**self.sizing.unmoved, **self.sizing.held}
        merged: dict[tuple[int, str], tuple[list[str], list[str]]] = {}
        for leaf, places in places_of.items():
            text = leaf.reason.text if leaf.reason else why_not.get(leaf, "no amount was asked for it")
            everywhere, causes = merged.setdefault((leaf.size, text), ([], []))
            everywhere.extend(places)
            if leaf.reason and leaf.reason.where:
                causes.append(leaf.reason.where)
        for (size, text), (everywhere, causes) in merged.items():
            more = len(dict.fromkeys(causes)) - 1
            at = f" (at {causes[0]}{f' and {more} more' if more > 0 else ''})" if causes else ""
            yield Held(size, tuple(dict.fromkeys(everywhere)), text + at)

    def _totals(self) -> Totals:
        before, after = (parameters_after(self.analysis, growth) for growth in ({}, self.sizing.growth))
        old, new = (flops_after(self.analysis, growth) for growth in ({}, self.sizing.growth))
        return Totals(before, after, old, new)
