"""Norms in graphs: called as modules in graphs that run, spelled out as functions for analysis and proof.

A graph that runs calls modules, so that hooks, FSDP and people find a norm where it was. A graph for analysis and proof
has the functions that these modules call, on the parameters that they read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx, nn

from fxgrow.capture.modes import GrownGraphModule, copied
from fxgrow.guarded_norms import KINDS, Arguments, call_of, name_of_function, norm_of, read
from fxgrow.opaque import hooked

CALLED = "called_norm"
"""Under which the meta data of a node have the path of the norm that was called where it calls a function."""


def spelled_out(module: GrownGraphModule) -> dict[str, fx.Graph]:
    """The graphs of a module with functions where a forward or growth has them, but for norms that hooks run around."""
    graphs = module.graphs()
    parts = dict(module.named_modules(remove_duplicate=False))
    norms = {path: part for path, part in parts.items() if name_of_function(part) and not hooked(part)}
    if not any(node.op == "call_module" and node.target in norms for graph in graphs.values() for node in graph.nodes):
        return graphs
    return {mode: _spelled_out(graph, norms) for mode, graph in graphs.items()}


def _spelled_out(graph: fx.Graph, norms: Mapping[str, nn.Module]) -> fx.Graph:
    result = copied(graph)
    read_before: dict[str, fx.Node] = {}
    for node in list(result.nodes):
        if node.op == "get_attr":
            read_before.setdefault(str(node.target), node)
        if node.op != "call_module" or node.target not in norms:
            continue
        path, norm = str(node.target), norms[node.target]
        weight, bias = (_reading(node, path, norm, name, read_before) for name in ("weight", "bias"))
        x = node.args[0] if node.args else next(iter(node.kwargs.values()))
        node.op, node.meta[CALLED] = "call_function", path
        node.target, node.args, node.kwargs = call_of(norm, x, weight, bias)
    return result


def _reading(node: fx.Node, path: str, norm: nn.Module, name: str, read_before: dict[str, fx.Node]) -> fx.Node | None:
    """The node that reads a parameter of a norm: a record has one for each tensor."""
    tensor = norm._parameters.get(name)
    if tensor is None:
        return None
    target = f"{path}.{name}"
    if target not in read_before:
        with node.graph.inserting_before(node):
            read_before[target] = reading = node.graph.get_attr(target)
        reading.meta.update(value=tensor.detach().to("meta"), module_path=node.meta.get("module_path", ""))
    return read_before[target]


def called_norms(root: nn.Module, graphs: Iterable[fx.Graph]) -> dict[int, nn.Module]:
    """Let graphs call modules in place of functions for norms; returns the modules by the id of their part of `root`.

    A norm stays a function where its parameters are not all of one part that has no others, where that part is called
    for something else, or where two calls differ in more than what is normalised.
    """
    graphs = list(graphs)
    called = {id(root.get_submodule(str(n.target))) for graph in graphs for n in graph.nodes if n.op == "call_module"}
    homes: dict[int, tuple[nn.Module, list[tuple[fx.Node, str]], set[Any]]] = {}
    for node in (node for graph in graphs for node in graph.nodes):
        norm = read(node)
        path = _home(root, node, norm) if norm is not None else None
        if norm is None or path is None:
            continue
        part = root.get_submodule(path)
        name, (_, shape, _, _, eps, core), share = norm
        _, calls, settings = homes.setdefault(id(part), (part, [], set()))
        calls.append((node, path))
        settings.add((name, shape, eps, _frozen(core), share))
    modules = {}
    for key, (part, calls, settings) in homes.items():
        if len(settings) == 1 and key not in called:
            modules[key] = norm_of(part, *settings.pop())
            for node, path in calls:
                _call(node, path)
    return modules


def _home(root: nn.Module, node: fx.Node, norm: tuple[str, Arguments, float]) -> str | None:
    """The path of the part whose norm a node is, which may be called in its place."""
    name, (_, shape, weight, bias, eps, core), _ = norm
    if not isinstance(shape, (tuple, int)) or any(isinstance(v, fx.Node) for v in (*_items(shape), eps, *_items(core))):
        return None
    read_ones = {leaf: operand for leaf, operand in (("weight", weight), ("bias", bias)) if operand is not None}
    if any(operand.op != "get_attr" for operand in read_ones.values()):
        return None
    owners = {str(operand.target).rpartition(".")[0] for operand in read_ones.values()}
    around = node.meta.get(CALLED, node.meta.get("module_path", ""))
    path = owners.pop() if len(owners) == 1 else around if not owners else ""
    if owners or not path:
        return None
    try:
        part: Any = root.get_submodule(path)
    except AttributeError:
        return None
    own = {leaf: tensor for leaf, tensor in part._parameters.items() if tensor is not None}
    if part._modules or part._buffers or own.keys() != read_ones.keys():
        return None
    if any(str(operand.target) != f"{path}.{leaf}" for leaf, operand in read_ones.items()):
        return None
    return path if read_ones or isinstance(part, KINDS[name]) else None


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (tuple, list)) else value


def _call(node: fx.Node, path: str) -> None:
    x, operands = node.args[0], node.all_input_nodes
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), {}
    for operand in operands:
        if operand.op == "get_attr" and not operand.users:
            node.graph.erase_node(operand)
