"""Dense layers: what each gives is put beside what came before, so a new one only adds channels.

Four ways of writing it are told apart. A layer is given a list, which it concatenates itself (DenseNet, RDNet); it
is given the concatenation, and gives it back with its own channels behind (`torch.cat([x, f(x)])`); it does so and
adds a residual branch to what it was given (dual path networks); or it is given what the layer before it gave, and
all are concatenated at the end (VoVNet). A new layer follows the last one. How what reads the concatenation ignores
the new channels is planned as growth in width of the last layer's channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from fxgrow.axes.infer import Analysis, analyse
from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.planning.blocks import Finder, Found, FoundRun, Region, Unit, holds_blocks, within, within_any
from fxgrow.planning.deepening import NewTensor
from fxgrow.planning.edits import AttributeEdit, NodeEdit
from fxgrow.planning.identity import Identity, Stuck
from fxgrow.planning.intervals import holds_tensor
from fxgrow.planning.knowledge import Way
from fxgrow.planning.plan import Axis, Plan, TensorGrowth
from fxgrow.planning.planner import Planner
from fxgrow.planning.sizes import Sizes
from fxgrow.planning.sizing import Sizing, settle_equal_sizes
from fxgrow.rules.op import Tensor as Laid

_JOINS = ("cat", "concat", "concatenate")

_STREAMS = ("stream", "residual")
"""Kinds of layers that are given the concatenation and give it back, longer."""


@dataclass(eq=False)
class DenseRun(FoundRun):
    """Dense layers in order. kind: as in `NewBlock`. axis: along which they are concatenated.

    passed: of layers that add to what they are given, how many of the values that one concatenates are that.
    """

    kind: str = "list"
    axis: int = 1
    passed: int = 0


@dataclass(frozen=True)
class Layer:
    """How a new layer at the end of a run differs from the last one.

    longer: by tensor, the axes that read what the layer before gave, and by how much they grow with each new layer.
    sizes: by module and attribute, its value and what each new layer adds. numbers: the same for arguments, by graph,
    node and path. draws: how tensors are drawn, by name.
    fills: of a layer that adds to what it is given, how entries of its tensors that read the channels of other new
    layers are filled, by tensor and axis. group: the channels of new layers.
    """

    longer: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    sizes: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    numbers: Mapping[tuple[str, str, tuple[Any, ...]], tuple[int, int]] = field(default_factory=dict)
    draws: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[tuple[str, int], str] = field(default_factory=dict)
    group: str = ""

    def further(self, tensor: NewTensor, shape: tuple[int, ...], number: int) -> TensorGrowth | None:
        """How a tensor of the new layer of a number comes to read the channels of the new ones before it.

        shape: of its twin.
        """
        added = {axis: (number - 1) * each for axis, each in self.longer.get(tensor.twin, ())}
        if not self.fills or not any(added.values()):
            return None
        axes = tuple(
            Axis("grow", size, size + added[k], self.group, self.fills[tensor.twin, k])
            if k in added
            else Axis("keep", size, size)
            for k, size in enumerate(tensor.shape(shape))
        )
        return TensorGrowth(tensor.name, axes, self.draws[tensor.twin])

    def numbers_of(self, mode: str, number: int) -> tuple[tuple[str, tuple[Any, ...], Any], ...]:
        """The arguments of one graph as they are in the new layer of a number, counted from one."""
        found = (
            (node, path, old + number * each) for (m, node, path), (old, each) in self.numbers.items() if m == mode
        )
        return tuple(found)


@dataclass(frozen=True)
class Appending:
    """What new layers mean for the rest of the model: growths of tensors, edits, and the layers, by run.

    refused: runs that cannot get longer, and why.
    """

    tensors: tuple[TensorGrowth, ...] = ()
    nodes: tuple[NodeEdit, ...] = ()
    attributes: tuple[AttributeEdit, ...] = ()
    layers: Mapping[DenseRun, Layer] = field(default_factory=dict)
    refused: Mapping[DenseRun, str] = field(default_factory=dict)


# -- finding them --------------------------------------------------------------------------------------------


def dense_runs(finder: Finder, found: Found) -> Found:
    """Runs of dense layers, beside the blocks that were found already."""
    taken = [unit.path for run in found.runs for unit in run.units]
    runs: list[FoundRun] = []
    for path, module in finder.model.named_modules():
        if not holds_blocks(module):
            continue
        children = [f"{path}.{name}" if path else name for name in module._modules]
        alone = [p for p in children if p in finder.members and not any(within(t, p) for t in taken)]
        last = {p: max(finder.order[n] for nodes in finder.members[p].values() for n in nodes) for p in alone}
        several = list(_runs(finder, path, sorted(alone, key=last.__getitem__)))
        for run in several[::-1]:
            if len(several) > 1:
                run.path = run.units[0].path
            runs.append(run)
            taken.extend(unit.path for unit in run.units)
    paths = [unit.path for run in runs for unit in run.units]
    held = [(p, why) for p, why in found.held if not any(within(p, t) or within(t, p) for t in paths)]
    return Found([*found.runs, *runs], held)


def _runs(finder: Finder, path: str, children: list[str]) -> Iterator[DenseRun]:
    """Runs of dense layers among some children, each as long as can be, the last one first."""
    end = len(children) - 1
    while end > 0:
        links: list[Link] = []
        for one, other in zip(children[end - 1 :: -1], children[end:0:-1], strict=True):
            link = _link(finder, one, other)
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
    regions: list[Region] = field(default_factory=list)
    passed: int = 0
    identity: Identity = field(default_factory=Identity)
    alike: bool = True


def _link(finder: Finder, one: str, other: str) -> Link | None:
    """How a layer follows another, if both are dense layers."""
    members = finder.members
    if type(finder.model.get_submodule(one)) is not type(finder.model.get_submodule(other)):
        return None
    if members[one].keys() != finder.graphs.keys() or members[other].keys() != finder.graphs.keys():
        return None
    links: list[Link] = []
    regions = []
    for mode in finder.graphs:
        nodes = members[other][mode]
        given, gives = _exit(members[one][mode]), _exit(nodes)
        if given is None or gives is None or given.meta["value"].ndim != gives.meta["value"].ndim:
            return None
        found = _of_nodes(nodes, given, gives) or _of_residual(finder, other, nodes, given, gives)
        if found is None:
            return None
        alike = finder.called(members[one][mode]) == finder.called(nodes)
        if not alike and found.kind != "residual":
            return None
        links.append(replace(found, alike=alike))
        regions.append(Region(mode, nodes, given, gives))
    if len({(link.kind, link.axis, link.passed, link.alike) for link in links}) > 1:
        return None
    identity = sum((link.identity for link in links), start=Identity())
    return replace(links[0], regions=regions, identity=identity)


def _of_residual(finder: Finder, path: str, nodes: list[fx.Node], given: fx.Node, gives: fx.Node) -> Link | None:
    """A layer that gives what it was given, once a branch is silent, and its own channels behind."""
    parts = gives.args[0] if _name(gives) in _JOINS and gives.args else None
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, fx.Node) for part in parts):
        return None
    axis, inside = _axis(gives), set(nodes)
    sizes = itertools.accumulate(part.meta["value"].shape[axis] for part in parts)
    passed = next((k for k, size in enumerate(sizes, 1) if size == given.meta["value"].shape[axis]), len(parts))
    if passed == len(parts) or not inside.issuperset(parts[passed:]):
        return None
    try:
        identity = finder.block(inside, given, gives, (path,), share=False).passing_on(parts[:passed], axis)
    except Stuck:
        return None
    silent = {*identity.zero, *identity.dirac}
    behind = {str(node.target) for node in _made_from(parts[passed:], inside)}
    if any(within(name, target) for name in silent for target in behind):
        return None  # its own channels would be zero as well, and never learn
    return Link("residual", axis, [], passed, identity)


def _made_from(values: Iterable[fx.Node], inside: set[fx.Node]) -> list[fx.Node]:
    """The parts that values inside a layer are made by."""
    seen = set(values)
    pending = list(seen)
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in seen and (node in inside or node.op == "get_attr"):
                seen.add(node)
                pending.append(node)
    return [node for node in seen if node.op in ("call_module", "get_attr")]


def _of_nodes(nodes: list[fx.Node], given: fx.Node, gives: fx.Node) -> Link | None:
    """How the nodes of a layer take what the layer before gave."""
    inside = set(nodes)
    outside = {s for n in nodes for s in n.all_input_nodes if s not in inside and holds_tensor(s.meta["value"])}
    entries = {source for source in outside if source.op != "get_attr"}
    if _joins(gives, given) and entries == {given} and given.meta["value"].shape != gives.meta["value"].shape:
        return Link("stream", _axis(gives))
    inner = [node for node in nodes if _joins(node, given)]
    if inner and all(user in inner for user in given.users if user in inside):
        return Link("list", _axis(inner[0]))
    around = [user for user in given.users if user not in inside]
    if entries == {given} and around and all(_joins(user, given) and _joins(user, gives) for user in around):
        return Link("last", _axis(around[0])) if given.meta["value"].shape == gives.meta["value"].shape else None
    return None


def _is_last(link: Link) -> bool:
    """Whether what a layer gives goes into concatenations alone, or is one, as it is for the last of a run."""
    if link.kind in _STREAMS:
        return True
    return all(
        region.exit.users and all(_joins(user, region.exit) and _axis(user) == link.axis for user in region.exit.users)
        for region in link.regions
    )


def joins_of(run: DenseRun, region: Region) -> tuple[str, ...]:
    """The concatenations outside of the last layer that take in what it gives."""
    if run.kind in _STREAMS:
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


# -- planning them -------------------------------------------------------------------------------------------


class Refused(Exception):
    """A run that cannot get longer, and why."""


@dataclass(frozen=True)
class _LeafSizes(Sizes):
    """Exact sizes for leaves of one analysis."""

    by_leaf: Mapping[Leaf, int] = field(default_factory=dict)

    def sizing(self, analysis: Analysis) -> Sizing:
        sizing = Sizing({leaf: size for leaf, size in self.by_leaf.items() if not leaf.fixed}, {})
        settle_equal_sizes(analysis, sizing)
        return sizing


def appending(finder: Finder, counts: Mapping[DenseRun, int]) -> Appending:
    """What new layers at the ends of runs mean for the rest of the model. counts: how many, by run."""
    refused: dict[DenseRun, str] = {}
    plan, names = _grown(finder, counts, refused, last=True)
    layers: dict[DenseRun, Layer] = {}
    own: set[str] = set()
    for run in names:
        inside = {tensor.name: tensor for tensor in plan.tensors if within_any(tensor.name, run.units[-1].roots)}
        own |= inside.keys()
        layers[run] = Layer(draws={name: tensor.draw for name, tensor in inside.items()})
        reason = _objection(plan, run, list(inside.values()), names[run])
        if reason:
            refused[run] = reason
    if refused.keys() & names.keys():
        kept = {run: count for run, count in counts.items() if run not in refused}
        again = appending(finder, kept)
        return Appending(again.tensors, again.nodes, again.attributes, again.layers, {**refused, **again.refused})
    listed = {run: 1 for run in names if run.kind != "last"}
    longer, groups = _grown(finder, listed, refused, last=False)
    for run in groups:
        try:
            layers[run] = _layer(finder, longer, run, layers[run])
        except Refused as reason:
            refused[run] = str(reason)
    if refused.keys() & names.keys():
        kept = {run: count for run, count in counts.items() if run not in refused}
        again = appending(finder, kept)
        return Appending(again.tensors, again.nodes, again.attributes, again.layers, {**refused, **again.refused})
    roots = tuple(run.units[-1].path for run in names)
    renamed = {group: f"dense{k}" for k, group in enumerate(names.values())}
    layers = {run: replace(layer, group=renamed[names[run]]) for run, layer in layers.items() if run in names}
    return Appending(
        tuple(_regrouped(tensor, renamed) for tensor in plan.tensors if tensor.name not in own),
        plan.nodes,
        tuple(edit for edit in plan.attributes if not within_any(edit.module, roots)),
        layers,
        refused,
    )


def _objection(plan: Plan, run: DenseRun, own: list[TensorGrowth], group: str) -> str:
    """Why the channels of the last layer of a run cannot be told apart from what reads them."""
    inside = {node.name for region in run.units[-1].regions for node in region.nodes}
    if any(edit.node in inside for edit in plan.nodes):
        return "a number in its last layer follows its channels"
    grown = [part for tensor in own for axis in tensor.axes for part in axis.runs()]
    if any(part.group != group for part in grown):
        return "it reads other new channels; grow it in a second step"
    if any(part.fill == "mean" for part in grown):
        return "what reads its channels takes them to be means of old ones"
    return ""


def _layer(finder: Finder, plan: Plan, run: DenseRun, layer: Layer) -> Layer:
    """How the last layer follows what the layer before it gives, as a new one has to follow what it is given."""
    roots = run.units[-1].roots
    longer, draws = {}, dict(layer.draws)
    fills: dict[tuple[str, int], str] = {}
    for tensor in plan.tensors:
        if within_any(tensor.name, roots):
            longer[tensor.name] = tuple((k, a.new - a.old) for k, a in enumerate(tensor.axes) if a.new > a.old)
            draws[tensor.name] = tensor.draw
            fills |= {(tensor.name, k): part.fill for k, axis in enumerate(tensor.axes) for part in axis.runs()}
    sizes = {}
    for edit in plan.attributes:
        if within_any(edit.module, roots):
            before = getattr(finder.model.get_submodule(edit.module), edit.attribute)
            (old,), (new,) = ((v if isinstance(v, tuple) else (v,)) for v in (before, edit.value))
            sizes[edit.module, edit.attribute] = (old, new - old)
    return Layer(longer, sizes, dict(_numbers(plan, run)), draws, fills if run.kind == "residual" else {})


def _numbers(plan: Plan, run: DenseRun) -> Iterator[tuple[tuple[str, str, tuple[Any, ...]], tuple[int, int]]]:
    """Literals in the last layer that follow what it is given, with what each new layer adds."""
    nodes = {(region.mode, node.name): node for region in run.units[-1].regions for node in region.nodes}
    for edit in plan.nodes:
        node = nodes.get((edit.mode, edit.node))
        if node is None or edit.kind in ("guard", "core_input"):  # a new layer has no old units
            continue
        old: Any = {"args": node.args, "kwargs": node.kwargs}
        for step in edit.path:
            old = getattr(old, step) if isinstance(old, slice) else old[step]
        if edit.kind == "literal" and edit.value == old:  # what a guard takes its statistic over
            continue
        if edit.kind != "literal" or not isinstance(old, int):
            raise Refused("a number in its last layer follows what it is given")
        yield (edit.mode, edit.node, edit.path), (old, edit.value - old)


def _grown(
    finder: Finder, counts: Mapping[DenseRun, int], refused: dict[DenseRun, str], last: bool
) -> tuple[Plan, dict[DenseRun, str]]:
    """The plan in which the channels of the last layers, or of those before them, grow; the group of each run."""
    while True:
        analysis = analyse(finder.model, finder.graphs)
        leaves_of: dict[DenseRun, Leaf] = {}
        for run in counts:
            if run not in refused:
                try:
                    leaves_of[run] = _channels(finder, analysis, run, run.units[-1].regions[0], last)
                except Refused as reason:
                    refused[run] = str(reason)
        sizes = {leaf: (1 + counts[run]) * leaf.size for run, leaf in leaves_of.items()}
        planner = Planner(analysis, _LeafSizes((), sizes), Way.ZERO, 1)
        planner.guarded.update(sizes)
        planner.settle()
        missed = {run: leaf for run, leaf in leaves_of.items() if planner.sizing.growth.get(leaf) != sizes[leaf]}
        for run, leaf in missed.items():
            refused[run] = f"its channels stay as they are: {leaf.reason or 'other dimensions are tied to them'}"
        if not missed:
            plan = planner.plan("", finder.captured)
            return plan, {run: planner.names[leaf] for run, leaf in leaves_of.items()}


def _channels(finder: Finder, analysis: Analysis, run: DenseRun, region: Region, last: bool) -> Leaf:
    """The dimension of the channels that the last layer, or the one before it, adds."""
    tree = analysis.trees[region.exit if last else region.entry]
    assert isinstance(tree, Laid)
    layout = resolve(tree.axes[run.axis])
    size = layout.size
    if run.kind in _STREAMS:
        size = region.exit.meta["value"].shape[run.axis] - region.entry.meta["value"].shape[run.axis]
        layout = list(leaves(layout))[-1]
    if not isinstance(layout, Leaf) or layout.size != size:
        raise Refused("its channels are not a dimension of their own")
    if layout.reason is not None:
        raise Refused(f"its channels stay as they are: {layout.reason}")
    made = finder.members[run.units[-1 if last else -2].path][region.mode]
    elsewhere = _elsewhere(analysis, layout, region.exit if last else region.entry, made)
    if elsewhere:
        raise Refused(f"its channels are tied to those of {elsewhere}")
    return layout


def _elsewhere(analysis: Analysis, leaf: Leaf, node: fx.Node, made: list[fx.Node]) -> str:
    """A place where units of a dimension are that neither come from a value nor belong to what made it; or nothing."""
    known = _reached(node) | set(made)
    for op in analysis.ops:
        apart = op.node.graph is node.graph and op.node not in known
        if apart and isinstance(op.output, Laid) and leaf in op.output.leaves():
            return op.place
    return ""


def _reached(start: fx.Node) -> set[fx.Node]:
    """What a value goes into, at last."""
    seen, pending = {start}, [start]
    while pending:
        for node in pending.pop().users:
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return seen


def _regrouped(growth: TensorGrowth, names: Mapping[str, str]) -> TensorGrowth:
    """A tensor's growth with its groups under other names."""

    def axis(one: Axis) -> Axis:
        return replace(one, group=names.get(one.group, one.group), parts=tuple(map(axis, one.parts)))

    return replace(growth, axes=tuple(map(axis, growth.axes)))


# -- two growths of one tensor -------------------------------------------------------------------------------


def joined(first: Mapping[str, TensorGrowth], then: tuple[TensorGrowth, ...]) -> tuple[TensorGrowth, ...]:
    """Growths of tensors that first read new channels and then become wider, as one each."""
    result = []
    for growth in then:
        before = first.get(growth.name)
        if before is None:
            result.append(growth)
            continue
        axes = tuple(composed(a, b) for a, b in zip(before.axes, growth.axes, strict=True))
        result.append(replace(growth, axes=axes))
    done = {growth.name for growth in then}
    return (*result, *(growth for name, growth in first.items() if name not in done))


def composed(first: Axis, then: Axis) -> Axis:
    """Two growths of one axis as one.

    >>> first = Axis("join", 3, 5, parts=(Axis("grow", 2, 4, "a", "silence"), Axis("keep", 1, 1)))
    >>> then = Axis("join", 5, 6, parts=(Axis("keep", 4, 4), Axis("grow", 1, 2, "b", "draw")))
    >>> [(part.kind, part.old, part.new) for part in composed(first, then).parts]
    [('join', 2, 4), ('grow', 1, 2)]
    """
    runs = list(_origins(first))
    if all(fill is None for fill in runs):
        return then
    return _composed(runs, then)


_Origin = tuple[str, str] | None
"""Of one position: None where it is old, else the group and the fill of the run that it is of."""


def _origins(axis: Axis) -> list[_Origin]:
    if axis.kind == "keep":
        return [None] * axis.new
    if axis.kind == "grow":
        return [None] * axis.old + [(axis.group, axis.fill)] * (axis.new - axis.old)
    if axis.kind == "join":
        return [origin for part in axis.parts for origin in _origins(part)]
    result: list[_Origin] = [None]
    for part in axis.parts:
        inner = _origins(part)
        result = [one or other for one in result for other in inner]
    return result


def _composed(origins: list[_Origin], then: Axis) -> Axis:
    if all(origin is None for origin in origins):
        return then
    if then.kind == "join":
        cuts = [0, *itertools.accumulate(part.old for part in then.parts)]
        pieces = [origins[a:b] for a, b in itertools.pairwise(cuts)]
        return _joined([_composed(o, part) for o, part in zip(pieces, then.parts, strict=True)])
    if then.kind == "product":
        return _product(origins, then)
    parts = []
    for origin, same in itertools.groupby(origins):
        size = len(list(same))
        parts.append(Axis("keep", size, size) if origin is None else Axis("grow", 0, size, *origin))
    if then.kind == "grow":  # its further units are of the run that ends it
        end = parts.pop()
        further = then.new - then.old
        if end.kind == "keep":
            parts.append(Axis("grow", end.old, end.new + further, then.group, then.fill))
        else:
            parts.append(Axis("grow", 0, end.new + further, end.group, end.fill))
    return _joined(parts)


def _product(origins: list[_Origin], then: Axis) -> Axis:
    """One factor of a product has new positions; the others are as they were."""
    for number, part in enumerate(then.parts):
        inner = 1
        for other in then.parts[number + 1 :]:
            inner *= other.old
        along = [origins[k * inner] for k in range(part.old)]
        expanded = [along[k // inner % part.old] for k in range(len(origins))]
        if expanded == origins:
            parts = tuple(_composed(along, p) if p is part else p for p in then.parts)
            old, new = 1, 1
            for p in parts:
                old, new = old * p.old, new * p.new
            return Axis("product", old, new, parts=parts)
    raise Refused("its channels are one factor among several that grow")


def _joined(parts: list[Axis]) -> Axis:
    if len(parts) == 1:
        return parts[0]
    return Axis("join", sum(p.old for p in parts), sum(p.new for p in parts), parts=tuple(parts))
