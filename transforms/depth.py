"""The depth pass: new blocks are put into a captured model's tree and graphs as a plan says, before it is widened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from fxgrow.transforms.contexts import behind, contexts_around
from fxgrow.transforms.graph_edits import edit_graphs, put_argument
from fxgrow.transforms.tensors import drawn, grow_tensor
from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.capture import Captured
from fxgrow.capture.methods import move_runs
from fxgrow.capture.shapes import propagate
from fxgrow.errors import OTHER_MODEL, PlanError, as_error
from fxgrow.modules.references import exchange
from fxgrow.modules.tensors import as_registered, dotted, named_tensors, place, tensors_named, within, within_any
from fxgrow.planning.deepening import CopiedRegion, Deepening, NewBlock, NewTensor, renamed
from fxgrow.planning.edits import set_attributes
from fxgrow.planning.plan import Axis, TensorGrowth


@dataclass(frozen=True)
class NewLayer:
    """A dense layer in a graph: its nodes in order, the one that gives its channels, and what it stands in for.

    stands_for: what its readers would read without it, where it is in a stream; None where it joins others.
    passed: how many of the values that it concatenates are what it was given and a residual branch added to it.
    """

    nodes: tuple[fx.Node, ...]
    gives: fx.Node
    stands_for: fx.Node | None = None
    passed: int = 0


def add_blocks(captured: Captured, plan: Deepening) -> None:
    """Add the new blocks of a plan to a captured model, in its tree and in every graph.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    layers = insert_blocks(captured, plan)
    with _naming_parts():
        _resize(captured.model, plan)
    edit_graphs(captured.graphs, plan.nodes)
    if layers:
        for graph in captured.graphs.values():
            propagate(captured.model, graph, captured.inputs)


def rearranged(model: nn.Module, plan: Deepening) -> None:
    """Put new blocks into a tree of modules without data, and give tensors and attributes their new sizes.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    with _naming_parts():
        _rearrange(model, plan, _modules(model, plan), plan.moves)
        _resize(model, plan)


def _resize(model: nn.Module, plan: Deepening) -> None:
    tensors = tensors_named(model, (name for name, _ in plan.enlarged))
    for name, shape in plan.enlarged:
        old = tensors[name]
        place(model, name, as_registered(torch.empty(shape, dtype=old.dtype, device="meta"), old))
    set_attributes(model, plan.attributes)


def insert_blocks(captured: Captured, plan: Deepening) -> list[NewLayer]:
    """Put new blocks in, in the tree and in every graph; who reads the channels of dense layers is as it was.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    moves = plan.moves
    with _naming_parts():
        _rearrange(captured.model, plan, _modules(captured.model, plan), moves)
    layers: list[NewLayer] = []
    for mode, graph in captured.graphs.items():
        layers.extend(_extend(mode, graph, plan, moves))
        graph.lint()
    return layers


def take_out(layers: Sequence[NewLayer]) -> None:
    """Take dense layers out of their graphs again; all else that was put in stays, under its name.

    Of a layer that adds to what it is given, only what it concatenates with that goes.
    """
    for layer in reversed(layers):
        if layer.passed:
            joined: Any = layer.gives.args[0]
            layer.gives.update_arg(0, list(joined[: layer.passed]))
        elif layer.stands_for is not None:
            layer.gives.replace_all_uses_with(layer.stands_for)
        else:
            for user in list(layer.gives.users):
                _put_instead(user, layer.gives)
        for node in reversed(layer.nodes):
            if layer.passed and (node.users or node is layer.gives):
                continue
            operands = node.all_input_nodes
            node.graph.erase_node(node)
            for operand in operands:
                if operand.target is guards.multiplied and not operand.users:
                    operand.graph.erase_node(operand)


def _put_instead(join: fx.Node, value: fx.Node, *others: fx.Node) -> None:
    """Let a node concatenate others in place of a value, or none."""

    def changed(raw: Any) -> Any:
        if not isinstance(raw, (list, tuple)):
            return raw
        return [new for item in raw for new in (others if item is value else (item,))]

    join.args = tuple(map(changed, join.args))
    join.kwargs = {key: changed(raw) for key, raw in join.kwargs.items()}


def _naming_parts() -> AbstractContextManager[None]:
    what, of = "the plan names a part that the model does not have", (AttributeError, KeyError)
    return as_error(PlanError, what, remedy=OTHER_MODEL, of=of)


def _modules(model: nn.Module, plan: Deepening) -> dict[str, nn.Module]:
    """The modules of new blocks, by path; tensors and layers that twins share with other parts stay shared."""
    shared = {tensor.name for tensor in plan.tensors if tensor.start == "shared"}
    longer = {tensor.name: tensor for tensor in plan.tensors if tensor.longer}
    parts = model.named_modules(remove_duplicate=False)
    bare = [(path, part) for path, part in parts if not named_tensors(part)]
    modules = {}
    for block in plan.blocks:
        roots = tuple(old for _, old in block.modules)
        outside: dict[int, Any] = {id(part): part for path, part in bare if not within_any(path, roots)}
        memo = dict(outside)
        for new, old in block.modules:
            modules[new] = _twin(model.get_submodule(old), new, shared, longer, memo)
        made = (memo[key] for key in memo.keys() - outside.keys())
        exchange([part for part in made if isinstance(part, nn.Module)], memo)
    return modules


def _twin(
    module: nn.Module, path: str, shared: set[str], longer: Mapping[str, NewTensor], memo: dict[int, Any]
) -> nn.Module:
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
                    new = longer.get(f"{path}.{name}")
                    shape = new.shape(tensor.shape) if new is not None else tensor.shape
                    memo[id(tensor)] = as_registered(torch.empty(shape, dtype=tensor.dtype, device="meta"), tensor)
                tensor = memo[id(tensor)]
            getattr(twin, kind)[name] = tensor
    for name, child in module._modules.items():
        below = f"{path}.{name}"
        tensors = (
            [] if child is None else [f"{below}.{n}" for n, _ in (*child.named_parameters(), *child.named_buffers())]
        )
        if child is None or (tensors and shared.issuperset(tensors)):
            twin._modules[name] = child  # what twins share with other parts stays one module
        else:
            twin._modules[name] = _twin(child, below, shared, longer, memo)
    return twin


def _rearrange(
    model: nn.Module, plan: Deepening, modules: dict[str, nn.Module], moves: Mapping[str, Mapping[str, str]]
) -> None:
    """Put children in their new order under their new names."""
    parents = {children.path: model.get_submodule(children.path) for children in plan.children}
    for children in plan.children:
        parent = parents[children.path]
        above = renamed(children.path, moves) if children.path else ""
        before = dict(parent._modules)
        parent._modules.clear()
        for new, old in children.names:
            parent._modules[new] = before[old] if old else modules[dotted(above, new)]


def _extend(mode: str, graph: fx.Graph, plan: Deepening, moves: Mapping[str, Mapping[str, str]]) -> Iterator[NewLayer]:
    """Put new blocks into one graph, one after the other; yields those that are dense layers."""
    nodes = {node.name: node for node in graph.nodes}
    as_it_was = {node: (node.args, node.kwargs) for node in graph.nodes}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = renamed(str(node.target), moves)
        if path := node.meta.get("module_path"):
            node.meta["module_path"] = renamed(path, moves)
        _move_sources(node, lambda path: renamed(path, moves))
        move_runs(node, lambda path: renamed(path, moves))
    copying = _Copying(graph, nodes, as_it_was, moves)
    for block in plan.blocks:
        for region in block.regions:
            if region.mode == mode:
                missing = {*region.nodes, *chain(*region.streams), *region.joins} - nodes.keys()
                if missing:
                    raise PlanError(
                        "the plan names a node that the graph does not have", where=min(missing), remedy=OTHER_MODEL
                    )
                put = copying.repeat if block.kind in ("identity", "stream", "residual") else copying.append
                layer = put(region, block)
                if block.kind != "identity":
                    yield layer


def _move_sources(node: fx.Node, moved: Callable[[str], str]) -> None:
    """Let literals come from the attributes of a module of another name."""
    if sources := node.meta.get("sources"):
        node.meta["sources"] = {path: source.moved(moved) for path, source in sources.items()}


class _Copying:
    """New blocks of one graph. as_it_was: the arguments of its nodes before. tails: the last value after a value."""

    def __init__(
        self,
        graph: fx.Graph,
        nodes: Mapping[str, fx.Node],
        as_it_was: Mapping[fx.Node, tuple[Any, Any]],
        moves: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.graph = graph
        self.nodes = nodes
        self.as_it_was = as_it_was
        self.moves = moves
        self.tails: dict[str, fx.Node] = {}
        self.appended: dict[str, list[fx.Node]] = {}

    def repeat(self, region: CopiedRegion, block: NewBlock) -> NewLayer:
        """Repeat a region after the values that its new block follows; who read them reads what leaves the region."""
        latest = {after: self.tails.get(after, self.nodes[after]) for _, _, after in region.streams}
        copy_of = {self.nodes[entry]: latest[after] for entry, _, after in region.streams}
        last = max(latest.values())  # in the graph
        contexts = contexts_around([self.nodes[name] for name in region.nodes])
        anchor = behind(last, len(contexts))
        nodes = self._copy(region, block, copy_of, anchor, lambda raw: raw)
        for context in contexts if anchor is not last else ():
            begins, ends = context.copied(nodes[0], nodes[-1])
            nodes = (begins, *nodes, ends)
        new = set(nodes)
        own = set(region.nodes) if region.exit == region.after else set()
        for _, leaves, after in region.streams:
            before, leaving = latest[after], copy_of[self.nodes[leaves]]
            for user in list(before.users):
                if user not in new and user.name not in own and user > anchor:
                    user.replace_input_with(before, leaving)
            self.tails[after] = leaving
        return NewLayer(nodes, copy_of[self.nodes[region.exit]], latest[region.after], region.passed)

    def append(self, region: CopiedRegion, block: NewBlock) -> NewLayer:
        """Repeat a dense layer after the last one; what it gives is concatenated next to what that gives."""
        entry, exit_node = self.nodes[region.entry], self.nodes[region.exit]
        since = self.appended.setdefault(region.exit, [exit_node])
        latest = since[-1]

        def more(raw: Any) -> Any:
            if not isinstance(raw, (list, tuple)):
                return raw
            behind = since if any(item is entry for item in raw) else []
            return [*map(more, raw), *behind]

        copy_of: dict[fx.Node, fx.Node] = {} if block.kind == "list" else {entry: latest}
        nodes = self._copy(region, block, copy_of, latest, more if block.kind == "list" else lambda raw: raw)
        leaving = copy_of[exit_node]
        for name in region.joins:
            _put_instead(self.nodes[name], latest, latest, leaving)
        since.append(leaving)
        return NewLayer(nodes, leaving)

    def _copy(
        self,
        region: CopiedRegion,
        block: NewBlock,
        copy_of: dict[fx.Node, fx.Node],
        anchor: fx.Node,
        reading: Callable[[Any], Any],
    ) -> tuple[fx.Node, ...]:
        """Copy the nodes of a region behind `anchor`; `copy_of` is old -> new, `reading` changes their arguments."""
        copies: list[fx.Node] = []
        paths = [(renamed(old, self.moves), new) for new, old in (*block.modules, *block.aliases)]

        def moved(path: str) -> str:
            for old, new in paths:
                if within(path, old):
                    return new + path.removeprefix(old)
            return path

        def copied(node: fx.Node) -> fx.Node:
            nonlocal anchor
            before, named = self.as_it_was[node]
            args = fx.node.map_arg(tuple(map(reading, before)), operand)
            kwargs = fx.node.map_arg({key: reading(raw) for key, raw in named.items()}, operand)
            target = moved(str(node.target)) if node.op in ("call_module", "get_attr") else node.target
            with self.graph.inserting_after(anchor):
                anchor = self.graph.create_node(node.op, target, args, kwargs, node.name)
            anchor.meta = {**node.meta, "module_path": moved(node.meta.get("module_path", ""))}
            _move_sources(anchor, moved)
            move_runs(anchor, moved)
            copies.append(anchor)
            return anchor

        def operand(node: fx.Node) -> fx.Node:
            if node not in copy_of and node.op == "get_attr" and moved(str(node.target)) != node.target:
                copy_of[node] = copied(node)
            return copy_of.get(node) or self.tails.get(node.name, node)

        for name in region.nodes:
            copy_of[self.nodes[name]] = copied(self.nodes[name])
        for name, path, value in region.numbers:
            put_argument(copy_of[self.nodes[name]], path, value)
        return tuple(copies)


def started(twin: Tensor, tensor: NewTensor, seed: str) -> Tensor:
    """A tensor of a new block before any growth in width, on the device and of the dtype of its twin."""
    started = _as_long(twin, tensor, seed)
    if tensor.longer:
        added = dict(tensor.longer)
        axes = tuple(
            Axis("grow", size, size + added[k], fill="draw") if k in added else Axis("keep", size, size)
            for k, size in enumerate(twin.shape)
        )
        started = grow_tensor(started, TensorGrowth(tensor.name, axes, tensor.draw), seed)
    for start, stop in tensor.silent:
        started[start:stop] = 0
    return started


def _as_long(twin: Tensor, tensor: NewTensor, seed: str) -> Tensor:
    if tensor.start == "copy":
        return twin.clone()
    if tensor.start == "zero":
        return torch.zeros_like(twin)
    if tensor.start == "ones":
        return torch.ones_like(twin)
    if tensor.start == "dirac":
        new = torch.zeros_like(twin)
        if not new.is_meta:
            units = torch.arange(twin.shape[0], device=twin.device)
            centre = (torch.full_like(units, size // 2) for size in twin.shape[2:])
            new.index_put_((units, units % twin.shape[1], *centre), new.new_ones(()))
        return new
    return drawn(twin, tensor.name, tensor.start, seed)
