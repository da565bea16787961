"""Dense layers: the output of each is concatenated with what came before, so a new layer only adds channels.

Four ways of writing it are told apart. A layer takes a list, which it concatenates itself (DenseNet, RDNet). It takes
the concatenation, and returns it with its own channels behind (`torch.cat([x, f(x)])`). It does so and adds a residual
branch to its input (dual path networks). Or it takes the output of the layer before it, and all outputs are
concatenated at the end (VoVNet). A new layer follows the last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor, fx

from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.tensors import dotted, within, within_any
from fxgrow.planning.blocks import Finder, Found, FoundRun, Stretch, Unit, holds_blocks
from fxgrow.planning.identity import Identity, Stuck
from fxgrow.rules.calls import reached

_JOINS = ("cat", "concat", "concatenate")

STREAMS = ("stream", "residual")
"""Kinds of layers that are given the concatenation and give it back, longer."""


@dataclass(eq=False)
class DenseRun(FoundRun):
    """Dense layers in order. kind: as in `NewBlock`. axis: along which they are concatenated.

    passed: of layers that add to what they are given, how many of the values that one concatenates are that.
    """

    kind: str = "list"
    axis: int = 1
    passed: int = 0


def dense_runs(finder: Finder, repeats: Found) -> Found:
    """Runs of dense layers, beside the blocks that were found already."""
    taken = [unit.path for run in repeats.runs for unit in run.units]
    runs: list[FoundRun] = []
    for path, module in finder.model.named_modules():
        if not holds_blocks(module):
            continue
        children = [dotted(path, name) for name in module._modules]
        alone = [p for p in children if p in finder.members and not any(within(t, p) for t in taken)]
        last = {p: max(finder.order[n] for nodes in finder.members[p].values() for n in nodes) for p in alone}
        several = list(_runs(finder, path, sorted(alone, key=last.__getitem__)))
        for run in several[::-1]:
            if len(several) > 1:
                run.path = run.units[0].path
            runs.append(run)
            taken.extend(unit.path for unit in run.units)
    paths = [unit.path for run in runs for unit in run.units]
    reasons = [(p, why) for p, why in repeats.held if not any(within(p, t) or within(t, p) for t in paths)]
    return Found([*repeats.runs, *runs], reasons)


def _runs(finder: Finder, path: str, children: list[str]) -> Iterator[DenseRun]:
    """Runs of dense layers among some children, each as long as can be, the last one first."""
    end = len(children) - 1
    while end > 0:
        links: list[Link] = []
        for earlier, later in zip(children[end - 1 :: -1], children[end:0:-1], strict=True):
            link = _link(finder, earlier, later)
            if link is None or (link.kind != links[0].kind if links else not _is_last(link)):
                break
            links.append(link)
            if not link.alike:
                break
        if not links:
            end -= 1
            continue
        first = links[0]
        unit = Unit(children[end], (children[end],), first.regions, first.identity)
        before = [Unit(p, (p,)) for p in children[end - len(links) : end]]
        yield DenseRun(path or children[end], [*before, unit], 1, first.kind, first.axis, first.passed)
        end -= len(links) + 1


@dataclass(frozen=True)
class Link:
    """How a layer follows another: the kind, the later one's regions, the axis along which channels lie.

    identity: what makes it leave what it is given as it is, which is what its first `passed` values then are.
    alike: whether the earlier one is such a layer too, rather than one of the same kind that leads them.
    """

    kind: str
    axis: int
    regions: list[Stretch] = field(default_factory=list)
    passed: int = 0
    identity: Identity = field(default_factory=Identity)
    alike: bool = True


def _link(finder: Finder, earlier: str, later: str) -> Link | None:
    """How a layer follows another, if both are dense layers."""
    members = finder.members
    if type(finder.model.get_submodule(earlier)) is not type(finder.model.get_submodule(later)):
        return None
    if members[earlier].keys() != finder.graphs.keys() or members[later].keys() != finder.graphs.keys():
        return None
    links: list[Link] = []
    regions = []
    for mode in finder.graphs:
        nodes = members[later][mode]
        entry, leaving = _exit(members[earlier][mode]), _exit(nodes)
        if entry is None or leaving is None or entry.meta["value"].ndim != leaving.meta["value"].ndim:
            return None
        matched = _of_nodes(nodes, entry, leaving) or _of_residual(finder, later, nodes, entry, leaving)
        if matched is None:
            return None
        alike = finder.called(members[earlier][mode]) == finder.called(nodes)
        if not alike and matched.kind != "residual":
            return None
        links.append(replace(matched, alike=alike))
        regions.append(Stretch(mode, nodes, entry, leaving))
    if len({(link.kind, link.axis, link.passed, link.alike) for link in links}) > 1:
        return None
    identity = sum((link.identity for link in links), start=Identity())
    return replace(links[0], regions=regions, identity=identity)


def _of_residual(finder: Finder, path: str, nodes: list[fx.Node], entry: fx.Node, leaving: fx.Node) -> Link | None:
    """A layer whose output is its input, once a branch is silent, followed by channels of its own."""
    parts = leaving.args[0] if _name(leaving) in _JOINS and leaving.args else None
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, fx.Node) for part in parts):
        return None
    axis, inside = _axis(leaving), set(nodes)
    sizes = itertools.accumulate(part.meta["value"].shape[axis] for part in parts)
    passed = next((k for k, size in enumerate(sizes, 1) if size == entry.meta["value"].shape[axis]), len(parts))
    if passed == len(parts) or not inside.issuperset(parts[passed:]):
        return None
    try:
        identity = finder.block(inside, entry, leaving, (path,), share=False).passing_on(parts[:passed], axis)
    except Stuck:
        return None
    silent = {*identity.zero, *identity.dirac}
    behind = tuple(str(node.target) for node in _made_from(parts[passed:], inside))
    if any(within_any(name, behind) for name in silent):
        return None  # its own channels would be zero as well, and never learn
    return Link("residual", axis, [], passed, identity)


def _made_from(values: Iterable[fx.Node], inside: set[fx.Node]) -> list[fx.Node]:
    """The parts that values inside a layer are made by."""
    makers = reached(values, lambda node: (n for n in node.all_input_nodes if n in inside or n.op == "get_attr"))
    return [node for node in makers if node.op in ("call_module", "get_attr")]


def _of_nodes(nodes: list[fx.Node], entry: fx.Node, leaving: fx.Node) -> Link | None:
    """How the nodes of a layer take what the layer before gave."""
    inside = set(nodes)
    outside = {s for n in nodes for s in n.all_input_nodes if s not in inside and holds_tensor(s.meta["value"])}
    entries = {source for source in outside if source.op != "get_attr"}
    if _joins(leaving, entry) and entries == {entry} and entry.meta["value"].shape != leaving.meta["value"].shape:
        return Link("stream", _axis(leaving))
    inner = [node for node in nodes if _joins(node, entry)]
    if inner and all(user in inner for user in entry.users if user in inside):
        return Link("list", _axis(inner[0]))
    around = [user for user in entry.users if user not in inside]
    if entries == {entry} and around and all(_joins(user, entry) and _joins(user, leaving) for user in around):
        return Link("last", _axis(around[0])) if entry.meta["value"].shape == leaving.meta["value"].shape else None
    return None


def _is_last(link: Link) -> bool:
    """Whether what a layer gives goes into concatenations alone, or is one, as it is for the last of a run."""
    if link.kind in STREAMS:
        return True
    return all(
        region.exit.users and all(_joins(user, region.exit) and _axis(user) == link.axis for user in region.exit.users)
        for region in link.regions
    )


def joins_of(run: DenseRun, region: Stretch) -> tuple[str, ...]:
    """The concatenations outside of the last layer that take in what it gives."""
    if run.kind in STREAMS:
        return ()
    return tuple(user.name for user in region.exit.users if _joins(user, region.exit))


def _exit(nodes: list[fx.Node]) -> fx.Node | None:
    inside = set(nodes)
    exits = [n for n in nodes if holds_tensor(n.meta["value"]) and any(user not in inside for user in n.users)]
    return exits[0] if len(exits) == 1 and isinstance(exits[0].meta["value"], Tensor) else None


def _joins(node: fx.Node, part: fx.Node) -> bool:
    """Whether a node concatenates a value with others."""
    if _name(node) not in _JOINS:
        return False
    parts = node.args[0] if node.args else node.kwargs.get("tensors")
    return isinstance(parts, (list, tuple)) and sum(item is part for item in parts) == 1


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


def _axis(node: fx.Node) -> int:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    assert isinstance(axis, int)
    return axis % int(node.meta["value"].ndim)
