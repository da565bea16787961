"""The planner: from layouts and amounts to a plan whose growth keeps the function.

It proposes sizes, propagates what is known of new units through every op, and where an op reports that old
outputs would change it takes the next best way: a guard, another way of staying invisible, or holding the
dimension with the reason. What it returns has been checked by the laws from end to end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import fx, nn

from fxgrow.amounts import Amounts
from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, leaves, resolve
from fxgrow.capture import Captured
from fxgrow.capture.inputs import described
from fxgrow.planning.analysis import Analysis, analyse, factors_of, roles_of, why_unread
from fxgrow.planning.edits import AttributeEdit, NodeEdit
from fxgrow.planning.ends import End
from fxgrow.planning.indexing import old_positions
from fxgrow.planning.learning import Moves
from fxgrow.planning.numbers import Loose, number_edits, positions_after, size_attributes
from fxgrow.planning.parameterization import parameterized
from fxgrow.planning.plan import Axis, GrowthGroup, Held, Plan, TensorGrowth, Totals
from fxgrow.planning.sizes import Sizes, flops_after, parameters_after
from fxgrow.planning.sizing import Sizing, choose_sizes, producing_places, size_after
from fxgrow.rules.knowledge import INITS, Failure, Knowledge, Way
from fxgrow.rules.law import Fact, Range
from fxgrow.rules.op import Op

_PASSES = 12

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


def make_plan(
    captured: Captured,
    name: str,
    amounts: Amounts | Sizes,
    init: str,
    round_to: int,
    parameterization: str = "standard",
    analysis: Analysis | None = None,
    ends: Sequence[End] = (),
) -> Plan:
    """Plan the growth of a captured model.

    Parameters
    ----------
    analysis: of its graphs as they are, where there is one already. ends: outputs and inputs that are to grow.
    """
    analysis = analysis or analyse(captured.model, captured.graphs)
    planner = Planner(analysis, amounts, init, round_to, ends)
    planner.settle()
    for end in ends:
        end.check_met(planner.sizing.growth)
    if isinstance(amounts, Sizes):
        amounts.check_met(analysis, planner.sizing.growth)
    plan = parameterized(planner.plan(name, captured), analysis, planner.sizing.growth, parameterization)
    for end in ends:
        plan = end.noted(plan, captured.model)
    return plan


class Planner:
    """Sizes and knowledge, revised until no law objects."""

    def __init__(
        self,
        analysis: Analysis,
        amounts: Amounts | Sizes,
        init: str,
        round_to: int,
        ends: Sequence[End] = (),
    ) -> None:
        self.ends = ends
        self.at_ends = {leaf for end in ends for leaf in end.leaves}
        self.analysis = analysis
        self.amounts = amounts
        self.init, self.way = init, INITS[init]
        self.round_to = round_to
        self.guarded: set[Leaf] = set()
        self.over_core: set[Leaf] = set()
        self.downgraded: set[Leaf] = set()
        self.paired: set[Leaf] = set()
        self.silenced: set[Leaf] = set()
        self.turned: set[Leaf] = set()
        self.why_still: dict[Leaf, Reason] = {}
        self.roles = roles_of(analysis)
        tables = {
            n
            for n in analysis.parameters
            if n not in self.roles and not isinstance(analysis.learnable[n], nn.Parameter)
        }
        analysis.unifier.reluctant.extend(axis for n in tables for axis in analysis.parameters[n].axes)
        self.factors = factors_of(analysis)
        self.silent = {n for n, role in self.roles.items() if role in ("bias", "mean")} | (tables - self.factors)

    # -- settling on sizes and ways ----------------------------------------------------------------------

    def settle(self) -> None:
        """Revise until every law agrees that old outputs stay."""
        staying: set[fx.Node] = set()
        while True:
            self.sizing = self._choose_sizes()
            self.know = self._propagate()
            if self._revise():
                continue
            try:
                self.numbers = list(number_edits(self.analysis, self.sizing.growth, staying))
            except Loose as loose:
                reason = Reason("a number computed from it is used where no rule says how", loose.place)
                if not (loose.let or loose.leaves):
                    raise
                staying |= set(loose.let)
                if not loose.let:
                    self._fix(loose.leaves, reason)
                continue
            return

    def _choose_sizes(self) -> Sizing:
        analysis, asked, pairs = self.analysis, self.amounts, self.way is Way.MIRROR
        sizing = (
            asked.sizing(analysis) if isinstance(asked, Sizes) else choose_sizes(analysis, asked, self.round_to, pairs)
        )
        for end in self.ends:
            end.put_into(sizing)
        return sizing

    def _propagate(self) -> Knowledge:
        growth = self.sizing.growth
        ways = {leaf: self._way_of(leaf) for leaf in growth}
        silenced = self.silenced & growth.keys()
        know = Knowledge(growth, ways, self.guarded, silenced, self.turned, zero_by_default=self.silent)
        for end in self.ends:
            end.ask(know)
        for op in self.analysis.ops:
            for alternatives in op.law.needs(op, know):
                know.ask_for_one(alternatives)
        for _ in range(_PASSES):
            before, overwritten = {slot: dict(fills) for slot, fills in know.fills.items()}, len(know.overwritten)
            know.forget()
            for op in self.analysis.ops:
                op.law.facts(op, know)
            if before == know.fills and overwritten == len(know.overwritten):
                break
        know.check_cancelling(self.analysis.ops)
        return know

    def _way_of(self, leaf: Leaf) -> Way:
        wanted = Way.MIRROR if leaf in self.paired else self.way
        if leaf in self.downgraded or leaf in self.at_ends or (wanted is Way.MIRROR and not self._makes_pairs(leaf)):
            return Way.ZERO
        return wanted

    def _makes_pairs(self, leaf: Leaf) -> bool:
        return (self.sizing.growth[leaf] - leaf.size) % 2 == 0

    def _revise(self) -> bool:
        """Give way where a law objects; True if anything changed."""
        failures = [*self.know.failures, *self._unfaithful_scales()]
        for leaf, failure in {failure.leaf: failure for failure in reversed(failures)}.items():
            if failure.guardable and leaf not in self.guarded:
                self.guarded.add(leaf)
            elif self.know.ways[leaf] is not Way.ZERO and leaf not in self.downgraded:
                self.downgraded.add(leaf)
            else:
                self._fix([leaf], Reason(failure.text, failure.op.place))
        if failures or self._mixed_copies():
            return True
        unread = [leaf for leaf in self.sizing.growth if leaf not in self.know.read and leaf not in self.at_ends]
        norms = (self._guardable - self.guarded).intersection(unread)  # what they ask for may be why
        self.guarded |= norms
        for leaf in unread if not norms else ():
            self._fix([leaf], why_unread(self.analysis, leaf, leaf in self.guarded))
        return bool(unread) or self._let_learn()

    def _let_learn(self) -> bool:
        """Give way where new units would never learn: guards, other zeros, pairs, silence; True if anything changed."""
        by_leaf = {still.leaf: still for still in Moves(self.analysis, self.know).still()}
        for leaf, still in by_leaf.items():
            reason = self.why_still.setdefault(leaf, Reason(still.text, still.op.place))
            tried = leaf in self.paired or leaf in self.silenced
            if leaf in self._guardable - self.guarded:
                self.guarded.add(leaf)
            elif leaf in self.know.multiplied - self.turned:
                self.turned.add(leaf)
            elif not tried and self._way_of(leaf) is Way.ZERO and self._makes_pairs(leaf):
                self.paired.add(leaf)
            elif leaf not in self.silenced:
                self.paired.discard(leaf)
                self.silenced.add(leaf)
            else:
                self._fix([leaf], reason)
        return bool(by_leaf)

    @cached_property
    def _guardable(self) -> set[Leaf]:
        """The leaves over which an op takes a statistic that could be that of the old units alone."""
        return {leaf for op in self.analysis.ops for layout in op.law.statistics(op) for leaf in leaves(layout)}

    def _mixed_copies(self) -> bool:
        """Copies are copies everywhere or nowhere: a dimension that is silenced in one place is not replicated."""
        mixed = {
            leaf
            for (_, _, leaf), fills in self.know.fills.items()
            if self.know.ways[leaf] is Way.REPLICATE and set(fills.values()) & {Fact.ZERO, Fact.MEAN}
        }
        self.downgraded |= mixed
        return bool(mixed)

    def _unfaithful_scales(self) -> Iterable[Failure]:
        """Gains that a closed form rescales but that some other op reads as they are."""
        for parameter, factors in self.know.scales.items():
            if self._users.get(parameter) != set(factors) or len(set(factors.values())) > 1:
                op = next(iter(factors))
                for leaf in self.know.growing(op.data["gain"].axes[-1]):
                    yield Failure(op, leaf, "its gain is used elsewhere", guardable=True)

    @cached_property
    def _users(self) -> dict[str, set[Op]]:
        """The ops that each parameter or buffer is given to."""
        users: dict[str, set[Op]] = {name: set() for name in self.analysis.parameters}
        for op in self.analysis.ops:
            for tensor in (*op.operands(), *op.module_parameters()):
                if tensor.parameter is not None:
                    users[tensor.parameter].add(op)
        return users

    @staticmethod
    def _fix(fixed: Iterable[Leaf], reason: Reason) -> None:
        for leaf in fixed:
            if leaf.reason is None:
                leaf.reason = reason

    # -- writing the plan --------------------------------------------------------------------------------

    def plan(self, name: str, captured: Captured) -> Plan:
        """The settled growth as a value."""
        growth = self.sizing.growth
        self.names = {leaf: f"d{k}" for k, leaf in enumerate(self._in_order(growth))}
        tensors = tuple(self._tensors())
        nodes, attributes = self._edits()
        return Plan(
            model=name,
            init=self.init,
            groups=tuple(self._groups(tensors)),
            held=tuple(self._held()),
            tensors=tensors,
            nodes=tuple(nodes),
            attributes=tuple(attributes),
            totals=self._totals(),
            inputs=described(captured.inputs),
            tier=captured.tier,
        )

    def _in_order(self, growth: dict[Leaf, int]) -> list[Leaf]:
        ordered = [
            leaf
            for tensor in self.analysis.parameters.values()
            for axis in tensor.axes
            for leaf in leaves(axis)
            if leaf in growth
        ]
        return list(dict.fromkeys([*ordered, *growth]))

    def _tensors(self) -> Iterable[TensorGrowth]:
        for name, tensor in self.analysis.parameters.items():
            if not self.know.growing(*tensor.axes):
                continue
            factors = set(self.know.scales.get(name, {}).values()) or {1.0}
            axes = tuple(self._axis(name, k, layout) for k, layout in enumerate(tensor.axes))
            yield TensorGrowth(name, axes, self._draw(name, axes), factors.pop())

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
            parts = tuple(self._term(name, axis, factor, low, high) for factor in layout.factors)
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

    def _edits(self) -> tuple[list[NodeEdit], list[AttributeEdit]]:
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
        if leaf in self.guarded | self.over_core:
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
