"""One op by itself, old and grown, so that what its rule claims can be compared with what it computes.

The operands are parameters, so each of their dimensions is free until the rule ties it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx, nn

from fxgrow.amounts import Amounts
from fxgrow.axes.layout import Layout, Leaf, Product, leaves, resolve
from fxgrow.capture import Captured, assemble, capture
from fxgrow.capture.modes import GrownGraphModule, copies
from fxgrow.modules.containers import along, flat_tensors, has_fractions
from fxgrow.modules.tensors import named_tensors
from fxgrow.noise import WithoutNoise
from fxgrow.planning.analysis import Analysis, analyse
from fxgrow.planning.edits import AttributeEdit, set_attributes
from fxgrow.planning.numbers import number_edits
from fxgrow.planning.planner import Planner
from fxgrow.planning.sizing import Sizing, size_after
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Fact
from fxgrow.rules.op import tensors
from fxgrow.transforms.graph_edits import edit_graphs
from fxgrow.zoo.nontrivial import lively

Axes = Sequence[Layout]


@dataclass(frozen=True)
class Case:
    """An op on operands of given shapes (or given tensors).

    free: how many dimensions its rule leaves free to grow. tolerance: for ops that compute in low precision.
    by_position: it treats units of one dimension differently, so that permuting them is another op.
    """

    name: str
    op: Callable[..., Any]
    operands: tuple[Any, ...]
    free: int = 0
    tolerance: float = 1e-10
    by_position: bool = False

    def __str__(self) -> str:
        return self.name


class Alone(nn.Module):
    """A model whose only op takes parameters; integer operands are buffers."""

    def __init__(self, op: Callable[..., Any], operands: tuple[Any, ...]) -> None:
        super().__init__()
        self.op = op
        self.count = len(operands)
        for k, operand in enumerate(operands):
            value = torch.randn(operand, dtype=torch.float64) if isinstance(operand, tuple) else operand
            if has_fractions(value):
                self.register_parameter(f"x{k}", nn.Parameter(value))
            else:
                self.register_buffer(f"x{k}", value)

    def forward(self) -> Any:
        return self.op(*(getattr(self, f"x{k}") for k in range(self.count)))


@dataclass
class Looked:
    """What the rules claim of an op, beside the op itself."""

    case: Case
    model: nn.Module
    captured: Captured
    analysis: Analysis
    result: Any
    free: list[Leaf] = field(default_factory=list)

    def outputs(self, values: dict[str, Tensor] | None = None) -> list[Tensor]:
        """What the op computes, from other values for its operands if given."""
        return computed(self.model, {**dict(self.model.named_buffers()), **(values or {})})

    def operands(self) -> dict[str, tuple[Tensor, Axes]]:
        """Value and layout of every floating-point parameter and buffer; tied ones under each name."""
        return {
            name: (value.detach(), self.analysis.parameters[self.analysis.aliases[name]].axes)
            for name, value in named_tensors(self.model).items()
            if has_fractions(value)
        }

    def growing_together(self) -> list[list[Leaf]]:
        """The free dimensions, those that a rule demands equal in size together."""
        graph = nx.Graph()
        graph.add_nodes_from(self.free)
        for first, second, _ in self.analysis.unifier.equal_sizes:
            both = [leaf for leaf in (*leaves(first), *leaves(second)) if not leaf.fixed]
            graph.add_edges_from(itertools.pairwise(both))
        return [[leaf for leaf in self.free if leaf in part] for part in nx.connected_components(graph)]


def computed(model: nn.Module, values: Mapping[str, Tensor]) -> list[Tensor]:
    """What a model of one op gives for other values of its tensors."""
    cloned = {name: value.clone() for name, value in values.items()}  # a norm would update its own
    with torch.no_grad(), WithoutNoise():
        return list(flat_tensors(torch.func.functional_call(model, cloned, ())))


def look(case: Case, training: bool = False) -> Looked:
    """Capture an op and let its rule say what it claims, outputs left free."""
    torch.manual_seed(0)
    model = lively(Alone(case.op, case.operands)).train(training)
    return looked_at(case, model, capture(model, ()), training)


def looked_at(case: Case, model: nn.Module, captured: Captured, training: bool) -> Looked:
    """What the rules claim of the graphs of such a model, outputs left free."""
    kept = {}
    for mode, graph in captured.graphs.items():
        node = graph.output_node()
        kept[mode], node.args = node.args, (None,)
    analysis = analyse(captured.model, captured.graphs)
    result: Any = None
    for mode, graph in captured.graphs.items():
        node = graph.output_node()
        node.args = kept[mode]
        if mode in ("both", "train" if training else "eval"):
            result = _lowered(analysis, node.args[0])
    looked = Looked(case, model, captured, analysis, result)
    axes = [axis for tensor in (*analysis.parameters.values(), *tensors(result)) for axis in tensor.axes]
    looked.free = [leaf for leaf in dict.fromkeys(leaf for axis in axes for leaf in leaves(axis)) if not leaf.fixed]
    return looked


def _lowered(analysis: Analysis, raw: Any) -> Any:
    if isinstance(raw, fx.Node):
        return analysis.trees[raw]
    return [_lowered(analysis, item) for item in raw] if isinstance(raw, (tuple, list)) else None


def units(layout: Layout, leaf: Leaf, sizes: dict[Leaf, int]) -> Tensor:
    """For each position of an axis, which unit of `leaf` it belongs to; -1 where the leaf plays no part."""
    layout = resolve(layout)
    size = size_after(layout, sizes)
    if isinstance(layout, Leaf):
        return torch.arange(size) if layout is leaf else torch.full((size,), -1)
    if isinstance(layout, Product):
        units_of = torch.full((1,), -1)
        for factor in layout.parts:
            units_of = torch.maximum(units_of[:, None], units(factor, leaf, sizes)[None, :]).flatten()
        return units_of
    return torch.cat([units(part, leaf, sizes) for part in layout.parts])


def permuted(value: Tensor, axes: Axes, leaf: Leaf, order: Tensor) -> Tensor:
    """A tensor with the units of one dimension in another order, on every axis that has them."""
    for number, layout in enumerate(axes):
        label = units(layout, leaf, {})
        source = torch.arange(len(label))
        for unit in range(leaf.size):
            source[label == unit] = (label == order[unit]).nonzero().flatten()
        value = value.index_select(number, source)
    return value


@dataclass
class Grown:
    """The op after some dimensions have doubled, and what is known of their new entries."""

    looked: Looked
    sizes: dict[Leaf, int]
    know: Knowledge
    planner: Planner
    attributes: list[AttributeEdit] = field(default_factory=list)

    def is_old(self, layout: Layout) -> Tensor:
        """Which positions of an axis belong to old units."""
        return torch.stack([units(layout, leaf, self.sizes) < leaf.size for leaf in self.sizes]).all(0)

    def old_entries(self, value: Tensor, axes: Axes) -> Tensor:
        for number, layout in enumerate(axes):
            value = value.index_select(number, self.is_old(layout).nonzero().flatten())
        return value

    def operands(self, seed: int) -> dict[str, Tensor]:
        """Old entries in place, new ones random or as their fact says."""
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, Tensor] = {}
        values = {}
        for name, (before, axes) in self.looked.operands().items():
            first = self.looked.analysis.aliases[name]
            if first not in made:
                made[first] = self._value(first, axes, before, generator)
            values[name] = made[first]
        return {**dict(self.looked.model.named_buffers()), **values}

    def _value(self, name: str, axes: Axes, before: Tensor, generator: torch.Generator) -> Tensor:
        value = torch.rand([size_after(axis, self.sizes) for axis in axes], generator=generator, dtype=before.dtype)
        value += 0.5
        scale = next(iter(self.know.scales.get(name, {}).values()), 1.0)
        inside = torch.ones(value.shape, dtype=torch.bool)
        for number, layout in enumerate(axes):
            inside &= along(self.is_old(layout), number, value.ndim)
        value[inside] = (before * scale).flatten()
        for leaf, (number, layout) in itertools.product(self.sizes, enumerate(axes)):
            fact = self.know.fills.get((name, number, leaf), {}).get(None)
            label = units(layout, leaf, self.sizes)
            if fact in (Fact.ZERO, Fact.IGNORED):
                value.index_fill_(number, (label >= leaf.size).nonzero().flatten(), 0)
            elif fact is Fact.MEAN:
                parts = [(label == unit).nonzero().flatten() for unit in range(2 * leaf.size)]
                mean = torch.stack([value.index_select(number, part) for part in parts[: leaf.size]]).mean(0)
                for part in parts[leaf.size :]:
                    value.index_copy_(number, part, mean)
        return value

    def assembled(self) -> GrownGraphModule:
        """The op edited as its law says, as a graph module that shares nothing with the original."""
        structure, graphs = copy.deepcopy(self.looked.captured.model), copies(self.looked.captured.graphs)
        self.planner.numbers = list(number_edits(self.looked.analysis, self.sizes))
        nodes, self.attributes = self.planner.entries().edits()
        set_attributes(structure, self.attributes)
        edit_graphs(graphs, nodes)
        return assemble(structure, graphs).train(self.looked.model.training)


class Guarded(set[Leaf]):
    """Dimensions over which statistics are to be of old units alone. asked: whether a law has looked."""

    asked = False

    def __contains__(self, leaf: object) -> bool:
        self.asked = True
        return super().__contains__(leaf)


def grown(looked: Looked, together: list[Leaf], facts: dict[str, Fact], guarded: Guarded) -> Grown | None:
    """The op with dimensions twice as large, whose new entries are as `facts` says; None where its law objects."""
    sizes = {leaf: 2 * leaf.size for leaf in together}
    planner = Planner(looked.analysis, Amounts.parse(2), "zero", 1)
    planner.sizing = Sizing(sizes, {})
    know = planner.know = Knowledge(sizes, dict.fromkeys(together, Way.ZERO), guarded, zero_by_default=planner.silent)
    for name, fact in facts.items():
        for leaf, (axis, layout) in itertools.product(together, enumerate(looked.analysis.parameters[name].axes)):
            if leaf in leaves(layout):
                know.fills[name, axis, leaf] = {None: fact}
    for _ in range(4):
        know.forget()
        for op in looked.analysis.ops:
            op.law.facts(op, know)
    if know.failures or list(planner._unfaithful_scales()):
        return None
    return Grown(looked, sizes, know, planner)
