"""Blocks that pass their input on: what their nodes make of a tensor of the original, of zeros, and of anything.

    x + 0 = x        1 x = x        0 w = 0        g (…) + b = 0 for g = b = 0        relu(x) = x for x >= 0

Zero and one come from parameters with these values, and pass through functions that keep them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxgrow import guards
from fxgrow.modules.containers import along, holds_tensor
from fxgrow.proof.intermediate import Intermediate
from fxgrow.rules.calls import BROKEN, Call, name_of, places_of
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.convolution import can_be_identity
from fxgrow.rules.intervals import ANY, Interval, left_alone
from fxgrow.rules.registry import law_of_call


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor that is a number times one of the original; without a node, zero.

    places: where each entry was, counted from 1 (0: a zero put between), in the shape of the tensor; None: in order.
    """

    node: fx.Node | None
    factor: float = 1.0
    places: Tensor | None = None

    def times(self, factor: float) -> Kept:
        return replace(self, factor=self.factor * factor)

    def is_same(self, other: Any) -> bool:
        alike = isinstance(other, Kept) and other.node is self.node and other.factor == self.factor
        return alike and self.places is None and other.places is None


ZERO = Kept(None)


@dataclass(frozen=True)
class Ones:
    """A tensor all of whose entries are one."""


ONE = Ones()


@dataclass(frozen=True)
class Anything:
    """A tensor of which nothing is known, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class PartlyZero(Anything):
    """A tensor of which some units are zero. zero: which ones, in a shape that broadcasts to the tensor's."""

    zero: Tensor


@dataclass(frozen=True)
class Made:
    """What a node makes; by which rule, if it is worth saying, and what was checked for it."""

    value: Any
    rule: str = ""
    conditions: tuple[str, ...] = ()


def is_zero(held: Any) -> bool:
    return isinstance(held, Kept) and held.node is None


def _is_input(held: Any) -> bool:
    return isinstance(held, Kept) and held.node is not None


class Maker:
    """The rules for nodes of new blocks. intervals: of the tensors of the original."""

    def __init__(self, intermediate: Intermediate, intervals: dict[fx.Node, Interval]) -> None:
        self.intermediate = intermediate
        self.intervals = intervals

    def made(self, node: fx.Node, operands: dict[fx.Node, Any]) -> Made:
        """What a node makes of what its operands hold."""
        if node.op == "get_attr":
            name = str(node.target)
            if isinstance(node.meta.get("value"), Tensor) and self.intermediate.is_zero(name):
                return Made(ZERO, "values", (f"every entry of {name} is zero",))
            if isinstance(node.meta.get("value"), Tensor) and self.intermediate.is_one(name):
                return Made(ONE, "values", (f"every entry of {name} is one",))
            return Made(Anything(f"{name} is not zero"))
        if not holds_tensor(node.meta.get("value")):
            return Made(Anything("it is no tensor"))
        source = operands.get(node.args[0]) if node.target is operator.getitem else None  # type: ignore[arg-type]
        if isinstance(source, tuple) and isinstance(node.args[1], int):
            return Made(source[node.args[1]])
        module = self.intermediate.part(str(node.target)) if node.op == "call_module" else None
        law = law_of_call(node, module)
        if law is None:
            return Made(Anything(f"{name_of(node, module)} has no rule"))
        call = Call(node, module, law)
        tensors = {operand: operands[operand] for operand in call.operands()}
        rules = (self._readout, self._rest, self._ones, self._zero, self._passing, self._moving, self._unit_map)
        for rule in (*rules, self._silent_units, self._cut):
            try:
                outcome = rule(call, tensors)
            except BROKEN:
                continue
            if outcome is not None and self._fits(node, outcome.value):
                return outcome
        free = next((operand for operand, held in tensors.items() if isinstance(held, Anything)), None)
        if free is None:
            return Made(Anything(f"{call.name} changes its input"))
        terms = call.terms()
        if any(map(_is_input, tensors.values())) and terms is not None and set(terms.passed) & set(terms.added):
            return Made(Anything(f"{free} is added to the input of a new block, and nothing says that it is zero"))
        return Made(Anything(tensors[free].reason))

    def _fits(self, node: fx.Node, held: Any) -> bool:
        """A tensor that is one of the original has its shape and dtype."""
        if not _is_input(held):
            return True
        value, before = node.meta["value"], held.node.meta["value"]
        if held.places is not None:
            return bool(value.shape == held.places.shape and value.dtype == before.dtype)
        return isinstance(before, Tensor) and bool(value.shape == before.shape and value.dtype == before.dtype)

    @staticmethod
    def _readout(call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """All units in their order, plus a map that is zero."""
        if call.node.target is not guards.readout:
            return None
        arguments: Any = call.node.args
        x, weight, dim, core = arguments
        units = [k for start, stop in core for k in range(start, stop)]
        whole = units == list(range(x.meta["value"].shape[dim]))
        if not (whole and _is_input(operands[x]) and is_zero(operands[weight])):
            return None
        return Made(operands[x], "x + 0 x = x", (f"the core is all {len(units)} units", f"{weight} is zero"))

    # -- sums and products ---------------------------------------------------------------------------------

    @staticmethod
    def _rest(call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """x + 0 = x, 1 x = x: what an op gives where nothing else is left."""
        terms = call.terms()
        for kept in terms.passed if terms is not None else ():
            zeros, ones = terms.beside(kept)  # type: ignore[union-attr]
            silent = next((some for some in zeros if all(is_zero(operands[operand]) for operand in some)), None)
            if _is_input(operands[kept]) and silent is not None and all(operands[operand] is ONE for operand in ones):
                checked = (*(f"{operand} is zero" for operand in silent), *(f"{operand} is one" for operand in ones))
                return Made(operands[kept], "1 x = x" if ones else "x + 0 = x", checked)
        return None

    @staticmethod
    def _ones(call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """Ones that are moved or seen in another shape stay ones; one less zero is one."""
        if call.name == "sub" and call.raw(0, "input") == 1 and all(map(is_zero, operands.values())):
            return Made(ONE, "1 - 0 = 1")
        if not call.law.moves or not operands or any(held is not ONE for held in operands.values()):
            return None
        return Made(_shaped(call.node.meta["value"], lambda value: ONE), "1 stays 1")

    def _zero(self, call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """Zero by its parameters, or from zeros."""
        terms = call.terms()
        if terms is None or (terms.after is not None and bool(terms.after(torch.zeros(1, dtype=torch.float64)).any())):
            return None
        for some in terms.silencing():
            names = [operand for operand in some if isinstance(operand, str)]
            if not all(map(self.intermediate.is_zero, names)):
                continue
            if all(is_zero(operands[operand]) for operand in some if isinstance(operand, fx.Node)):
                if (terms.tried and not call.keeps_zero()) or not self._has_norms(terms.over):
                    return None
                checked = (f"every entry of {' and '.join(names)} is zero",) if names else ()
                rule = "0 stays 0" if not terms.factors else "0 w = 0" if len(some) == 1 else "0 x + 0 = 0"
                return Made(_shaped(call.node.meta["value"], lambda value: ZERO), rule, checked)
        return None

    def _has_norms(self, over: tuple[Any, int] | None) -> bool:
        """Whether no row of what is divided by its norm is zero, which would make it no number."""
        if over is None:
            return True
        operand, axis = over
        is_read = isinstance(operand, fx.Node) and operand.op == "get_attr"
        tensor = self.intermediate.tensor(str(operand.target) if is_read else str(operand))
        return tensor is not None and bool(tensor.transpose(0, axis).flatten(1).any(1).all())

    # -- the input of the block ----------------------------------------------------------------------------

    def _passing(self, call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """A function that does nothing to its one operand: f(x) = x on its range."""
        held: Any = next(iter(operands.values()), None)
        span = left_alone(call)
        if not _is_input(held) or span is None:
            return None
        if span == ANY:
            return Made(held, "f(x) = x")
        low, high = self.intervals.get(held.node, ANY)
        if held.factor != 1.0 or low < span.low or high > span.high:
            return None
        within = f"from {span.low:g} to {span.high:g}" if span.high < torch.inf else "never negative"
        return Made(held, f"{call.name}(x) = x", (f"{held.node} of the original is {within}",))

    @staticmethod
    def _moving(call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """Views, permutations, cuts and joins, carried out on the places of entries."""
        if not call.law.moves or not operands or not all(map(_is_input, operands.values())):
            return None
        sources = {(held.node, held.factor) for held in operands.values()}
        if len(sources) != 1:
            return None
        places = {
            operand: held.places if held.places is not None else places_of(operand.meta["value"])
            for operand, held in operands.items()
        }
        moved = call.run(places)
        ((source, factor),) = sources

        def kept(tensor: Tensor) -> Kept:
            whole = tensor.shape == source.meta["value"].shape and torch.equal(tensor, places_of(tensor))
            return Kept(source, factor, None if whole else tensor)

        return Made(_shaped(moved, kept), "moves entries")

    def _unit_map(self, call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """A layer whose weight is an identity map, and which adds nothing."""
        held = next(iter(operands.values()), None)
        if not _is_input(held) or len(operands) != 1 or not isinstance(call.law, Contraction):
            return None
        name, bias = call.weight(1, "weight"), call.weight(2, "bias")
        fits = _has_no_more(call) and can_be_identity(call.module)
        weight = self.intermediate.tensor(str(name)) if fits else None
        if weight is None or not _is_unit_map(weight):
            return None
        if bias is not None and not self.intermediate.is_zero(str(bias)):
            return None
        checked = f"{name} is an identity map" + (f", {bias} zero" if bias is not None else "")
        return Made(held, "1 x = x", (checked,))

    def _silent_units(self, call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """A layer some of whose units have no weights."""
        node, module = call.node, call.module
        weight = getattr(module, "weight", None)
        making = call.law.making(weight.ndim) if isinstance(call.law, Contraction) and weight is not None else None
        if module is None or making is None or making[0] != 0:
            return None
        own = dict(module.named_parameters(recurse=False))
        rows = [self.intermediate.silent_rows(f"{node.target}.{name}") for name in own]
        if not _has_no_more(call) or not rows or any(row is None for row in rows):
            return None
        rank = node.meta["value"].ndim
        zero = torch.stack([row for row in rows if row is not None]).all(0).cpu()
        return Made(
            PartlyZero(f"{node.target} is not zero", along(zero, rank + making[1], rank)),
            "0 x + 0 = 0",
            (f"{int(zero.sum())} rows of {' and '.join(own)} of {node.target} are zero",),
        )

    @staticmethod
    def _cut(call: Call, operands: dict[fx.Node, Any]) -> Made | None:
        """What is cut out of a tensor where it is zero."""
        ((operand, held), *others) = operands.items()
        if not isinstance(held, PartlyZero) or others or call.node.target is not operator.getitem:
            return None
        cut = call.run({operand: held.zero.expand(operand.meta["value"].shape)})
        return Made(ZERO, "0 stays 0") if bool(cut.all()) else None


def _has_no_more(call: Call) -> bool:
    """Whether a layer has a weight and a bias and no other parameters."""
    return call.module is not None and not set(dict(call.module.named_parameters())) - {"weight", "bias"}


def _shaped(value: Any, make: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_shaped(item, make) for item in value)
    return make(value)


def _is_unit_map(weight: Tensor) -> bool:
    """Whether a weight `[out, in / groups, kernel]` is one at each unit's own place and zero elsewhere."""
    inside = weight.shape[1]
    wanted = torch.zeros_like(weight)
    at_centre = wanted
    for size in weight.shape[2:]:
        at_centre = at_centre.select(2, size // 2)
    units = torch.arange(weight.shape[0], device=weight.device)
    at_centre[units, units % inside] = 1
    return torch.equal(weight, wanted)
