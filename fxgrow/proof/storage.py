"""Which nodes of a graph share one storage, which of them write to it, and which storage outlasts the call."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from fxgrow.modules.containers import holds_tensor
from fxgrow.proof.bindings import Bindings, Bound
from fxgrow.proof.claims import Claim, Unproved, same_map
from fxgrow.proof.constants import as_it_was, shares_storage
from fxgrow.proof.models import Model
from fxgrow.proof.node_pair import Use, claims_in
from fxgrow.proof.rules.movement import written_through
from fxgrow.proof.structures import all_unchanged
from fxgrow.rules.calls import name_of, reached, tensor_operands, writes
from fxgrow.rules.law import Law
from fxgrow.rules.registry import law_of_call


def module_of(model: Model, node: fx.Node) -> nn.Module | None:
    return model.part(str(node.target)) if node.op == "call_module" else None


def law_of(model: Model, node: fx.Node) -> Law | None:
    return law_of_call(node, module_of(model, node))


def overwrites(model: Model, node: fx.Node) -> bool:
    return writes(node, module_of(model, node))


def first_tensor(node: fx.Node) -> fx.Node | None:
    return next(iter(tensor_operands(node)), None)


_COPYING = ("cat", "concat", "concatenate", "stack", "repeat", "tile", "repeat_interleave", "clone")


def _copies(node: fx.Node) -> bool:
    """Whether an op of movement gives a storage of its own; a number as a tensor indexes as the number does."""
    index = node.args[1] if node.target is operator.getitem else None
    items = index if isinstance(index, tuple) else (index,)
    values = [item.meta.get("value") if isinstance(item, fx.Node) else item for item in items]
    return name_of(node) in _COPYING or any(isinstance(v, (list, tuple)) or getattr(v, "ndim", 0) for v in values)


def sharing(model: Model, graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """Which nodes may hold the same storage, by node: views, and what an unknown op returns of its operands."""
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        group = groups.setdefault(node, [node])
        for operand in may_show(model, node):
            other = groups[operand]
            if other is not group:
                if len(other) > len(group):
                    group, other = other, group
                group.extend(other)
                groups.update(dict.fromkeys(other, group))
    return {node: group for node, group in groups.items() if len(group) > 1}


def may_show(model: Model, node: fx.Node) -> list[fx.Node]:
    """The operands whose storage a node's output may be: an op that writes in place gives back what it wrote to."""
    law = law_of(model, node)
    if node.op in ("placeholder", "output", "get_attr") or _copies(node) or not holds_tensor(node.meta.get("value")):
        return []
    if law is not None and overwrites(model, node):
        return tensor_operands(node)[:1]
    return tensor_operands(node) if law is None or law.may_show else []


class Storage(Bindings):
    """Bindings of nodes that may show one storage: what is written to it is claimed of all of them.

    roots: of nodes that show the storage of another. whole: of those that show all of it, as it is.
    """

    def __init__(self, parameter_of: Callable[[str], Claim]) -> None:
        super().__init__(parameter_of)
        self.roots: dict[fx.Node, fx.Node] = {}
        self.whole: dict[fx.Node, fx.Node] = {}

    def root(self, node: fx.Node) -> fx.Node:
        return self.roots.get(node, node)

    def written(self, node: fx.Node, use: Use, claims: Any) -> None:
        """An op that writes in place changes its operand too, and all that shares its storage."""
        source = next((n for n in node.all_input_nodes if n in self.bound), None)
        if source is None:
            return
        law = law_of_call(use.new, use.new_module)
        if use.writes or use.name == "detach":
            self.whole[node] = self.whole.get(source, source)
        if not use.writes:
            if law is not None and law.may_show and not _copies(use.new):
                self.roots[node] = self.root(source)
            return
        root = self.root(source)
        new = claims if isinstance(claims, Claim) else None
        before = self.bound[source].claims
        for other, bound in list(self.bound.items()):
            if other is node or bound.claims is None:
                continue
            if self.root(other) is not root and not shares_storage(bound.claims, before):
                continue
            if new is not None and self.whole.get(other, other) is self.whole.get(source, source):
                self.bound[other] = Bound(bound.partner, new)
            elif (new is None or as_it_was(new)) and all(map(as_it_was, claims_in(bound.claims))):
                self.bound[other] = Bound(bound.partner, all_unchanged(bound.partner.meta["value"]))
            elif not any(node < user for user in other.users):
                self.bound[other] = Bound(bound.partner, None)
            elif other is root and source.target is operator.getitem and source.args[0] is other and new is not None:
                if source.args[1] != self.bound[source].partner.args[1]:
                    raise Unproved(f"it writes to another part of {other} than the original")
                self.bound[other] = Bound(bound.partner, written_through(bound.claims, before, new, source.args[1]))
            else:
                self.bound[other] = Bound(bound.partner, None)
                raise Unproved(f"it writes to what {other} shows, which is read later")
        self.roots[node] = root


def written_tensors(model: Model) -> frozenset[str]:
    """Parameters and buffers that the forward itself writes to, so that its next call finds other values there."""
    names = set()
    for graph in model.graphs.values():
        targets = (first_tensor(node) for node in graph.nodes if overwrites(model, node))
        shown = reached([node for node in targets if node is not None], lambda node: may_show(model, node))
        names |= {str(node.target) for node in shown if node.op == "get_attr"}
    same = {id(model.tensor(name)) for name in names}
    return frozenset(names | {name for name, tensor in model.tensors.items() if id(tensor) in same})


def check_kept(name: str, assumed: Claim, after: Claim) -> None:
    """What was assumed of a tensor before the call holds behind it, so that it does for the next.

    Raises
    ------
    Unproved: its old entries, or what is known of its new ones, are others.
    """
    if assumed.new != after.new or not all(map(same_map, assumed.maps, after.maps)):
        raise Unproved(f"what is written to {name} is not what the original's forward writes there")
    lost = bool((assumed.zeros() & ~after.zeros()).any())
    for axis in range(assumed.rank):
        source = assumed.copies_of(axis)
        lost = lost or bool((after.copies_of(axis)[source] != after.copies_of(axis)).any())
    if lost:
        raise Lost(f"new entries of {name} are other than they were, once the forward has written to it")


class Lost(Unproved):
    """What was known of the new entries of a tensor is true no more once the forward has written to it."""
