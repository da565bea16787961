"""Planning new dense layers: what reads the concatenation ignores their channels.

That is planned as growth in width of the last layer's channels, which then are given to new layers instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.modules.tensors import within_any
from fxgrow.planning.analysis import Analysis, analyse
from fxgrow.planning.blocks import Finder, Stretch
from fxgrow.planning.deepening import NewTensor
from fxgrow.planning.dense_layers import STREAMS, DenseRun
from fxgrow.planning.edits import AttributeEdit, NodeEdit
from fxgrow.planning.plan import Axis, Plan, TensorGrowth
from fxgrow.planning.planner import Planner
from fxgrow.planning.sizes import Sizes
from fxgrow.planning.sizing import Sizing, settle_equal_sizes
from fxgrow.rules.calls import reached
from fxgrow.rules.op import Tensor as Laid
from fxgrow.rules.shape import follow


@dataclass(frozen=True)
class NextLayer:
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
        arguments = (
            (node, path, old + number * each) for (m, node, path), (old, each) in self.numbers.items() if m == mode
        )
        return tuple(arguments)


@dataclass(frozen=True)
class Appending:
    """What new layers mean for the rest of the model: growths of tensors, edits, and the layers, by run.

    refused: runs that cannot get longer, and why.
    """

    tensors: tuple[TensorGrowth, ...] = ()
    nodes: tuple[NodeEdit, ...] = ()
    attributes: tuple[AttributeEdit, ...] = ()
    layers: Mapping[DenseRun, NextLayer] = field(default_factory=dict)
    refused: Mapping[DenseRun, str] = field(default_factory=dict)


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
    while True:  # each time with fewer runs
        outcome = _appending(finder, counts, refused)
        if outcome is not None:
            return outcome


def _appending(finder: Finder, counts: Mapping[DenseRun, int], refused: dict[DenseRun, str]) -> Appending | None:
    """What new layers mean, in runs that are not refused; None where one more has to be."""
    plan, names = _grown(finder, counts, refused, last=True)
    layers: dict[DenseRun, NextLayer] = {}
    own: set[str] = set()
    for run in names:
        inside = {tensor.name: tensor for tensor in plan.tensors if within_any(tensor.name, run.units[-1].roots)}
        own |= inside.keys()
        layers[run] = NextLayer(draws={name: tensor.draw for name, tensor in inside.items()})
        reason = _objection(plan, run, list(inside.values()), names[run])
        if reason:
            refused[run] = reason
    if refused.keys() & names.keys():
        return None
    listed = {run: 1 for run in names if run.kind != "last"}
    longer, groups = _grown(finder, listed, refused, last=False)
    for run in groups:
        try:
            layers[run] = _layer(finder, longer, run, layers[run])
        except Refused as reason:
            refused[run] = str(reason)
    if refused.keys() & names.keys():
        return None
    roots = tuple(run.units[-1].path for run in names)
    renamed = {group: f"dense{k}" for k, group in enumerate(names.values())}
    layers = {run: replace(layer, group=renamed[names[run]]) for run, layer in layers.items() if run in names}
    outside = (tensor for tensor in plan.tensors if tensor.name not in own)
    return Appending(
        tuple(tensor.regrouped(lambda group: renamed.get(group, group)) for tensor in outside),
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


def _layer(finder: Finder, plan: Plan, run: DenseRun, layer: NextLayer) -> NextLayer:
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
    return NextLayer(longer, sizes, dict(_numbers(plan, run)), draws, fills if run.kind == "residual" else {})


def _numbers(plan: Plan, run: DenseRun) -> Iterator[tuple[tuple[str, str, tuple[Any, ...]], tuple[int, int]]]:
    """Literals in the last layer that follow what it is given, with what each new layer adds."""
    nodes = {(region.mode, node.name): node for region in run.units[-1].regions for node in region.nodes}
    for edit in plan.nodes:
        node = nodes.get((edit.mode, edit.node))
        if node is None or edit.kind in ("guard", "core_input"):  # a new layer has no old units
            continue
        old = follow(node, edit.path)
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
        planner = Planner(analysis, _LeafSizes((), sizes), "zero", 1)
        planner.guarded.update(sizes)
        planner.settle()
        missed = {run: leaf for run, leaf in leaves_of.items() if planner.sizing.growth.get(leaf) != sizes[leaf]}
        for run, leaf in missed.items():
            refused[run] = f"its channels stay as they are: {leaf.reason or 'other dimensions are tied to them'}"
        if not missed:
            entries = planner.entries()
            plan = entries.plan("", finder.captured, "zero")
            return plan, {run: entries.names[leaf] for run, leaf in leaves_of.items()}


def _channels(finder: Finder, analysis: Analysis, run: DenseRun, region: Stretch, last: bool) -> Leaf:
    """The dimension of the channels that the last layer, or the one before it, adds."""
    tree = analysis.trees[region.exit if last else region.entry]
    assert isinstance(tree, Laid)
    layout = resolve(tree.axes[run.axis])
    size = layout.size
    if run.kind in STREAMS:
        size = region.exit.meta["value"].shape[run.axis] - region.entry.meta["value"].shape[run.axis]
        layout = list(leaves(layout))[-1]
    if not isinstance(layout, Leaf) or layout.size != size:
        raise Refused("its channels are not a dimension of their own")
    if layout.reason is not None:
        raise Refused(f"its channels stay as they are: {layout.reason}")
    layer_nodes = finder.members[run.units[-1 if last else -2].path][region.mode]
    elsewhere = _elsewhere(analysis, layout, region.exit if last else region.entry, layer_nodes)
    if elsewhere:
        raise Refused(f"its channels are tied to those of {elsewhere}")
    return layout


def _elsewhere(analysis: Analysis, leaf: Leaf, node: fx.Node, layer_nodes: list[fx.Node]) -> str:
    """A place that has a layer's dimension though it is not in the layer and does not read it; "" if there is none."""
    inside = {*reached([node], lambda reader: reader.users), *layer_nodes}
    for op in analysis.ops:
        apart = op.node.graph is node.graph and op.node not in inside
        if apart and isinstance(op.output, Laid) and leaf in op.output.leaves():
            return op.place
    return ""
