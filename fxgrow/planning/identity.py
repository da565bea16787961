"""How a block becomes an identity: which of its tensors start at zero, and on which conditions.

Two questions, asked of each node from the block's output backwards: can this be made equal to what entered
the block (`_same`), and can this be made zero in such a way that it learns again (`_silent`)?
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fxgrow.modules.containers import along, flat_tensors
from fxgrow.planning.analysis import module_of
from fxgrow.rules.calls import Call, at_zero, name_of, places_of, reached, tensor_operands, writes
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.convolution import DIRAC, can_be_identity
from fxgrow.rules.intervals import ANY, Interval, left_alone
from fxgrow.rules.law import Terms
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_call, shown_by


@dataclass(frozen=True)
class Identity:
    """Tensors of a block that start at zero, as an identity map, or at one, and facts it rests on.

    rows: stretches of the first axis of tensors that start at zero: name, start and stop.
    """

    zero: tuple[str, ...] = ()
    dirac: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    rows: tuple[tuple[str, int, int], ...] = ()

    @property
    def gates(self) -> tuple[str, ...]:
        """Tensors that start at zero, whole or in part."""
        return (*self.zero, *(name for name, _, _ in self.rows))

    def __add__(self, other: Identity) -> Identity:
        each = (field.name for field in fields(self))
        return Identity(**{name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name)))) for name in each})


class Stuck(Exception):
    """No weights make it so, and why."""


@dataclass
class BlockGraph:
    """A part of a graph to be made an identity.

    inside: its nodes. entry, exit: the values it takes and gives. own: the name that it has for a tensor by any of its
    names, "" for one that is another part's.
    interval: what is known of what will enter a copy of it: what leaves the block, as a copy follows it.
    """

    model: nn.Module
    inside: Collection[fx.Node]
    entry: fx.Node
    exit: fx.Node
    own: Callable[[str], str]
    interval: Interval
    _known: dict[tuple[str, fx.Node | str], Any] = field(default_factory=dict)

    def identity(self) -> Identity:
        """How the block becomes an identity.

        Raises
        ------
        Stuck: it cannot, with the reason.
        """
        before, after = self.entry.meta["value"], self.exit.meta["value"]
        if before.shape != after.shape or before.dtype != after.dtype:
            raise Stuck("its output has another shape than its input")
        identity, moved = self._same(self.exit)
        if moved is not None and not torch.equal(moved, places_of(before)):
            raise Stuck("it puts its input in another order")
        if not identity.gates and not identity.dirac:
            raise Stuck("it has no parameters of its own")
        return identity

    def passing_on(self, parts: Sequence[fx.Node], axis: int) -> Identity:
        """How values that the block gives, one behind the other along an axis, become its input.

        Raises
        ------
        Stuck: they cannot, with the reason.
        """
        before, identity, moved = places_of(self.entry.meta["value"]), Identity(), []
        for part in parts:
            more, places = self._same(part)
            identity = identity + more
            moved.append(before if places is None else places)
        if not torch.equal(torch.cat(moved, axis), before):
            raise Stuck("it puts its input in another order")
        return identity

    # -- equal to the entry ------------------------------------------------------------------------------

    def _same(self, node: fx.Node) -> tuple[Identity, Tensor | None]:
        """How a node comes to hold the entries of the block's input, and where each of them was (None: there)."""
        result: tuple[Identity, Tensor | None] = self._asked("same", node, self._same_of)
        return result

    def _same_of(self, node: fx.Node) -> tuple[Identity, Tensor | None]:
        if node is self.entry:
            return Identity(), None
        if node not in self.inside or node.op == "get_attr":
            raise Stuck("its output is not its input plus a branch")
        call = self._call(node)
        if call is None or not call.operands():
            raise Stuck(f"{self._name(node)} has no rule")
        terms = call.terms()
        if terms is not None and terms.passed:
            return self._same_rest(call, terms)
        if isinstance(call.law, Pointwise) and len(call.operands()) == 1:
            return self._same_function(call)
        if call.law.moves:
            return self._same_rearranged(call)
        if type(call.module) in DIRAC:
            return self._same_contraction(call)
        if isinstance(call.law, BatchNorm):
            text = "normalises by the batch in train mode, so no weights make it an identity"
            raise Stuck(f"{call.name} {text}")
        raise Stuck(f"{call.name} stands between its input and its output")

    def _same_rest(self, call: Call, terms: Terms) -> tuple[Identity, Tensor | None]:
        """One operand is the input; other summands are silent, other factors start at one by what is its own."""
        text = f"{call.name} stands between its input and its output"
        stuck = Stuck("its output is not its input plus a branch" if terms.added else text)
        for passed in terms.passed:
            if passed.meta["value"].shape != call.node.meta["value"].shape:
                continue
            zeros, ones = terms.beside(passed)
            gains = [gain for operand in ones if (gain := self._one(operand)) is not None]
            if len(gains) < len(ones):
                continue
            try:
                identity, moved = self._same(passed)
            except Stuck as reason:
                stuck = reason if passed is terms.passed[0] or gains else stuck
                continue
            try:
                return sum(gains, start=identity) + self._first_of(zeros), moved
            except Stuck as reason:
                stuck = reason
        raise stuck

    def _one(self, node: fx.Node) -> Identity | None:
        """How a node comes to be one: the block's own parameter, seen through views, or one less such a parameter."""
        zero = False
        while node.op != "get_attr":
            call = self._call(node)
            if call is None or len(call.operands()) != 1:
                return None
            if call.name == "sub" and call.raw(0, "input") == 1 and not zero:
                zero = True
            elif not call.law.moves:
                return None
            node = call.operands()[0]
        name = self.own(str(node.target))
        if name not in self._learnable:
            return None
        return Identity(zero=(name,)) if zero else Identity(ones=(name,))

    @cached_property
    def _learnable(self) -> set[str]:
        return {name for name, _ in self.model.named_parameters(remove_duplicate=False)}

    def _same_function(self, call: Call) -> tuple[Identity, Tensor | None]:
        """A function that does nothing to numbers like those that enter."""
        identity, moved = self._same(call.operands()[0])
        span = left_alone(call)
        if span is None or self.interval.low < span.low or self.interval.high > span.high:
            raise Stuck(f"{call.name} acts on its output and is not idempotent there")
        return (identity if span == ANY else identity + Identity(facts=(f"its input is {self.interval}",))), moved

    def _same_rearranged(self, call: Call) -> tuple[Identity, Tensor | None]:
        """A view, a permutation, a cut or a join: carried out on the places of entries."""
        identity, positions = Identity(), {}
        for operand in call.operands():
            more, moved = self._same(operand)
            identity = identity + more
            positions[operand] = places_of(operand.meta["value"]) if moved is None else moved
        placed = call.run(positions)
        if placed is None:
            raise Stuck(f"{call.name} stands between its input and its output")
        return identity, placed

    def _same_contraction(self, call: Call) -> tuple[Identity, Tensor | None]:
        """A linear layer or a convolution whose weight is an identity map."""
        (operand,), own = call.operands(), [call.weight(k, name) for k, name in ((1, "weight"), (2, "bias"))]
        zero = tuple(self.own(str(name)) for name in own[1:] if name is not None)
        weight = self.own(str(own[0]))
        if not weight or not all(zero):
            raise Stuck(f"the weight of {call.name} is another part's")
        if operand.meta["value"].shape != call.node.meta["value"].shape or not can_be_identity(call.module):
            raise Stuck(f"{call.name} changes the shape of its input")
        identity, moved = self._same(operand)
        if moved is not None:
            raise Stuck(f"{call.name} takes its input in another order")
        return identity + Identity(zero, (weight,)), None

    # -- silent ------------------------------------------------------------------------------------------

    def _silent(self, term: fx.Node | str) -> Identity:
        """How a node, or a parameter by its name, comes to be zero, with a gradient that reaches what is set to it."""
        identity: Identity = self._asked("silent", term, self._silent_of)
        return identity

    def _silent_of(self, term: fx.Node | str) -> Identity:
        if isinstance(term, str) or term.op == "get_attr":
            name, place = (term, term.rpartition(".")[0]) if isinstance(term, str) else (str(term.target),) * 2
            if not self.own(name):
                raise Stuck(f"its branch ends in {place}, which is another part's")
            return Identity((self.own(name),))
        if term not in self.inside:
            raise Stuck("its branch ends in a value from outside")
        call = self._call(term)
        if call is None:
            raise Stuck(f"its branch ends in {self._name(term)}, which has no rule")
        terms = call.terms()
        if terms is None:
            weightless = call.law.family in ("contraction", "normalisation")
            text = call.law.why_loud or ("has no weights of its own" if weightless else "cannot be silenced")
            raise Stuck(f"its branch ends in {call.name}, which {text}")
        if call.law.moves and (rows := self._rows(call)):
            return Identity(rows=rows)
        if getattr(call.law, "kind", "") == "divide" and any(node in self.inside for node in call.operands()[1:]):
            raise Stuck(f"its branch ends in {call.name} by what the block computes, which would be zero, too")
        if terms.after is not None and not _lets_gradients_through(at_zero(terms.after)):
            raise Stuck(f"its branch ends in {type(terms.after).__name__}, which is flat at zero")
        if isinstance(call.law, Pointwise) and not terms.passed and not terms.factors:
            if len(terms.added) > 1:
                raise Stuck(f"its branch ends in {call.name}, which cannot be silenced")
            if not _lets_gradients_through(call.at_zero()):
                raise Stuck(f"its branch ends in {call.name}, which does not keep zeros or is flat there")
        elif terms.tried and not call.keeps_zero():
            raise Stuck(f"its branch ends in {call.name}, which does not keep zeros")
        factors = sorted(terms.factors, key=lambda factor: not self._parametric(factor))
        return self._first_of(replace(terms, factors=factors).silencing())

    def _rows(self, call: Call) -> tuple[tuple[str, int, int], ...]:
        """The rows of a layer's weight that make what a node cuts out, if other nodes read the rest."""
        layer = call.operands()[0]
        if layer.op != "call_module" or layer not in self.inside or len(layer.users) < 2:
            return ()
        module: Any = self.model.get_submodule(str(layer.target))
        law = law_of_call(layer, module)
        making = law.making(module.weight.ndim) if type(module) in DIRAC and isinstance(law, Contraction) else None
        if making is None or call.node.target is not operator.getitem:
            return ()
        shape = layer.meta["value"].shape
        axis = len(shape) + making[1]
        units = along(torch.arange(shape[axis]), axis, len(shape)).expand(shape)
        cut = torch.unique(call.run({layer: units}))
        start, stop = int(cut[0]), int(cut[-1]) + 1
        if len(cut) == shape[axis] or len(cut) != stop - start:
            return ()
        names = [f"{layer.target}.{name}" for name, _ in module.named_parameters(recurse=False)]
        return tuple((name, start, stop) for name in self._all_silent(names).zero)

    def _all_silent(self, some: Sequence[fx.Node | str]) -> Identity:
        return sum(map(self._silent, some), start=Identity())

    def _first_of(self, alternatives: list[list[fx.Node | str]]) -> Identity:
        stuck: Stuck | None = None
        for some in alternatives:
            try:
                return self._all_silent(some)
            except Stuck as reason:
                stuck = stuck or reason
        raise stuck or Stuck("its branch cannot be silenced")

    def _parametric(self, term: fx.Node | str) -> bool:
        """Whether a term is a parameter of the block, or made from such parameters alone."""
        if isinstance(term, str) or term.op == "get_attr":
            return bool(self.own(term if isinstance(term, str) else str(term.target)))
        operands = tensor_operands(term)
        return term.op in ("call_function", "call_method") and bool(operands) and all(map(self._parametric, operands))

    # -- means -------------------------------------------------------------------------------------------

    def _asked(self, question: str, node: fx.Node | str, answer: Callable[[Any], Any]) -> Any:
        """Each question is answered once; what is written into the node later is asked, too."""
        key = (question, node)
        if key not in self._known:
            self._known[key] = Stuck("it writes in circles")
            try:
                self._known[key] = answer(node)
                for write in self._writes.get(cast(fx.Node, node), ()):
                    self._known[key] = self._written(question, write, self._known[key])
            except Stuck as reason:
                self._known[key] = reason
        if isinstance(self._known[key], Stuck):
            raise self._known[key]
        return self._known[key]

    def _written(self, question: str, write: fx.Node, before: Any) -> Any:
        """An answer, after something has been written into a part of the node."""
        setting = _sets_items(write)
        value = write.args[2] if setting else write
        if question == "silent":
            return before + (self._silent(value) if isinstance(value, fx.Node) else Identity())
        identity, moved = before
        if not isinstance(value, fx.Node):
            raise Stuck("it writes a number into its input")
        more, places = self._same(value)
        if setting:
            base, index = cast(Any, fx.node.map_arg(write.args[:2], lambda node: node.meta["value"]))
            if next(flat_tensors(index), None) is not None:
                raise Stuck("it writes into its input at places that are worked out")
            wanted = (places_of(base) if moved is None else moved)[index]
        else:
            region = self._same(cast(fx.Node, write.args[0]))[1]
            wanted = places_of(write.meta["value"]) if region is None else region
        places = places_of(value.meta["value"]) if places is None else places
        if not torch.equal(wanted, places):
            raise Stuck("it writes something else into its input")
        return identity + more, moved

    @cached_property
    def _writes(self) -> dict[fx.Node, list[fx.Node]]:
        """What writes into a part of a tensor that is read again, by the node that made this.

        What writes into all of it is the tensor.
        """
        by_tensor: dict[fx.Node, list[fx.Node]] = {}
        for node in self.inside:
            if writes(node, module_of(self.model, node)) and node.args and isinstance(node.args[0], fx.Node):
                made = self._made(node.args[0])
                if (made is not node.args[0] or _sets_items(node)) and self._is_read_after(made, node):
                    by_tensor.setdefault(made, []).append(node)
        return by_tensor

    def _made(self, node: fx.Node) -> fx.Node:
        return shown_by(node, partial(module_of, self.model), self.entry)

    def _is_read_after(self, made: fx.Node, write: fx.Node) -> bool:
        """Whether a node reads a tensor, or a view of it, after what was written; what `write` gives is no view."""
        views = reached([made], lambda node: [u for u in node.users if u is not write and self._made(u) is made])
        return any(write < user for view in views for user in view.users)

    def _call(self, node: fx.Node) -> Call | None:
        module = module_of(self.model, node)
        law = law_of_call(node, module)
        return Call(node, module, law) if law is not None else None

    def _name(self, node: fx.Node) -> str:
        return name_of(node, module_of(self.model, node))


def _sets_items(node: fx.Node) -> bool:
    """Whether a node is `x[...] = y`."""
    return name_of(node).strip("_") == "setitem"


def _lets_gradients_through(at_origin: tuple[Tensor, Tensor] | None) -> bool:
    """Whether a function keeps zero and has a slope there, by what it gives at zero and its slope."""
    return at_origin is not None and not bool(at_origin[0].any()) and bool(at_origin[1].all())
