"""Where the gradient of a loss gets to: not past `detach`, nor into regions without gradients."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from fxgrow.capture.gradients import enter_grad, leave_grad
from fxgrow.planning.analysis import Analysis
from fxgrow.rules.calls import name_of, reached


def stopping(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that no gradient passes: those of regions without gradients, and `detach`."""
    inside: set[fx.Node] = set()
    off: list[bool] = []
    for node in graph.nodes:
        if node.target is enter_grad:
            off.append(not node.args[0])
        elif node.target is leave_grad:
            off.pop()
        elif (off and off[-1]) or name_of(node) == "detach":
            inside.add(node)
    return inside


def with_gradients(outputs: Iterable[fx.Node], stops: set[fx.Node]) -> set[fx.Node]:
    """The nodes that a gradient at some outputs gets to."""
    behind = reached(list(outputs), lambda node: () if node in stops else node.all_input_nodes)
    return {node for node in behind if node not in stops}


def parameters_with_gradients(analysis: Analysis, stops: set[fx.Node]) -> set[str]:
    """The parameters that a gradient at an output of the model gets to; stops: the nodes that it does not pass."""
    names: set[str] = set()
    for graph in analysis.graphs.values():
        for node in with_gradients(graph.output_node().all_input_nodes, stops):
            if node.op == "get_attr":
                names.add(str(node.target))
            elif node.op == "call_module":
                part = analysis.model.get_submodule(str(node.target))
                names.update(f"{node.target}.{name}" for name, _ in part.named_parameters(remove_duplicate=False))
    return {analysis.aliases[name] for name in names if name in analysis.aliases}
