"""How a block becomes an identity: which of its tensors start at zero, and what that rests on.

Two questions, asked of each node from the block's output backwards: can this be made equal to what entered
the block (`_same`), and can this be made zero in such a way that it learns again (`_silent`)?
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.containers import holds_tensor
from fxgrow.planning.analysis import law_of_node
from fxgrow.planning.sampling import applied, samples, tensor_operands
from fxgrow.rules.calls import name_of
from fxgrow.rules.intervals import ANY, Interval
from fxgrow.rules.law import Law
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.shape import SHAPED_AS
from fxgrow.rules.spatial import Rearranged
from fxgrow.rules.windows import WindowAttention

_GATES: dict[str, tuple[tuple[int, str], ...]] = {
    "linear": ((1, "weight"), (2, "bias")),
    "conv": ((1, "weight"), (2, "bias")),
    "batch_norm": ((3, "weight"), (4, "bias")),
    "layer_norm": ((2, "weight"), (3, "bias")),
    "rms_norm": ((2, "weight"),),
    "group_norm": ((2, "weight"), (3, "bias")),
    "shifted_window_attention": ((2, "proj_weight"), (10, "proj_bias")),
}
"""Functions whose output is zero where these arguments are: positions and names, bias last."""

DIRAC = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
class Block:
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
    _known: dict[tuple[str, fx.Node], Any] = field(default_factory=dict)

    def identity(self) -> Identity:
        """How the block becomes an identity.

        Raises
        ------
        Stuck: it cannot, with the reason.
        """
        before, after = self.entry.meta["value"], self.exit.meta["value"]
        if before.shape != after.shape or before.dtype != after.dtype:
            raise Stuck("its output has another shape than its input")
        found, moved = self._same(self.exit)
        if moved is not None and not torch.equal(moved, _places(before)):
            raise Stuck("it puts its input in another order")
        if not found.gates and not found.dirac:
            raise Stuck("it has no parameters of its own")
        return found

    def passing_on(self, parts: Sequence[fx.Node], axis: int) -> Identity:
        """How values that the block gives, one behind the other along an axis, become its input.

        Raises
        ------
        Stuck: they cannot, with the reason.
        """
        before, found, moved = _places(self.entry.meta["value"]), Identity(), []
        for part in parts:
            more, places = self._same(part)
            found = found + more
            moved.append(before if places is None else places)
        if not torch.equal(torch.cat(moved, axis), before):
            raise Stuck("it puts its input in another order")
        return found

    # -- equal to the entry ------------------------------------------------------------------------------

    def _same(self, node: fx.Node) -> tuple[Identity, Tensor | None]:
        """How a node comes to hold the entries of the block's input, and where each of them was (None: there)."""
        found: tuple[Identity, Tensor | None] = self._asked("same", node, self._same_of)
        return found

    def _same_of(self, node: fx.Node) -> tuple[Identity, Tensor | None]:
        if node is self.entry:
            return Identity(), None
        if node not in self.inside or node.op == "get_attr":
            raise Stuck("its output is not its input plus a branch")
        law, operands = law_of_node(self.model, node), tensor_operands(node)
        if law is None or not operands:
            raise Stuck(f"{self._name(node)} has no rule")
        if _is_sum(node) or _is_difference(node):
            return self._same_sum(node, operands)
        if isinstance(law, Pointwise) and law.kind == "multiply" and len(operands) == 2:
            return self._same_product(node, operands)
        if isinstance(law, Pointwise) and len(operands) == 1:
            return self._same_function(node, operands[0])
        if (law.family == "shape" or isinstance(law, Rearranged)) and not _is_write(node):
            return self._same_rearranged(node, operands)
        if node.op == "call_module" and type(self.model.get_submodule(str(node.target))) in DIRAC:
            return self._same_contraction(node, operands[0])
        if isinstance(law, BatchNorm):
            text = "normalises by the batch in train mode, so no weights make it an identity"
            raise Stuck(f"{self._name(node)} {text}")
        raise Stuck(f"{self._name(node)} stands between its input and its output")

    def _same_sum(self, node: fx.Node, operands: list[fx.Node]) -> tuple[Identity, Tensor | None]:
        """One summand is the input, the others are silent."""
        stuck = Stuck("its output is not its input plus a branch")
        if not _is_plain_sum(node):
            raise stuck
        for kept in operands[:1] if _is_difference(node) else operands:
            if kept.meta["value"].shape != node.meta["value"].shape:
                continue
            try:
                found, moved = self._same(kept)
            except Stuck as reason:
                stuck = reason if kept is operands[0] else stuck
                continue
            try:
                for other in operands:
                    if other is not kept:
                        found = found + self._silent(other)
                return found, moved
            except Stuck as reason:
                stuck = reason
        raise stuck

    def _same_product(self, node: fx.Node, operands: list[fx.Node]) -> tuple[Identity, Tensor | None]:
        """A product with a gain of the block's own, which starts at one."""
        for kept, gain in (operands, operands[::-1]):
            name = self._gain(gain)
            if name is not None and kept.meta["value"].shape == node.meta["value"].shape:
                found, moved = self._same(kept)
                return found + Identity(ones=(name,)), moved
        raise Stuck(f"{self._name(node)} stands between its input and its output")

    def _gain(self, node: fx.Node) -> str | None:
        """The name of the block's own parameter that a node is, seen through views."""
        while node.op != "get_attr":
            law, operands = law_of_node(self.model, node), tensor_operands(node)
            if law is None or law.family != "shape" or len(operands) != 1 or _is_write(node):
                return None
            node = operands[0]
        name = self.own(str(node.target))
        return name if name in self._learnable else None

    @cached_property
    def _learnable(self) -> set[str]:
        return {name for name, _ in self.model.named_parameters(remove_duplicate=False)}

    def _same_function(self, node: fx.Node, operand: fx.Node) -> tuple[Identity, Tensor | None]:
        """A function that does nothing to numbers like those that enter."""
        found, moved = self._same(operand)
        anything = samples(ANY)
        if _unchanged(applied(self.model, node, {operand: anything}), anything):
            return found, moved
        entering = samples(self.interval)
        if not _unchanged(applied(self.model, node, {operand: entering}), entering):
            raise Stuck(f"{self._name(node)} acts on its output and is not idempotent there")
        return found + Identity(facts=(f"its input is {self.interval}",)), moved

    def _same_rearranged(self, node: fx.Node, operands: list[fx.Node]) -> tuple[Identity, Tensor | None]:
        """A view, a permutation, a cut or a join: carried out on the places of entries."""
        found, given = Identity(), {}
        for operand in operands:
            if operand.meta.get("value") is None:
                continue
            more, moved = self._same(operand)
            found = found + more
            given[operand] = _places(operand.meta["value"]) if moved is None else moved
        placed = applied(self.model, node, given)
        if placed is None:
            raise Stuck(f"{self._name(node)} stands between its input and its output")
        return found, placed

    def _same_contraction(self, node: fx.Node, operand: fx.Node) -> tuple[Identity, Tensor | None]:
        """A linear layer or a convolution whose weight is an identity map."""
        module: Any = self.model.get_submodule(str(node.target))
        name = self._name(node)
        weight, bias = self.own(f"{node.target}.weight"), self.own(f"{node.target}.bias")
        if not weight or (module.bias is not None and not bias):
            raise Stuck(f"the weight of {name} is another part's")
        if operand.meta["value"].shape != node.meta["value"].shape or not _can_be_identity(module):
            raise Stuck(f"{name} changes the shape of its input")
        found, moved = self._same(operand)
        if moved is not None:
            raise Stuck(f"{name} takes its input in another order")
        return found + Identity((bias,) if module.bias is not None else (), (weight,)), None

    # -- silent ------------------------------------------------------------------------------------------

    def _silent(self, node: fx.Node) -> Identity:
        """How a node comes to be zero, with a gradient that reaches what was set to zero."""
        found: Identity = self._asked("silent", node, self._silent_of)
        return found

    def _silent_of(self, node: fx.Node) -> Identity:
        if node.op == "get_attr":
            return self._zeroed([str(node.target)], str(node.target))
        if node not in self.inside:
            raise Stuck("its branch ends in a value from outside")
        law, operands = law_of_node(self.model, node), tensor_operands(node)
        if law is None:
            raise Stuck(f"its branch ends in {self._name(node)}, which has no rule")
        kind = law.kind if isinstance(law, Pointwise) else None
        if kind in ("multiply", "divide") and len(operands) > 1:
            first = operands[:1] if kind == "divide" else sorted(operands, key=lambda n: not self._parametric(n))
            return self._first_of([[operand] for operand in first])
        if node.op == "call_module" and (gates := self._gates_of_module(str(node.target), law)):
            self._check_activation(node, law)
            return self._zeroed(gates, str(node.target))
        if law.family in ("contraction", "normalisation") or isinstance(law, WindowAttention):
            return self._silent_call(node, law, operands)
        if isinstance(law, Pointwise) and kind not in ("add", "multiply", "divide") and len(operands) == 1:
            self._check_alive(node, operands[0])
            return self._silent(operands[0])
        if (_is_sum(node) or _is_difference(node)) and _is_plain_sum(node, scaled=True):
            return self._all_silent(operands)
        if law.family == "attention":
            return self._silent(operands[2])
        if isinstance(law, Pointwise) and len(operands) == 1:
            self._check_alive(node, operands[0])
            return self._silent(operands[0])
        if law.family == "shape" and (rows := self._rows(node, operands[0])):
            return Identity(rows=rows)
        if law.family in ("shape", "pooling", "reduction") and not _is_write(node):
            zeros = {operand: _like(operand.meta["value"], torch.zeros) for operand in operands}
            if not _all_zero(applied(self.model, node, zeros)):
                raise Stuck(f"its branch ends in {self._name(node)}, which does not keep zeros")
            return self._all_silent(operands[:1] if self._name(node) in SHAPED_AS else operands)
        raise Stuck(f"its branch ends in {self._name(node)}, which cannot be silenced")

    def _rows(self, node: fx.Node, layer: fx.Node) -> tuple[tuple[str, int, int], ...]:
        """The rows of a layer's weight that make what a node cuts out, if other nodes read the rest."""
        if layer.op != "call_module" or layer not in self.inside or len(layer.users) < 2:
            return ()
        module = self.model.get_submodule(str(layer.target))
        if type(module) not in DIRAC or node.target is not operator.getitem:
            return ()
        shape = layer.meta["value"].shape
        axis = len(shape) - 1 if isinstance(module, nn.Linear) else 1
        units = torch.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))]).expand(shape)
        cut = torch.unique(applied(self.model, node, {layer: units}))
        start, stop = int(cut[0]), int(cut[-1]) + 1
        if len(cut) == shape[axis] or len(cut) != stop - start:
            return ()
        names = [f"{layer.target}.{name}" for name, _ in module.named_parameters(recurse=False)]
        return tuple((name, start, stop) for name in self._zeroed(names, str(layer.target)).zero)

    def _silent_call(self, node: fx.Node, law: Law, operands: list[fx.Node]) -> Identity:
        """A function that is given its weights, or one without."""
        name = getattr(node.target, "__name__", str(node.target))
        places = next((_GATES[key] for key in _GATES if name.startswith(key)), None)
        if places is not None and node.op == "call_function":
            given = [node.args[k] if len(node.args) > k else node.kwargs.get(key) for k, key in places]
            gates = [gate for gate in given if isinstance(gate, fx.Node)]
            if isinstance(given[0], fx.Node) and all(map(self._parametric, gates)):
                return self._all_silent(gates)
        if law.family == "contraction" and name in ("matmul", "bmm", "mm", "einsum"):
            return self._first_of([[operand] for operand in reversed(operands)])
        raise Stuck(f"its branch ends in {self._name(node)}, which has no weights of its own")

    def _gates_of_module(self, path: str, law: Law) -> list[str]:
        """The gain, or else the weight, and the bias of a layer that scales everything it gives by them."""
        if law.family not in ("contraction", "normalisation"):
            return []
        own = dict(self.model.get_submodule(path).named_parameters(recurse=False))
        scale = next((name for name in ("gain", "weight") if name in own), None)
        return [f"{path}.{name}" for name in (scale, "bias") if name in own] if scale else []

    def _check_activation(self, node: fx.Node, law: Law) -> None:
        if isinstance(law, BatchNorm) and law.activation is not None:
            module = getattr(self.model.get_submodule(str(node.target)), law.activation)
            if not _lets_gradients_through(module):
                raise Stuck(f"its branch ends in {type(module).__name__}, which is flat at zero")

    def _check_alive(self, node: fx.Node, operand: fx.Node) -> None:
        if not _lets_gradients_through(lambda x: applied(self.model, node, {operand: x})):
            raise Stuck(f"its branch ends in {self._name(node)}, which does not keep zeros or is flat there")

    def _zeroed(self, names: list[str], place: str) -> Identity:
        own = tuple(map(self.own, names))
        if not all(own):
            raise Stuck(f"its branch ends in {place}, which is another part's")
        return Identity(own)

    def _all_silent(self, nodes: list[fx.Node]) -> Identity:
        found = Identity()
        for node in nodes:
            found = found + self._silent(node)
        return found

    def _first_of(self, alternatives: list[list[fx.Node]]) -> Identity:
        stuck: Stuck | None = None
        for nodes in alternatives:
            try:
                return self._all_silent(nodes)
            except Stuck as reason:
                stuck = stuck or reason
        raise stuck or Stuck("its branch cannot be silenced")

    def _parametric(self, node: fx.Node) -> bool:
        """Whether a node is a parameter of the block, or made from such parameters alone."""
        if node.op == "get_attr":
            return bool(self.own(str(node.target)))
        operands = tensor_operands(node)
        return node.op in ("call_function", "call_method") and bool(operands) and all(map(self._parametric, operands))

    # -- means -------------------------------------------------------------------------------------------

    def _asked(self, question: str, node: fx.Node, answer: Callable[[fx.Node], Any]) -> Any:
        """Each question is answered once."""
        key = (question, node)
        if key not in self._known:
            try:
                self._known[key] = answer(node)
            except Stuck as reason:
                self._known[key] = reason
        if isinstance(self._known[key], Stuck):
            raise self._known[key]
        return self._known[key]

    def _name(self, node: fx.Node) -> str:
        return name_of(node, self.model.get_submodule(str(node.target)) if node.op == "call_module" else None)


def _is_sum(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target)) if node.op != "call_module" else ""
    return name.strip("_") in ("add", "iadd")


def _is_difference(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target)) if node.op != "call_module" else ""
    return name.strip("_") in ("sub", "isub")


def _is_plain_sum(node: fx.Node, scaled: bool = False) -> bool:
    """Whether every summand is a tensor, unscaled unless `scaled`."""
    summands = [*node.args, *(v for k, v in node.kwargs.items() if k in ("other", "input"))]
    tensors = all(isinstance(s, fx.Node) and holds_tensor(s.meta["value"]) for s in summands)
    return tensors and (scaled or bool(node.kwargs.get("alpha", 1) == 1))


def _is_write(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "setitem"


def _unchanged(after: Any, before: Tensor) -> bool:
    return isinstance(after, Tensor) and after.shape == before.shape and torch.equal(after, before)


def _places(value: Tensor) -> Tensor:
    """Every entry's own place, counted from one so that padding is told apart."""
    return torch.arange(1, value.numel() + 1, dtype=torch.float64).reshape(value.shape)


def _like(value: Any, make: Callable[..., Tensor]) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_like(item, make) for item in value)
    return make(value.shape, dtype=torch.float64) if isinstance(value, Tensor) else value


def _all_zero(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_all_zero, value))
    return isinstance(value, Tensor) and int(value.count_nonzero()) == 0


def _lets_gradients_through(function: Callable[[Tensor], Any]) -> bool:
    """Whether a function keeps zero and has a slope there."""
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    y = function(x.clone())
    if not isinstance(y, Tensor) or bool(y.detach().any()) or not y.requires_grad:
        return False
    (slope,) = torch.autograd.grad(y.sum(), x)
    return int((slope != 0).sum()) == slope.numel()


def _can_be_identity(module: Any) -> bool:
    """Whether a weight exists that makes the layer pass its input on."""
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    centred = module.padding == "same" or all(
        2 * pad == dilation * (kernel - 1)
        for pad, dilation, kernel in zip(module.padding, module.dilation, module.kernel_size, strict=True)
    )
    odd = all(kernel % 2 == 1 for kernel in module.kernel_size)
    return bool(module.in_channels == module.out_channels and odd and centred and set(module.stride) == {1})
