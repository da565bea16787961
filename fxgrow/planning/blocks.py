"""Blocks that repeat: regions of the graph with one way in and one way out, in runs.

A unit is what one child of a container of modules computes, where that is a region with a single exit. Units
follow each other where one dominates the next. A run is a stretch of units that keep the layout of their input;
a unit of the same kind that changes the layout may lead it (the first block of a stage).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from fxgrow.capture import Captured
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.tensors import dotted, prefixes, tied_names, within, within_any
from fxgrow.planning.analysis import module_of
from fxgrow.planning.graph_parts import Dominance, calls, home, period, stretches
from fxgrow.planning.identity import BlockGraph, Identity, Stuck
from fxgrow.rules.calls import reached, tensor_operands
from fxgrow.rules.intervals import Interval, intervals

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False)
class Stretch:
    """Nodes of one graph, in order, between a value that enters and a value that leaves.

    others: further streams through it, each as what enters and what leaves.
    """

    mode: str
    nodes: list[fx.Node]
    entry: fx.Node
    exit: fx.Node
    others: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)


@dataclass(eq=False)
class Unit:
    """A part of the model that may be one block of a run.

    roots: the modules that only it uses. identity: how a copy becomes an identity, or `reason`: why none does.
    signature: the structure of its regions without sizes.
    """

    path: str
    roots: tuple[str, ...]
    regions: list[Stretch] = field(default_factory=list)
    identity: Identity | None = None
    reason: str = ""
    signature: Any = None

    @property
    def shape(self) -> Any:
        return self.regions[0].exit.meta["value"].shape


@dataclass(eq=False)
class FoundRun:
    """Units in order. path: how users address it. period: after how many units the pattern starts again."""

    path: str
    units: list[Unit]
    period: int = 1

    @property
    def clonable(self) -> list[Unit]:
        return [unit for unit in self.units if unit.identity is not None]


@dataclass
class Found:
    """All runs, outermost first, and parts that repeat but cannot be made identities: their path and why."""

    runs: list[FoundRun]
    held: list[tuple[str, str]]


class Finder:
    """Reads the graphs of a captured model once."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.model = captured.model
        self.modules = dict(captured.model.named_modules(remove_duplicate=False))
        self.graphs = captured.graphs
        self.members: dict[str, dict[str, list[fx.Node]]] = {}
        self.order: dict[fx.Node, int] = {}
        self.intervals: dict[fx.Node, Interval] = {}
        for mode, graph in self.graphs.items():
            self._read(mode, graph)
        self.shared = tied_names(self.model)
        self.dominated = {mode: Dominance(graph) for mode, graph in self.graphs.items()}

    def _read(self, mode: str, graph: fx.Graph) -> None:
        for number, node in enumerate(graph.nodes):
            self.order[node] = number
            if node.op in ("placeholder", "output", "get_attr"):
                continue
            for path in prefixes(home(node)):
                self.members.setdefault(path, {}).setdefault(mode, []).append(node)
        self.intervals |= intervals(graph, partial(module_of, self.model))

    # -- units -------------------------------------------------------------------------------------------

    def unit(self, path: str, roots: tuple[str, ...], members: Mapping[str, list[fx.Node]]) -> Unit | None:
        """What some nodes compute, if they are a region in every graph."""
        unit = Unit(path, roots)
        if members.keys() != self.graphs.keys():
            return None
        for mode, nodes in members.items():
            for call in calls(nodes):
                region, identity, reason = self._region(mode, call, roots)
                if region is None:
                    return None
                unit.regions.append(region)
                unit.reason = unit.reason or reason
                if identity is not None:
                    unit.identity = identity if unit.identity is None else unit.identity + identity
        if unit.reason:
            unit.identity = None
        unit.signature = tuple(self.signature(region) for region in unit.regions)
        return unit

    def _region(
        self, mode: str, nodes: list[fx.Node], roots: tuple[str, ...]
    ) -> tuple[Stretch | None, Identity | None, str]:
        """A region, and how it becomes an identity or why it does not."""
        inside = set(nodes)
        exits = [n for n in nodes if isinstance(n.meta["value"], Tensor) and any(u not in inside for u in n.users)]
        loose = [n for n in nodes if not isinstance(n.meta["value"], Tensor) and holds_tensor(n.meta["value"])]
        if not exits or any(user not in inside for node in loose for user in node.users):
            return None, None, ""
        outside = {source for node in nodes for source in node.all_input_nodes if source not in inside}
        entries = sorted(
            (s for s in outside if isinstance(s.meta["value"], Tensor) and s.op != "get_attr"),
            key=self.order.__getitem__,
            reverse=True,
        )
        if not entries:
            return None, None, ""
        if len(exits) > 1:
            return self._of_streams(mode, nodes, entries, exits[::-1], roots)
        alike = [s for s in entries if s.meta["value"].shape == exits[0].meta["value"].shape]
        reason = self._shared_statistics(nodes, roots)
        ways = (False, True) if self.shared else (False,)
        for share, entry in itertools.product(ways, alike) if not reason else ():
            try:
                identity = self.block(inside, entry, exits[0], roots, share).identity()
            except Stuck as stuck:
                reason = reason or str(stuck)
            else:
                return Stretch(mode, nodes, entry, exits[0]), identity, ""
        entry = (alike or entries)[0]
        return Stretch(mode, nodes, entry, exits[0]), None, reason or "its output has another shape than its input"

    def _of_streams(
        self, mode: str, nodes: list[fx.Node], entries: list[fx.Node], exits: list[fx.Node], roots: tuple[str, ...]
    ) -> tuple[Stretch | None, Identity | None, str]:
        """A region through which several values pass, each of which it can leave as it is."""
        inside, identity = set(nodes), Identity()
        if self._shared_statistics(nodes, roots) or len(entries) < len(exits):
            return None, None, ""
        pairs: list[tuple[fx.Node, fx.Node]] = []
        for leaving in exits:
            for entry in (source for source in entries if all(source is not taken for taken, _ in pairs)):
                try:
                    identity = identity + self.block(inside, entry, leaving, roots, share=False).identity()
                except Stuck:
                    continue
                pairs.append((entry, leaving))
                break
            else:
                return None, None, ""
        return Stretch(mode, nodes, *pairs[0], pairs[1:]), identity, ""

    def _shared_statistics(self, nodes: list[fx.Node], roots: tuple[str, ...]) -> str:
        """What one more block would add to, if it calls a part that others call too."""
        for node in nodes:
            if node.op == "call_module":
                place = str(node.target)
                module: Any = self.modules[place]
                if not getattr(module, "track_running_stats", False) or module.running_mean is None:
                    continue
                names = [name for name, _ in module.named_parameters(prefix=place)]
                names += [name for name, _ in module.named_buffers(prefix=place)]
                shared = [a for name in names for a in self.shared.get(name, [name]) if not within_any(a, roots)]
                if shared:
                    return f"{place} keeps statistics and is shared with another part"
        return ""

    def block(
        self, inside: set[fx.Node], entry: fx.Node, leaving: fx.Node, roots: tuple[str, ...], share: bool
    ) -> BlockGraph:
        """share: count tensors that other parts have too, which a copy of the block gets for itself."""

        def own(name: str) -> str:
            aliases = self.shared.get(name, [name])
            inner = [alias for alias in aliases if within_any(alias, roots)]
            return inner[0] if inner and (share or len(inner) == len(aliases)) else ""

        return BlockGraph(self.model, inside, entry, leaving, own, self.intervals[leaving])

    def signature(self, region: Stretch) -> Any:
        """The structure of a region: what is called on what, sizes and other numbers aside."""
        place = {node: number for number, node in enumerate(region.nodes)}
        place[region.entry] = -1
        place |= {entry: -3 - number for number, (entry, _) in enumerate(region.others)}
        return tuple(
            (self._called(node), tuple(place.get(source, -2) for source in node.all_input_nodes))
            for node in region.nodes
        )

    def _counts(self, unit: Unit) -> list[list[Any]]:
        """The whole numbers, by lists of which blocks may take turns: how far one shifts its windows."""
        return [
            [value for value in (*node.args, *node.kwargs.values()) if _are_counts(value)]
            for region in unit.regions
            for node in region.nodes
        ]

    def called(self, nodes: list[fx.Node]) -> list[Any]:
        """What some nodes call, in order."""
        return [self._called(node) for node in nodes]

    def _called(self, node: fx.Node) -> Any:
        if node.op == "call_module":
            return type(self.modules[str(node.target)])
        return node.target

    # -- runs --------------------------------------------------------------------------------------------

    def find(self) -> Found:
        """Every run of blocks, and what repeats without being able to."""
        units: dict[str, list[Unit]] = {}
        for path, module in self.model.named_modules():
            several = list(self._children(path, module)) if holds_blocks(module) else []
            if several:
                units[path] = several
        exits: dict[Any, set[fx.Node]] = {}
        for unit in itertools.chain(*units.values()):
            exits.setdefault(unit.signature, set()).add(unit.regions[0].exit)
            if not issubclass(self._kind(unit), _CONTAINERS):
                exits.setdefault(self._kind(unit), set()).add(unit.regions[0].exit)
        common = {alike for alike, nodes in exits.items() if len(nodes) > 1}
        blocks = [unit for unit in itertools.chain(*units.values()) if self._is_block(unit)]
        common |= {unit.path for unit in blocks if self._kind(unit) in common and not _holds_any(unit, blocks)}
        chains = self._chains(units)
        runs = [run for path, several in units.items() for run in self._runs(path, several, common, chains)]
        runs = list(self._merged(runs))
        return Found(runs, list(self._held(units, runs)))

    def _chains(self, units: dict[str, list[Unit]]) -> set[str]:
        """Parts that hold a chain of blocks, or a single block and nothing else, rather than being blocks."""
        holders: set[str] = set()
        between: dict[tuple[fx.Node, fx.Node], list[str]] = {}
        by_path = {unit.path: unit for unit in itertools.chain(*units.values())}
        for path, several in units.items():
            blocks = [unit for unit in several if self._is_block(unit)]
            if self._is_container(path):
                if len({unit.signature for unit in blocks}) < len(blocks):
                    gates = {name for unit in blocks if unit.identity is not None for name in unit.identity.gates}
                    holders.update(above for above in prefixes(path) if not _has_own_gate(by_path.get(above), gates))
                for unit in blocks:
                    between.setdefault((unit.regions[0].entry, unit.regions[0].exit), []).append(unit.path)
        for same in between.values():
            holders.update(path for path in same if any(within(below, path) and below != path for below in same))
        return holders

    def _is_container(self, path: str) -> bool:
        return isinstance(self.modules[path], _CONTAINERS)

    def _children(self, path: str, module: nn.Module) -> Iterator[Unit]:
        container = isinstance(module, _CONTAINERS)
        for name, child in module._modules.items():
            below = dotted(path, name)
            members = self.members.get(below)
            if members and (container or not isinstance(child, _CONTAINERS)):
                unit = self.unit(below, (below,), members)
                if unit is not None:
                    yield unit

    def _is_leaf(self, unit: Unit) -> bool:
        return all(len(region.nodes) < 2 for region in unit.regions)

    def _is_block(self, unit: Unit) -> bool:
        """A residual block: silent branches make it an identity, not weights that pass its input on."""
        return unit.identity is not None and bool(unit.identity.gates) and not unit.identity.dirac

    def _runs(self, path: str, units: list[Unit], common: set[Any], chains: set[str]) -> Iterator[FoundRun]:
        several = list(stretches(sorted(units, key=lambda u: self.order[u.regions[0].exit]), self._goes_on))
        for stretch in several:
            blocks = [unit for unit in stretch if self._is_block(unit) and unit.path not in chains]
            alone = not self._is_container(path) and len(blocks) < 2
            if alone or not any(block.signature in common or block.path in common for block in blocks):
                continue
            kinds = {self._kind(block) for block in blocks}
            stretch = [unit for unit in stretch if unit in blocks or self._kind(unit) in kinds]
            for unit in stretch:
                if unit not in blocks and unit.identity is not None:
                    unit.identity, unit.reason = None, "it is a chain of blocks itself"
            only = self._is_container(path) and len([s for s in several if any(map(self._is_block, s))]) == 1
            entering = {tuple(self.intervals[r.exit] for r in block.regions) for block in blocks}
            length = period([(b.signature, self._counts(b)) for b in blocks]) if len(entering) == 1 else 1
            yield FoundRun(path if only and path else stretch[0].path, stretch, length)

    def _merged(self, runs: list[FoundRun]) -> Iterator[FoundRun]:
        """Runs of one block each in containers that are siblings are one run of the container around them."""
        for (above, *_), several in itertools.groupby(runs, self._around):
            same = list(several)
            chained = all(self._follows(a.units[0], b.units[0]) for a, b in itertools.pairwise(same))
            if above and chained and len(same) > 1:
                yield FoundRun(above, [run.units[0] for run in same])
            else:
                yield from same

    def _around(self, run: FoundRun) -> tuple[Any, ...]:
        """What runs of one block have in common that are one run together."""
        unit = run.units[0]
        above = unit.path.rpartition(".")[0].rpartition(".")[0]
        if len(run.units) > 1 or not self._is_container(above):
            return "", run.path
        return above, unit.signature, unit.shape

    def _goes_on(self, before: Unit, unit: Unit) -> bool:
        """Whether a unit follows another and gives the same layout; one of another kind leads none."""
        joins = unit.shape == before.shape and self._follows(before, unit)
        return joins and (bool(before.identity and unit.identity) or self._kind(before) is self._kind(unit))

    def _kind(self, unit: Unit) -> type:
        return self._kind_at(unit.path)

    def _kind_at(self, path: str) -> type:
        return type(self.modules[path])

    def _follows(self, first: Unit, second: Unit) -> bool:
        """Whether `second` takes on the streams of `first`; the last block of a run may let some of them end."""
        return len(first.regions) == len(second.regions) and all(
            self.dominated[a.mode].dominates(a.exit, b.entry)
            and [leaving for _, leaving in a.others][: len(b.others)] == [entry for entry, _ in b.others]
            for a, b in zip(first.regions, second.regions, strict=True)
        )

    def _held(self, units: dict[str, list[Unit]], runs: list[FoundRun]) -> Iterator[tuple[str, str]]:
        """What repeats without being a run: blocks that keep their layout; else, where no run is, any that follow."""
        taken = [unit.path for run in runs for unit in run.units]
        for path, several in units.items():
            if not self._is_container(path):
                continue
            alike = Counter(unit.signature for unit in several if not self._is_leaf(unit) and unit.reason)
            for unit in several:
                nested = any(unit.path == t or within(unit.path, t) or within(t, unit.path) for t in taken)
                keeps = all(r.entry.meta["value"].shape == r.exit.meta["value"].shape for r in unit.regions)
                if alike[unit.signature] > 1 and keeps and not nested and not self._is_one_layer(unit):
                    taken.append(unit.path)
                    yield unit.path, unit.reason
        reasons = {unit.path: unit.reason for several in units.values() for unit in several}
        for path, module in self.model.named_modules():
            if not holds_blocks(module) or any(not path or within(t, path) or within(path, t) for t in taken):
                continue
            for group in self._of_one_kind(path, module):
                for below in group:
                    taken.append(below)
                    yield below, reasons.get(below) or self._no_region(below)

    def _no_region(self, path: str) -> str:
        """Why a part is no region with one way in and one way out."""
        for nodes in self.members[path].values():
            called = Counter(str(node.target) for node in nodes if node.op == "call_module")
            if called and min(called.values()) > 1:
                return "it is called several times"
        return "it takes or gives several tensors"

    def _of_one_kind(self, path: str, module: nn.Module) -> Iterator[list[str]]:
        """Children of one kind that are blocks of layers, two or more, each computed after the one before."""
        kinds: dict[type, list[str]] = {}
        for name in module._modules:
            below = dotted(path, name)
            if below in self.members and not self._is_container(below) and self._is_of_layers(below):
                kinds.setdefault(self._kind_at(below), []).append(below)
        for group in kinds.values():
            if any(self._is_stage(below) for below in group):
                continue
            nodes = [next(iter(self.members[below].values())) for below in group]
            ordered = all(self._feeds(a, b) for a, b in itertools.pairwise(nodes))
            if len(group) > 1 and ordered:
                yield group

    def _is_stage(self, path: str) -> bool:
        """Whether a part holds several blocks of layers of one kind in a container."""
        for below, module in self.modules[path].named_modules():
            if isinstance(module, _CONTAINERS):
                inside = [f"{path}.{below}.{name}" if below else f"{path}.{name}" for name in module._modules]
                kinds = Counter(self._kind_at(p) for p in inside if not self._is_container(p) and self._is_of_layers(p))
                if max(kinds.values(), default=0) > 1:
                    return True
        return False

    def _feeds(self, first: list[fx.Node], second: list[fx.Node]) -> bool:
        """Whether what `first` computed reaches `second`, perhaps through other parts."""
        return not set(second).isdisjoint({*reached(first, lambda node: node.users)} - {*first})

    def _is_one_layer(self, unit: Unit) -> bool:
        """Whether a unit is one layer with its norm and activation, one after the other."""
        line = all(len(tensor_operands(node)) < 2 for region in unit.regions for node in region.nodes)
        return line and not self._is_of_layers(unit.path)

    def _is_of_layers(self, path: str) -> bool:
        """Whether a part has several layers with a weight of two or more axes: more than a layer and its norm."""
        weights = (p for p in nn.Module.parameters(self.modules[path]) if p.ndim > 1)
        return len(list(itertools.islice(weights, 2))) == 2


def _holds_any(unit: Unit, blocks: list[Unit]) -> bool:
    """Whether a block consists of smaller ones, whose gates are its own."""
    gates = set(unit.identity.gates) if unit.identity is not None else set()
    inside = (block for block in blocks if within(block.path, unit.path) and block.path != unit.path)
    return any(block.identity is not None and not gates.isdisjoint(block.identity.gates) for block in inside)


def _has_own_gate(unit: Unit | None, inner: set[str]) -> bool:
    """Whether a part that holds a chain of blocks is a block itself: silenced by other gates than theirs."""
    return unit is not None and unit.identity is not None and inner.isdisjoint(unit.identity.gates)


def _are_counts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(item) is int for item in value)


def holds_blocks(module: nn.Module) -> bool:
    """Whether a part may hold others in a row: a container, or several of one kind as attributes."""
    kinds = Counter(type(child) for child in module._modules.values() if child is not None and len(child._modules))
    return isinstance(module, _CONTAINERS) or max(kinds.values(), default=0) > 1
