"""Readouts: how a residual stream that is itself an output of the model can grow.

A model without a head returns its stream, and the output fixes the stream's size. Where layers inside the model read
the stream, new units would be of use to them. So a readout replaces the output: the old units, plus a linear map of
all units that starts at zero. Through it, and through the layers inside, new units learn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import fx

from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.planning.analysis import OUTPUT, Analysis
from fxgrow.planning.gradients import stopping, with_gradients
from fxgrow.planning.plan import Readout
from fxgrow.rules.op import Tensor


def find_readouts(analysis: Analysis) -> tuple[Readout, ...]:
    """The outputs that are streams which layers inside the model read, each with the readout it could have."""
    read = set(read_inside(analysis))
    names = _free_names(analysis)
    readouts: dict[int, Readout] = {}
    for mode, graph in analysis.graphs.items():
        stops = stopping(graph)
        for number, node in enumerate(_outputs(graph)):
            tree = analysis.trees[node]
            if not isinstance(tree, Tensor) or not node.meta["value"].dtype.is_floating_point:
                continue
            if not _passes_gradients(node, stops, analysis):
                continue  # a readout would, and would learn from what nothing is to learn from
            before = readouts.get(number)
            if before is not None:  # once all is fixed, the layouts of a second graph are not followed
                if tree.shape[before.axis : before.axis + 1] == (before.size,):
                    readouts[number] = replace(before, places=(*before.places, (mode, node.name)))
                continue
            for axis in range(tree.rank):
                leaf = resolve(tree.axes[axis])
                if isinstance(leaf, Leaf) and leaf in read and leaf.reason is not None and leaf.reason.text == OUTPUT:
                    readouts[number] = Readout(next(names), axis, leaf.size, ((mode, node.name),))
                    break
    modes = set(analysis.graphs)
    return tuple(readout for readout in readouts.values() if {mode for mode, _ in readout.places} == modes)


def read_inside(analysis: Analysis) -> Iterator[Leaf]:
    """The dimensions that layers of the model read."""
    for op in analysis.ops:
        for parameter, axis in op.law.reads(op):
            yield from leaves(analysis.parameters[parameter].axes[axis])


def _outputs(graph: fx.Graph) -> list[fx.Node]:
    """The values that a graph puts out, in order, each once."""
    return [node for node in graph.output_node().all_input_nodes if isinstance(node.meta["value"], torch.Tensor)]


def _passes_gradients(output: fx.Node, stops: set[fx.Node], analysis: Analysis) -> bool:
    """Whether a gradient at an output gets to anything: not where all that it is made of was detached."""

    def takes_it(node: fx.Node) -> bool:
        if node.op == "call_module":
            return any(True for _ in analysis.model.get_submodule(str(node.target)).parameters())
        return node.op in ("placeholder", "get_attr")

    return any(map(takes_it, with_gradients([output], stops)))


def _free_names(analysis: Analysis) -> Iterator[str]:
    for number in itertools.count():
        name = f"readout_{number}" if number else "readout"
        if not hasattr(analysis.model, name):
            yield name
