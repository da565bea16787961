"""The depth pass: new blocks are put into a captured model's tree and graphs as a plan says, before it is widened."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from fxgrow.transforms.tensors import drawn
from torch import Tensor, fx, nn

from fxgrow.capture import Captured
from fxgrow.errors import PlanError
from fxgrow.planning.deepening import CopiedRegion, Deepening, NewBlock, NewTensor, renamed

_REMEDY = "apply a plan to the model it was made for"


def deepen(captured: Captured, plan: Deepening) -> None:
    """Add the new blocks of a plan to a captured model, in its tree and in every graph.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    moves = {c.path: {old: new for new, old in c.names if old} for c in plan.children}
    try:
        made = _modules(captured.model, plan)
        _rearrange(captured.model, plan, made, moves)
    except (AttributeError, KeyError) as error:
        raise PlanError(f"the plan names a part that the model does not have: {error}", remedy=_REMEDY) from None
    for mode, graph in captured.graphs.items():
        _extend(mode, graph, plan, moves)
        graph.lint()


def _modules(model: nn.Module, plan: Deepening) -> dict[str, nn.Module]:
    """The modules of new blocks, by path; tensors that twins share with other parts stay shared."""
    shared = {tensor.name for tensor in plan.tensors if tensor.start == "shared"}
    made = {}
    for block in plan.blocks:
        memo: dict[int, Any] = {}
        for new, old in block.modules:
            made[new] = _twin(model.get_submodule(old), new, shared, memo)
    return made


def _twin(module: nn.Module, path: str, shared: set[str], memo: dict[int, Any]) -> nn.Module:
    """A copy of a module on the meta device, with tensors of its own."""
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    twin = object.__new__(type(module))
    memo[id(module)] = twin
    for name, value in module.__dict__.items():
        twin.__dict__[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    for kind in ("_parameters", "_buffers"):
        for name, tensor in getattr(module, kind).items():
            if tensor is not None and f"{path}.{name}" not in shared:
                if id(tensor) not in memo:
                    empty = torch.empty_like(tensor, device="meta")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                tensor = memo[id(tensor)]
            getattr(twin, kind)[name] = tensor
    for name, child in module._modules.items():
        twin._modules[name] = _twin(child, f"{path}.{name}", shared, memo) if child is not None else None
    return twin


def _rearrange(
    model: nn.Module, plan: Deepening, made: dict[str, nn.Module], moves: Mapping[str, Mapping[str, str]]
) -> None:
    """Put children in their new order under their new names."""
    parents = {children.path: model.get_submodule(children.path) for children in plan.children}
    for children in plan.children:
        parent = parents[children.path]
        above = renamed(children.path, moves) if children.path else ""
        before = dict(parent._modules)
        parent._modules.clear()
        for new, old in children.names:
            parent._modules[new] = before[old] if old else made[f"{above}.{new}" if above else new]


def _extend(mode: str, graph: fx.Graph, plan: Deepening, moves: Mapping[str, Mapping[str, str]]) -> None:
    """Put new blocks into one graph, one after the other."""
    nodes = {node.name: node for node in graph.nodes}
    as_it_was = {node: (node.args, node.kwargs) for node in graph.nodes}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = renamed(str(node.target), moves)
        if path := node.meta.get("module_path"):
            node.meta["module_path"] = renamed(path, moves)
    tails: dict[str, fx.Node] = {}
    for block in plan.blocks:
        for region in block.regions:
            if region.mode == mode:
                missing = {*region.nodes, region.entry, region.exit, region.after} - nodes.keys()
                if missing:
                    raise PlanError(
                        "the plan names a node that the graph does not have", where=min(missing), remedy=_REMEDY
                    )
                tails[region.after] = _repeat(graph, region, block, nodes, as_it_was, tails, moves)


def _repeat(
    graph: fx.Graph,
    region: CopiedRegion,
    block: NewBlock,
    nodes: Mapping[str, fx.Node],
    as_it_was: Mapping[fx.Node, tuple[Any, Any]],
    tails: Mapping[str, fx.Node],
    moves: Mapping[str, Mapping[str, str]],
) -> fx.Node:
    """Repeat a region after the value that its new block follows; the value that leaves it."""
    paths = [(renamed(old, moves), new) for new, old in block.modules]
    before = tails.get(region.after, nodes[region.after])
    made: dict[fx.Node, fx.Node] = {nodes[region.entry]: before}
    anchor = before

    def moved(path: str) -> str:
        for old, new in paths:
            if path == old or path.startswith(old + "."):
                return new + path.removeprefix(old)
        return path

    def copied(node: fx.Node) -> fx.Node:
        nonlocal anchor
        args, kwargs = (fx.node.map_arg(raw, operand) for raw in as_it_was[node])
        target = moved(str(node.target)) if node.op in ("call_module", "get_attr") else node.target
        with graph.inserting_after(anchor):
            anchor = graph.create_node(node.op, target, args, kwargs, node.name)
        anchor.meta = {**node.meta, "module_path": moved(node.meta.get("module_path", ""))}
        return anchor

    def operand(node: fx.Node) -> fx.Node:
        if node not in made and node.op == "get_attr" and moved(str(node.target)) != node.target:
            made[node] = copied(node)
        return made.get(node) or tails.get(node.name, node)

    for name in region.nodes:
        made[nodes[name]] = copied(nodes[name])
    new = set(made.values())
    own = set(region.nodes) if region.exit == region.after else set()
    leaving = made[nodes[region.exit]]
    for user in list(before.users):
        if user not in new and user.name not in own:
            user.replace_input_with(before, leaving)
    return leaving


def started(twin: Tensor, tensor: NewTensor, seed: str) -> Tensor:
    """A tensor of a new block before any growth in width, on the device and of the dtype of its twin."""
    if tensor.start == "copy":
        return twin.clone()
    if tensor.start == "zero":
        return torch.zeros_like(twin)
    if tensor.start == "ones":
        return torch.ones_like(twin)
    if tensor.start == "dirac":
        new = torch.zeros_like(twin)
        if not new.is_meta:
            centre = tuple(size // 2 for size in twin.shape[2:])
            for unit in range(twin.shape[0]):
                new[(unit, unit % twin.shape[1], *centre)] = 1
        return new
    return drawn(twin, tensor.name, tensor.start, seed)
