"""The readout pass: puts a layer before each output that is a residual stream, before the model is widened."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx, nn

from fxgrow import guards
from fxgrow.capture import Captured
from fxgrow.errors import OTHER_MODEL, PlanError
from fxgrow.planning.plan import Readout


def add_readouts(captured: Captured, readouts: Iterable[Readout]) -> None:
    """Put readouts of all units before the outputs, in every graph.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    for readout in readouts:
        for mode, place in readout.places:
            graph = captured.graphs.get(mode)
            node = next((n for n in graph.nodes if n.name == place), None) if graph is not None else None
            if graph is None or node is None:
                raise PlanError("the plan names a node that the graph does not have", where=place, remedy=OTHER_MODEL)
            if not hasattr(captured.model, readout.weight):
                like = node.meta["value"]
                empty = torch.empty(readout.size, readout.size, dtype=like.dtype, device=like.device)
                captured.model.register_parameter(readout.weight, nn.Parameter(empty))
            _insert(graph, node, readout, captured.model.get_parameter(readout.weight))
    for graph in captured.graphs.values():
        graph.lint()


def drop_readouts(captured: Captured, readouts: Iterable[Readout]) -> None:
    """Take readouts out again that nothing turned out to need."""
    for readout in readouts:
        delattr(captured.model, readout.weight)
        for graph in captured.graphs.values():
            for node in list(graph.nodes):
                if node.target is guards.readout and node.args[1].target == readout.weight:
                    x, weight = node.args[:2]
                    node.replace_all_uses_with(x)
                    graph.erase_node(node)
                    graph.erase_node(weight)


def _insert(graph: fx.Graph, node: fx.Node, readout: Readout, weight: torch.Tensor) -> None:
    output = graph.output_node()
    with graph.inserting_before(output):
        parameter = graph.get_attr(readout.weight)
        read = graph.call_function(guards.readout, (node, parameter, readout.axis, ((0, readout.size),)))
    parameter.meta.update(value=weight, module_path="")
    read.meta.update(value=node.meta["value"], module_path="")
    output.replace_input_with(node, read)
