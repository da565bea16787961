"""The intermediate model computes what the original does: new blocks pass their input on, rescalings cancel.

Walks the graph of the intermediate model beside the original's. A tensor is a number times a tensor of the original, or
zero, or anything. A new block whose last gate is zero makes x + 0; a weight times c after an input times 1/c leaves
the output; a batch norm whose statistics and eps follow a factor cancels it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx

from fxgrow import guards
from fxgrow.proof.certificate import Certificate, Step, Verdict
from fxgrow.proof.claims import Unproved
from fxgrow.proof.comparing import equal_values
from fxgrow.proof.intermediate import Intermediate
from fxgrow.proof.models import Model, reads_shape
from fxgrow.proof.rules.identity import ONE, Anything, Kept, Maker
from fxgrow.proof.storage import first_tensor, law_of, may_show, module_of, overwrites, sharing
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.intervals import intervals
from fxgrow.rules.normalisation import BatchNorm

_ROUNDING = 4e-15
"""Relative, in factors that are products of a number and its inverse."""


@dataclass(frozen=True)
class Root:
    """A value of the original as a number times another, multipliers taken off."""

    node: fx.Node
    factor: float = 1.0


class Alongside:
    """The walk along one graph of the intermediate model and the same graph of the original."""

    def __init__(self, original: Model, intermediate: Intermediate, mode: str) -> None:
        self.original = original
        self.intermediate = intermediate
        self.old, self.new = original.graphs[mode], intermediate.graphs[mode]
        self.named = {node.name: node for node in self.old.nodes}
        self.roots = {node: Root(node) for node in self.old.nodes}
        self.held: dict[fx.Node, Any] = {}
        self.stale: set[fx.Node] = set()
        self.together: set[tuple[fx.Node, fx.Node]] = set()  # written to since, the same in both models
        self.intervals = intervals(self.old, partial(module_of, original))
        self.sharing = {
            graph: sharing(model, graph) for model, graph in ((original, self.old), (intermediate, self.new))
        }
        self.last_use = {graph: _last_uses(graph) for graph in (self.old, self.new)}
        self.maker = Maker(intermediate, self.intervals)

    def steps(self) -> Iterator[Step]:
        place, same = -1, 0
        order = {node: k for k, node in enumerate(self.old.nodes)}
        multipliers = [node for node in self.old.nodes if node.target is guards.multiplied]
        for node in multipliers:
            root = self.roots[node.args[0]]
            self.roots[node] = Root(root.node, root.factor * float(node.args[1]))
        seen = set(multipliers)
        for node in self.new.nodes:
            partner = self.named.get(node.name)
            if node.target is guards.multiplied:
                self.held[node] = self._multiplied(node)
                continue
            if partner is None:
                made = self.maker.made(node, self._given(node))
                self.held[node] = made.value
                self._written(node, None)
                if made.rule:
                    where = node.meta.get("module_path") or node.name
                    claim = f"{node.name} is {_said(made.value)}"
                    yield Step(where, Certificate(claim, made.rule, made.conditions))
                continue
            seen.add(partner)
            if order[partner] <= place:
                text = "nodes of the original have changed places"
                yield Step("", Certificate("nodes are in their order", "", (), Verdict.UNKNOWN, text))
                return
            place = order[partner]
            conditions: list[str] = []
            try:
                self.held[node] = self._paired(node, partner, conditions)
            except Unproved as error:
                claim = f"{node.name} is the original's"
                yield Step(node.meta.get("module_path", ""), Certificate(claim, "", (), Verdict.UNKNOWN, str(error)))
                return
            same += 1
            if conditions:
                claim = f"{node.name} is {_said(self.held[node])}"
                where = node.meta.get("module_path") or node.name
                yield Step(where, Certificate(claim, "a factor taken up", tuple(conditions)))
            self._written(node, partner)
        missing = [node.name for node in self.old.nodes if node not in seen]
        if missing:
            claim, text = "every node of the original is there", f"missing: {missing[:3]}"
            yield Step("", Certificate(claim, "", (), Verdict.UNKNOWN, text))
        claim = f"the {same} nodes that the original has are what they are in it, its output among them"
        yield Step("", Certificate(claim, "the same op on the same operands"))

    def _given(self, node: fx.Node) -> dict[fx.Node, Any]:
        return {
            operand: Anything(f"{operand} was written to since") if operand in self.stale else self.held[operand]
            for operand in node.all_input_nodes
        }

    def _multiplied(self, node: fx.Node) -> Any:
        x, factor = node.args
        held = self._given(node)[x]  # type: ignore[index]
        return held.times(float(factor)) if isinstance(held, Kept) else held  # type: ignore[arg-type]

    # -- nodes of both -------------------------------------------------------------------------------------

    def _paired(self, node: fx.Node, partner: fx.Node, conditions: list[str]) -> Kept:
        """What a node of both models is; conditions: what was checked where a factor is taken up."""
        same_target = node.target is partner.target or (
            node.op != "call_function" and self.intermediate.reads_before(node) == str(partner.target)
        )
        if node.op != partner.op or not same_target:
            raise Unproved(f"it is {node.target}, it was {partner.target}")
        if node.op == "get_attr":
            return Kept(partner, self.intermediate.factor(str(node.target)))
        if reads_shape(partner) and node.args[1:] == partner.args[1:] and node.kwargs == partner.kwargs:
            self._same_shape(node, partner)
            return Kept(partner)
        factors: list[float] = []
        self._same(node.args, partner.args, factors)
        self._same(dict(node.kwargs), dict(partner.kwargs), factors)
        own: dict[str, float] = {}
        if node.op == "call_module":
            names = [f"{node.target}.{name}" for name, _ in self._named_tensors(node)]
            own = {name: self.intermediate.factor(name) for name in names}
        eps = node.op == "call_module" and "eps" in self.intermediate.attributes.get(str(node.target), {})
        if not eps and all(map(_is_one, (*factors, *own.values()))):
            return Kept(partner)
        factor = self._scaled(node, partner, factors, own)
        conditions.append("; ".join(f"{name} x {value:.6g}" for name, value in own.items() if not _is_one(value)))
        return Kept(partner, factor)

    def _same_shape(self, node: fx.Node, partner: fx.Node) -> None:
        """Whether what was read has been written to since does not matter to its shape."""
        (new,), (old,) = node.all_input_nodes, partner.all_input_nodes
        held = self.held[new]
        if not isinstance(held, Kept) or held.node is not self.roots[old].node or held.places is not None:
            raise Unproved(f"it reads the shape of {new}, where the original reads that of {old}")

    def _named_tensors(self, node: fx.Node) -> list[tuple[str, Tensor]]:
        module = self.intermediate.part(str(node.target))
        return [*module.named_parameters(), *module.named_buffers()]

    def _same(self, new: Any, old: Any, factors: list[float]) -> None:
        """Arguments of both nodes agree, tensors up to a factor each."""
        if isinstance(new, fx.Node) and isinstance(old, fx.Node):
            together = (new, old) in self.together
            stale = new in self.stale and not together
            held = Anything(f"{new} was written to since") if stale else self.held[new]
            if isinstance(held, Anything):
                raise Unproved(held.reason)
            root = self.roots[old]
            if not isinstance(held, Kept) or held.node is not root.node or held.places is not None:
                raise Unproved(f"it reads {new}, which is {_said(held)}, where the original reads {old}")
            if old in self.stale and not together:
                raise Unproved(f"it reads {old}, which was written to since")
            factors.append(held.factor / root.factor)
        elif isinstance(new, (tuple, list)) and isinstance(old, (tuple, list)) and len(new) == len(old):
            for item, before in zip(new, old, strict=True):
                self._same(item, before, factors)
        elif isinstance(new, dict) and isinstance(old, dict) and new.keys() == old.keys():
            for key in new:
                self._same(new[key], old[key], factors)
        elif isinstance(new, slice) and isinstance(old, slice):
            self._same((new.start, new.stop, new.step), (old.start, old.stop, old.step), factors)
        elif isinstance(new, fx.Node) or isinstance(old, fx.Node) or not equal_values(old, new):
            raise Unproved(f"it is given {new}, it was given {old}")

    def _scaled(self, node: fx.Node, partner: fx.Node, factors: list[float], own: dict[str, float]) -> float:
        """By which factor the output differs, where operands or parameters do."""
        law = law_of(self.intermediate, node)
        by_leaf = {name.rpartition(".")[2]: factor for name, factor in own.items()}
        if isinstance(law, BatchNorm) and node.op == "call_module" and len(factors) == 1:
            return self._normalised(node, partner, factors[0], by_leaf)
        if isinstance(law, Contraction) and node.op == "call_module" and len(factors) == 1:
            operands = [factors[0], by_leaf.pop("weight", 1.0)]
            bias = by_leaf.pop("bias", None)
            if by_leaf:
                raise Unproved("a layer with more parameters was rescaled")
        elif isinstance(law, Contraction) and node.op == "call_function" and len(factors) in (2, 3):
            operands, bias = factors[:2], factors[2] if len(factors) == 3 else None
        else:
            raise Unproved(f"no rule says what {node.target} makes of rescaled operands")
        factor = operands[0] * operands[1]
        if bias is not None and not _is_one(bias / factor):
            raise Unproved(f"its bias is multiplied by {bias:.9g}, what it is added to by {factor:.9g}")
        return 1.0 if _is_one(factor) else factor

    def _normalised(self, node: fx.Node, partner: fx.Node, factor: float, own: dict[str, float]) -> float:
        """A batch norm of c x with mean c m, variance c^2 v and eps c^2 e is that of x."""
        path = str(node.target)
        before: Any = self.original.part(str(partner.target)).eps
        wanted = {"running_mean": factor, "running_var": factor**2}
        if factor <= 0:
            raise Unproved(f"its input is multiplied by {factor:.9g}")
        for name, value in own.items():
            if not _is_one(value / wanted.get(name, 1.0)):
                raise Unproved(
                    f"{path}.{name} is multiplied by {value:.9g}, it should be by {wanted.get(name, 1.0):.9g}"
                )
        after = self.intermediate.attributes.get(path, {}).get("eps", before)
        if not _is_one(after / (before * factor**2) if before else 1.0):
            raise Unproved(f"eps of {path} is {after:.9g}, it should be {before * factor**2:.9g}")
        return 1.0

    # -- writing in place ----------------------------------------------------------------------------------

    def _written(self, node: fx.Node, partner: fx.Node | None) -> None:
        """What shares storage with an operand that is written to is no longer what it was."""
        changed: set[fx.Node] = set()
        before = first_tensor(partner) if partner is not None and overwrites(self.original, partner) else None
        target = first_tensor(node) if overwrites(self.intermediate, node) else None
        if partner is not None and before is not None:
            changed |= self._changed(self.old, partner, before)
        if target is not None:
            held, after = self.held.get(target), self.held[node]
            if not (isinstance(held, Kept) and held.is_same(after)):
                changed |= self._changed(self.new, node, target)
        together = {pair for pair in self.together if changed.isdisjoint(pair)}
        if target is not None and before is not None and self._shown_alike(target, before):
            names = ((mine, self.named.get(mine.name)) for mine in changed)
            together |= {(mine, his) for mine, his in names if his in changed and self._still_same(mine, his)}
        self.together = together
        self.stale |= changed
        if partner is not None and before is not None:
            self.roots[before] = self.roots[partner]
        if target is not None:
            self.held[target] = self.held[node]

    def _changed(self, graph: fx.Graph, writer: fx.Node, target: fx.Node) -> set[fx.Node]:
        """What shows the storage that a node writes to and is read later."""
        last = self.last_use[graph]
        at = last[writer][0]
        group = self.sharing[graph].get(target, ())
        return {n for n in group if n is not target and n is not writer and last[n][0] < at < last[n][1]}

    def _still_same(self, new: fx.Node, old: fx.Node) -> bool:
        """Whether a node was the original's so far: then it is so after the same was written to both."""
        held, root = self.held.get(new), self.roots[old]
        if not isinstance(held, Kept) or held.node is not root.node or held.places is not None:
            return False
        if not self._shown_alike(new, old):
            return False
        fresh = new not in self.stale and old not in self.stale
        return _is_one(held.factor / root.factor) and (fresh or (new, old) in self.together)

    def _shown_alike(self, new: fx.Node, old: fx.Node) -> bool:
        """Whether a node shows the storage of nodes that have the same names in both models, by the same views."""
        if self.named.get(new.name) is not old:
            return False
        shown = may_show(self.intermediate, new), may_show(self.original, old)
        return len(shown[0]) == len(shown[1]) < 2 and all(map(self._shown_alike, *shown))


def proved_equivalent(original: Model, intermediate: Intermediate, mode: str) -> list[Step]:
    """That one graph of the intermediate model computes what the original's does, step by step."""
    return list(Alongside(original, intermediate, mode).steps())


def _is_one(factor: float) -> bool:
    return math.isclose(factor, 1.0, rel_tol=_ROUNDING)


def _said(held: Any) -> str:
    if isinstance(held, Kept):
        times = "" if _is_one(held.factor) else f" x {held.factor:.6g}"
        moved = ", entries moved" if held.places is not None else ""
        return f"{held.node} of the original{times}{moved}" if held.node is not None else "zero"
    if isinstance(held, tuple):
        return f"({', '.join(map(_said, held))})"
    return "one" if held is ONE else "anything"


def _last_uses(graph: fx.Graph) -> dict[fx.Node, tuple[int, int]]:
    """By node, its place in the order and that of the last node that reads it."""
    place = {node: k for k, node in enumerate(graph.nodes)}
    return {node: (k, max((place[user] for user in node.users), default=k)) for node, k in place.items()}
