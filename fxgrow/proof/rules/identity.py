"""Blocks that pass their input on: what their nodes make of a tensor of the original, of zeros, and of anything.

    x + 0 = x        1 x = x        0 w = 0        g (…) + b = 0 for g = b = 0        relu(x) = x for x >= 0

Zero and one start at parameters that are it, and go on through functions that keep it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.containers import flat_tensors
from fxgrow.noise import WithoutNoise
from fxgrow.proof.intermediate import Intermediate
from fxgrow.rules.calls import name_of, run
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.intervals import ANY, Interval, left_alone
from fxgrow.rules.law import Law
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import AddProduct, ParametricRelu, Pointwise
from fxgrow.rules.registry import law_of_call
from fxgrow.rules.shape import SHAPED_AS
from fxgrow.rules.spatial import PixelShuffle, Rearranged
from fxgrow.rules.windows import WindowAttention

_BROKEN = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, NotImplementedError)


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

    def made(self, node: fx.Node, given: dict[fx.Node, Any]) -> Made:
        """What a node makes of what its operands hold."""
        if node.op == "get_attr":
            name = str(node.target)
            if isinstance(node.meta.get("value"), Tensor) and self.intermediate.is_zero(name):
                return Made(ZERO, "values", (f"every entry of {name} is zero",))
            if isinstance(node.meta.get("value"), Tensor) and self.intermediate.is_one(name):
                return Made(ONE, "values", (f"every entry of {name} is one",))
            return Made(Anything(f"{name} is not zero"))
        if not any(True for _ in flat_tensors(node.meta.get("value"))):
            return Made(Anything("it is no tensor"))
        module = self.intermediate.part(str(node.target)) if node.op == "call_module" else None
        law = law_of_call(node, module)
        if law is None:
            return Made(Anything(f"{name_of(node, module)} has no rule"))
        tensors = {n: held for n, held in given.items() if any(True for _ in flat_tensors(n.meta.get("value")))}
        rules = (
            *(self._readout, self._sum, self._gain, self._zero, self._passing, self._moving, self._unit_map),
            *(self._silent_units, self._cut),
        )
        for rule in rules:
            try:
                found = rule(node, module, law, tensors)
            except _BROKEN:
                continue
            if found is not None and self._fits(node, found.value):
                return found
        free = next((held for held in tensors.values() if isinstance(held, Anything)), None)
        if free is not None and any(map(_is_input, tensors.values())) and _is_sum(node, module):
            added = next(operand for operand, held in tensors.items() if held is free)
            return Made(Anything(f"{added} is added to the input of a new block, and nothing says that it is zero"))
        reason = free.reason if free is not None else f"{name_of(node, module)} changes its input"
        return Made(Anything(reason))

    def _fits(self, node: fx.Node, held: Any) -> bool:
        """A tensor that is one of the original has its shape and dtype."""
        if not _is_input(held):
            return True
        value, before = node.meta["value"], held.node.meta["value"]
        if held.places is not None:
            return bool(value.shape == held.places.shape and value.dtype == before.dtype)
        return isinstance(before, Tensor) and bool(value.shape == before.shape and value.dtype == before.dtype)

    @staticmethod
    def _readout(node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """All units in their order, plus a map that is zero."""
        if node.target is not guards.readout:
            return None
        arguments: Any = node.args
        x, weight, dim, core = arguments
        units = [k for start, stop in core for k in range(start, stop)]
        whole = units == list(range(x.meta["value"].shape[dim]))
        if not (whole and _is_input(given[x]) and is_zero(given[weight])):
            return None
        return Made(given[x], "x + 0 x = x", (f"the core is all {len(units)} units", f"{weight} is zero"))

    # -- sums ----------------------------------------------------------------------------------------------

    def _sum(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """x + 0 = x."""
        name = name_of(node, module).strip("_")
        arguments = [*node.args, *(node.kwargs[k] for k in ("input", "other") if k in node.kwargs)]
        if isinstance(law, AddProduct):
            kept, *factors = (given.get(a) for a in arguments[:3])  # type: ignore[arg-type]
            zero = any(map(is_zero, factors))
            return Made(kept, "x + 0 = x", ("what is added is zero",)) if zero and _is_input(kept) else None
        if not _is_sum(node, module) or len(arguments) != 2:
            return None
        one, other = (given.get(a) if isinstance(a, fx.Node) else None for a in arguments)
        if _is_input(one) and is_zero(other):
            return Made(one, "x + 0 = x", (f"{arguments[1]} is zero",))
        if _is_input(other) and is_zero(one) and "sub" not in name and node.kwargs.get("alpha", 1) == 1:
            return Made(other, "0 + x = x", (f"{arguments[0]} is zero",))
        return None

    def _gain(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """1 x = x, and ones that are moved or seen in another shape stay ones."""
        if law.family == "shape" and given and all(held is ONE for held in given.values()):
            return Made(_shaped(node.meta["value"], lambda value: ONE), "1 stays 1")
        if not isinstance(law, Pointwise) or law.kind != "multiply" or len(given) != 2:
            return None
        (one, held), (other, beside) = given.items()
        if held is ONE:
            (one, held), (other, beside) = (other, beside), (one, held)
        return Made(held, "1 x = x", (f"{other} is one",)) if beside is ONE and _is_input(held) else None

    # -- zeros ---------------------------------------------------------------------------------------------

    def _zero(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """Zero by its parameters, or from zeros."""
        x = next(iter(given.values()), None)
        if isinstance(law, Contraction) or law.family == "contraction":
            return self._zero_product(node, module, law, given)
        if law.family == "normalisation":
            return self._zero_norm(node, module, law, given, x)
        if isinstance(law, WindowAttention):
            return self._if_zero(node, given, ((2, "proj_weight"), (10, "proj_bias")))
        if law.family == "attention":
            return self._if_zero(node, given, ((2, "value"),))
        kind = law.kind if isinstance(law, Pointwise) else ""
        if isinstance(law, ParametricRelu) or kind == "divide":
            return Made(ZERO, "0 stays 0") if is_zero(x) and isinstance(node.args[0], fx.Node) else None
        if kind == "multiply":
            return Made(ZERO, "0 x = 0") if any(map(is_zero, given.values())) else None
        read = dict(list(given.items())[:1]) if name_of(node, module) in SHAPED_AS else given
        if not read or not all(map(is_zero, read.values())):
            return None
        zeros = {operand: _shaped(operand.meta["value"], _zeros) for operand in given}
        result = self._run(node, module, zeros)
        silent = all(not bool(tensor.any()) for tensor in flat_tensors(result))
        return Made(_shaped(node.meta["value"], lambda value: ZERO), "0 stays 0") if silent else None

    def _zero_product(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        if module is not None:
            own = dict(module.named_parameters(recurse=False))
            if set(own) - {"weight", "bias"}:
                return None
            names = [f"{node.target}.{name}" for name in own]
            if is_zero(next(iter(given.values()))):
                names = [name for name in names if name.endswith(".bias")]
            return self._by_parameters(names)
        if isinstance(law, Contraction) and law.bias is not None:  # functions with a bias
            parts = [self._argument(node, given, *place) for place in ((0, "input"), (1, "weight"), (2, "bias"))]
            silent = any(map(is_zero, parts[:2])) and (parts[2] is None or is_zero(parts[2]))
            return Made(ZERO, "0 w = 0") if silent else None
        return Made(ZERO, "0 w = 0") if any(map(is_zero, given.values())) else None

    def _zero_norm(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any], x: Any) -> Made | None:
        if module is None:
            name = name_of(node, module)
            if name not in _AFFINE:
                return None
            gain, bias = (self._argument(node, given, *place) if place else None for place in _AFFINE[name])
            return Made(ZERO, "0 x + 0 = 0") if is_zero(gain) and (bias is None or is_zero(bias)) else None
        if getattr(module, "weight", None) is None:
            return None
        names = [f"{node.target}.{name}" for name in ("weight", "bias") if getattr(module, name, None) is not None]
        found = self._by_parameters(names)
        if found is None or not isinstance(law, BatchNorm) or law.activation is None:
            return found
        with torch.no_grad():
            after = getattr(module, law.activation)(torch.zeros(1, dtype=torch.float64))
        return found if not bool(after.any()) else None

    def _by_parameters(self, names: list[str]) -> Made | None:
        if not all(map(self.intermediate.is_zero, names)):
            return None
        return Made(ZERO, "0 x + 0 = 0", (f"every entry of {' and '.join(names)} is zero",) if names else ())

    def _if_zero(self, node: fx.Node, given: dict[fx.Node, Any], places: tuple[tuple[int, str], ...]) -> Made | None:
        found = [self._argument(node, given, *place) for place in places]
        silent = is_zero(found[0]) and all(one is None or is_zero(one) for one in found[1:])
        return Made(ZERO, "0 stays 0") if silent else None

    @staticmethod
    def _argument(node: fx.Node, given: dict[fx.Node, Any], place: int, name: str) -> Any:
        """What an argument holds; None where it is not given."""
        found = node.args[place] if len(node.args) > place else node.kwargs.get(name)
        return given.get(found) if isinstance(found, fx.Node) else found

    # -- the input of the block ----------------------------------------------------------------------------

    def _passing(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """A function that does nothing to its one operand: linear with f(1) = 1, or f(x) = x on its range."""
        if not isinstance(law, Pointwise | ParametricRelu) or len(given) != 1:
            return None
        ((operand, held),) = given.items()
        if not _is_input(held):
            return None
        if isinstance(law, Pointwise) and law.kind == "linear":
            one = _shaped(operand.meta["value"], lambda value: torch.ones((1,) * value.ndim, dtype=torch.float64))
            result = self._run(node, module, {operand: one})
            return Made(held, "f(x) = x") if bool((result == 1).all()) else None
        span = left_alone(type(module) if module is not None else node.target, module, node)
        low, high = self.intervals.get(held.node, ANY)
        if span is None or held.factor != 1.0 or low < span[0] or high > span[1]:
            return None
        within = f"from {span[0]:g} to {span[1]:g}" if span[1] < torch.inf else "never negative"
        return Made(held, f"{name_of(node, module)}(x) = x", (f"{held.node} of the original is {within}",))

    def _moving(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """Views, permutations, cuts and joins, carried out on the places of entries."""
        moves = law.family == "shape" or isinstance(law, Rearranged | PixelShuffle)
        if not moves or not given or name_of(node, module) == "setitem" or not all(map(_is_input, given.values())):
            return None
        sources = {(held.node, held.factor) for held in given.values()}
        if len(sources) != 1:
            return None
        places = {
            operand: held.places if held.places is not None else _numbered(operand.meta["value"])
            for operand, held in given.items()
        }
        moved = self._run(node, module, places)
        ((source, factor),) = sources

        def kept(tensor: Tensor) -> Kept:
            whole = tensor.shape == source.meta["value"].shape and torch.equal(tensor, _numbered(tensor))
            return Kept(source, factor, None if whole else tensor)

        return Made(_shaped(moved, kept), "moves entries")

    def _unit_map(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """A layer whose weight is an identity map, and which adds nothing."""
        held = next(iter(given.values()), None)
        if node.op != "call_module" or not _is_input(held) or len(given) != 1 or not isinstance(law, Contraction):
            return None
        if set(dict(module.named_parameters(recurse=False))) - {"weight", "bias"} or not _can_pass(module):
            return None
        weight = self.intermediate.tensor(f"{node.target}.weight")
        bias = f"{node.target}.bias"
        if (
            weight is None
            or not _is_unit_map(weight)
            or (module.bias is not None and not self.intermediate.is_zero(bias))
        ):
            return None
        checked = f"{node.target}.weight is an identity map" + (f", {bias} zero" if module.bias is not None else "")
        return Made(held, "1 x = x", (checked,))

    def _silent_units(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """A layer some of whose units have no weights."""
        if node.op != "call_module" or not isinstance(law, Contraction):
            return None
        own = dict(module.named_parameters(recurse=False))
        rows = [self.intermediate.silent_rows(f"{node.target}.{name}") for name in own]
        if set(own) - {"weight", "bias"} or not rows or any(row is None for row in rows):
            return None
        value = node.meta["value"]
        axis = value.ndim - 1 if isinstance(module, nn.Linear) else 1
        zero = torch.stack([row for row in rows if row is not None]).all(0).cpu()
        return Made(
            PartlyZero(f"{node.target} is not zero", zero.reshape([-1 if k == axis else 1 for k in range(value.ndim)])),
            "0 x + 0 = 0",
            (f"{int(zero.sum())} rows of {' and '.join(own)} of {node.target} are zero",),
        )

    def _cut(self, node: fx.Node, module: Any, law: Law, given: dict[fx.Node, Any]) -> Made | None:
        """What is cut out of a tensor where it is zero."""
        ((operand, held), *others) = given.items()
        if not isinstance(held, PartlyZero) or others or node.target is not operator.getitem:
            return None
        cut = self._run(node, module, {operand: held.zero.expand(operand.meta["value"].shape)})
        return Made(ZERO, "0 stays 0") if bool(cut.all()) else None

    def _run(self, node: fx.Node, module: nn.Module | None, values: dict[fx.Node, Any]) -> Any:
        """What a node does to other values than its own; numbers are those of the graph."""

        def put(operand: fx.Node) -> Any:
            value = values.get(operand, operand.meta["value"])
            return value.clone() if isinstance(value, Tensor) else value

        args, kwargs = (fx.node.map_arg(raw, put) for raw in (list(node.args), dict(node.kwargs)))
        with WithoutNoise(), torch.random.fork_rng(devices=[]):
            return run(node, module, args, kwargs)


_AFFINE: dict[str, tuple[tuple[int, str] | None, tuple[int, str] | None]] = {
    "batch_norm": ((3, "weight"), (4, "bias")),
    "layer_norm": ((2, "weight"), (3, "bias")),
    "group_norm": ((2, "weight"), (3, "bias")),
    "rms_norm": ((2, "weight"), None),
    "standardize": ((1, "weight"), (2, "bias")),
}
"""Where functions that normalise take their gain and their bias."""


def _is_sum(node: fx.Node, module: nn.Module | None) -> bool:
    return name_of(node, module).strip("_") in ("add", "iadd", "sub", "isub")


def _shaped(value: Any, make: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_shaped(item, make) for item in value)
    return make(value)


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64).expand(value.shape)


def _numbered(value: Tensor) -> Tensor:
    return torch.arange(1, value.numel() + 1).reshape(value.shape)


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


def _can_pass(module: Any) -> bool:
    """Whether a layer that maps units to themselves leaves space as it is."""
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or set(module.stride) != {1}:
        return False
    odd = all(kernel % 2 == 1 for kernel in module.kernel_size)
    centred = module.padding == "same" or (
        not isinstance(module.padding, str)
        and all(
            2 * pad == dilation * (kernel - 1)
            for pad, dilation, kernel in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    )
    return odd and centred and module.in_channels == module.out_channels
