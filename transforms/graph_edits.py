"""Rewrites a graph as a plan says: literals, ratios, numbers as they were, guards, assertions on old sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from fxgrow import guards
from fxgrow.capture.contexts import settled
from fxgrow.capture.norms import CALLED
from fxgrow.errors import OTHER_MODEL, PlanError
from fxgrow.planning.plan import NodeEdit


def edit_graphs(graphs: Mapping[str, fx.Graph], edits: Sequence[NodeEdit]) -> None:
    """Apply every edit to the node it names, each exactly once.

    Raises
    ------
    PlanError: a graph has no node of that name.
    """
    nodes = {(mode, node.name): node for mode, graph in graphs.items() for node in graph.nodes}
    for edit in edits:
        node = nodes.get((edit.mode, edit.node))
        if node is None:
            raise PlanError(
                "the plan names a node that the graph does not have",
                where=edit.node,
                remedy=OTHER_MODEL,
            )
        _APPLY[edit.kind](node, edit)
    for graph in graphs.values():
        graph.lint()


def put(arguments: Any, path: Sequence[Any], value: Any) -> Any:
    """A copy of nested arguments with the one at `path` replaced."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(arguments, slice):
        parts = {name: getattr(arguments, name) for name in ("start", "stop", "step")}
        parts[step] = put(parts[step], rest, value)
        return slice(parts["start"], parts["stop"], parts["step"])
    if isinstance(arguments, dict):
        return {**arguments, step: put(arguments.get(step), rest, value)}
    items = list(arguments)
    items[step] = put(items[step], rest, value)
    return type(arguments)(items) if isinstance(arguments, (tuple, list)) else tuple(items)


def put_argument(node: fx.Node, path: Sequence[Any], value: Any) -> None:
    """Replace the argument of a node at `path`, which starts with args or kwargs."""
    if path[0] == "args":
        node.args = tuple(put(list(node.args), path[1:], value))
    else:
        node.kwargs = put(dict(node.kwargs), path[1:], value)


def _inserted(node: fx.Node, function: Callable[..., Any], *arguments: Any) -> fx.Node:
    """A call before a node, of the part that the node is of: blocks are found by it when the model grows again."""
    with node.graph.inserting_before(node):
        call = node.graph.call_function(function, arguments)
    call.meta["module_path"] = node.meta.get("module_path", "")
    return call


def _literal(node: fx.Node, edit: NodeEdit) -> None:
    put_argument(node, edit.path, edit.value)


def _ratio(node: fx.Node, edit: NodeEdit) -> None:
    from fxgrow.rules.shape import follow, whole_shape

    shape = whole_shape(node, edit.path)
    if shape is not None:  # a shape in one node: its items one by one
        items = tuple(_inserted(node, operator.getitem, shape, k) for k in range(len(shape.meta["value"])))
        put_argument(node, edit.path[:-1], items)
    ratio = edit.value if isinstance(edit.value, tuple) else (edit.value, 1)
    put_argument(node, edit.path, _scaled(node, follow(node, edit.path), *ratio))


def _scaled(node: fx.Node, number: fx.Node, numerator: Any, denominator: int) -> fx.Node:
    scaled = _inserted(node, operator.mul, number, numerator)
    return _inserted(node, operator.floordiv, scaled, denominator) if denominator != 1 else scaled


def _as_before(node: fx.Node, edit: NodeEdit) -> None:
    from fxgrow.rules.shape import follow

    copies: dict[fx.Node, fx.Node] = {}

    def before(number: fx.Node) -> fx.Node:
        """What a number was; another node where it is computed from a size that grew."""
        if number not in copies:
            if number.name in edit.value:
                copies[number] = _scaled(node, number, *edit.value[number.name])
            elif all(before(operand) is operand for operand in number.all_input_nodes):
                copies[number] = number
            else:
                with node.graph.inserting_before(node):
                    copies[number] = node.graph.node_copy(number, before)
        return copies[number]

    put_argument(node, edit.path, before(follow(node, edit.path)))


def _settle(node: fx.Node, edit: NodeEdit) -> None:
    if any(user.target is settled for user in node.users):
        return
    inputs = [other for other in node.graph.nodes if other.op == "placeholder"]
    with node.graph.inserting_after(inputs[-1]):
        node.graph.call_function(settled, (node, edit.value, str(node.target))).meta["module_path"] = ""


def _guard(node: fx.Node, edit: NodeEdit) -> None:
    value, graph = edit.value, node.graph

    def given(place: int, name: str) -> Any:
        if not value["module"]:
            return node.args[place] if len(node.args) > place else node.kwargs.get(name)
        said = value["arguments"].get(name)
        return graph.get_attr(said) if isinstance(said, str) else said

    with graph.inserting_before(node):
        function, arguments = guards.guarded_call(value, node.args[0] if node.args else node.kwargs["input"], given)
        guarded = graph.call_function(function, arguments)
    guarded.meta.update({key: item for key, item in node.meta.items() if key != "sources"})
    if value["module"]:
        guarded.meta[CALLED] = str(node.target)
    node.replace_all_uses_with(guarded)
    graph.erase_node(node)


def _core_input(node: fx.Node, edit: NodeEdit) -> None:
    core = tuple(tuple(part) for part in edit.value["core"])
    place = edit.value.get("operand", 0)
    taken = _inserted(node, guards.core, node.args[place], edit.value["axis"], core)
    node.args = (*node.args[:place], taken, *node.args[place + 1 :])


def _multiply(node: fx.Node, edit: NodeEdit) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    if x.op == "call_function" and x.target is guards.multiplied and list(x.users) == [node]:
        x.args = (x.args[0], x.args[1] * edit.value)
        return
    multiplied = _inserted(node, guards.multiplied, x, edit.value)
    node.args = (multiplied, *node.args[1:])


_APPLY = {
    "literal": _literal,
    "ratio": _ratio,
    "settle": _settle,
    "as_before": _as_before,
    "guard": _guard,
    "core_input": _core_input,
    "erase": lambda node, edit: node.graph.erase_node(node),
    "multiply": _multiply,
}
