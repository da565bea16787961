"""What a node calls: its name, whether it writes to its arguments, what it makes of actual values."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, fx, nn

from fxgrow.modules.containers import flat_tensors, holds_tensor
from fxgrow.noise import WithoutNoise
from fxgrow.opaque import CustomFunction

if TYPE_CHECKING:
    from fxgrow.rules.law import Law, Terms

BROKEN = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, NotImplementedError)
"""What nodes raise that are run on other values than their own."""

T = TypeVar("T")

_WRITING = frozenset(
    (
        *("iadd", "iand", "ifloordiv", "ilshift", "imod", "imul", "ior", "ipow", "irshift", "isub", "itruediv"),
        *("ixor", "setitem"),
    )
)
_PYTHONS = ("and_", "or_", "not_", "is_")


def writes_by_name(name: str) -> bool:
    """Whether a function or method of this name writes to an operand.

    >>> writes_by_name("mul_"), writes_by_name("__setitem__"), writes_by_name("__mul__"), writes_by_name("and_")
    (True, True, False, False)
    """
    return name.strip("_") in _WRITING or (name.endswith("_") and not name.endswith("__") and name not in _PYTHONS)


def name_of(node: fx.Node, module: nn.Module | None = None) -> str:
    """The name of the function or method that a node calls; where that is a module, of its class."""
    if isinstance(module, CustomFunction):
        return module.function.__name__
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def writes(node: fx.Node, module: nn.Module | None = None) -> bool:
    """Whether a node writes to its first operand; `module`: what it calls, where that is a module."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    if writes_by_name(name_of(node)):
        return True
    place = _place_of_inplace(node.target) if node.op == "call_function" else None
    return bool(node.args[place] if place is not None and place < len(node.args) else node.kwargs.get("inplace"))


LIKE = frozenset(getattr(torch, f"{what}_like") for what in ("zeros", "ones", "full", "empty", "rand", "randn"))
"""Functions that make a tensor of the sizes of another, of which they read nothing else."""


@functools.lru_cache(maxsize=512)
def draws(name: str) -> bool:
    """Whether the operation of this name draws random numbers, by what PyTorch says of it.

    >>> draws("rand_like"), draws("cos")
    (True, False)
    """
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if isinstance(packet, torch._ops.OpOverloadPacket) else ()
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags for overload in overloads)


def draws_apart(name: str) -> bool:
    """Whether an operation draws for each entry by itself, so that equal entries part; dropout counts as switched off.

    >>> draws_apart("bernoulli_"), draws_apart("RReLU"), draws_apart("dropout")
    (True, True, False)
    """
    return draws(name.lower()) and "dropout" not in name.lower()


@functools.lru_cache(maxsize=512)
def _place_of_inplace(function: Any) -> int | None:
    """Where a function takes its argument `inplace`, if it has one."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a function of C++, which has none
        return None
    return names.index("inplace") if "inplace" in names else None


def run(node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any, grad: bool = False) -> Any:
    """What a node does to actual values."""
    with torch.set_grad_enabled(grad):
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            assert module is not None
            kind = getattr(type(module), "plain_kind", None)  # its input is multiplied by a node before
            return module.forward(*args, **kwargs) if kind is None else kind.forward(module, *args, **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def reached(nodes: Iterable[fx.Node], onward: Callable[[fx.Node], Iterable[fx.Node]]) -> list[fx.Node]:
    """Some nodes and all that is reached from them, each once; onward: where it goes on from a node, if it does."""
    seen, pending = dict.fromkeys(nodes), list(nodes)
    while pending:
        further = [node for node in onward(pending.pop()) if node not in seen]
        seen.update(dict.fromkeys(further))
        pending.extend(further)
    return list(seen)


def position_of(placeholder: fx.Node) -> int:
    """The position of a graph's input among its inputs."""
    return [node for node in placeholder.graph.nodes if node.op == "placeholder"].index(placeholder)


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """The operands of a node that hold a tensor or several, each once."""
    return [operand for operand in node.all_input_nodes if holds_tensor(operand.meta.get("value"))]


class Called(Generic[T]):
    """A node with the module that it calls, if it does; a law looks up by place and name what either is given."""

    node: fx.Node
    module: Any

    @property
    def name(self) -> str:
        return name_of(self.node, self.module)

    @property
    def kind(self) -> Any:
        """The class of the module that is called, or else the function or the name of the method."""
        return type(self.module) if self.module is not None else self.node.target

    def raw(self, index: int, name: str, default: Any = None) -> Any:
        """The argument at a position or under a name, as the graph holds it."""
        return self.node.args[index] if index < len(self.node.args) else self.node.kwargs.get(name, default)

    def lower(self, raw: Any) -> Any:
        """What an argument of the graph is to a law."""
        return raw

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """The argument at a position or under a name, as a law sees it."""
        return self.lower(self.raw(index, name, default))

    def setting(self, index: int, name: str, default: Any = None) -> Any:
        """An attribute of the module that is called, or the argument of a function at that position or of that name."""
        return getattr(self.module, name, default) if self.module is not None else self.argument(index, name, default)

    def optional(self, index: int, name: str) -> T | None:
        """The tensor at a position or under a name; None where anything else, or nothing, is."""
        raise NotImplementedError

    def parameter(self, name: str) -> T | None:
        """The module's own parameter or buffer of that name."""
        raise NotImplementedError

    def weight(self, index: int, name: str) -> T | None:
        """The module's own parameter or buffer, or the tensor that a function is given; None where there is none."""
        return self.parameter(name) if self.module is not None else self.optional(index, name)


@dataclass(frozen=True)
class Call(Called["fx.Node | str"]):
    """A node and what it calls, as a law sees it before there are layouts: a tensor is a node or a parameter's name."""

    node: fx.Node
    module: nn.Module | None
    law: Law

    def tensor(self, index: int = 0, name: str = "input") -> fx.Node | None:
        raw = self.raw(index, name)
        return raw if isinstance(raw, fx.Node) and holds_tensor(raw.meta.get("value")) else None

    optional = tensor

    def parameter(self, name: str) -> str | None:
        """The name that the module's own parameter or buffer has in the model."""
        own = {**self.module._parameters, **self.module._buffers} if self.module is not None else {}
        return f"{self.node.target}.{name}" if own.get(name) is not None else None

    def operands(self) -> list[fx.Node]:
        return tensor_operands(self.node)

    def terms(self) -> Terms | None:
        return self.law.terms(self)

    def run(self, values: dict[fx.Node, Any], grad: bool = False) -> Any:
        """What the node makes of other operands than its own, draws off; None where that cannot be told."""

        def put(operand: fx.Node) -> Any:
            value = values.get(operand, operand.meta.get("value"))
            return value.clone() if isinstance(value, Tensor) and operand in values else value

        args, kwargs = (fx.node.map_arg(raw, put) for raw in (list(self.node.args), dict(self.node.kwargs)))
        try:
            with WithoutNoise(), torch.random.fork_rng(devices=[]):
                result = run(self.node, self.module, args, kwargs, grad)
        except BROKEN:
            return None
        return None if any(tensor.is_meta for tensor in flat_tensors(result)) else result

    def keeps_zero(self) -> bool:
        """Whether it makes zero of zeros, tried out."""
        operands = self.operands()
        return keeps_zero(
            len(operands), lambda zeros: self.run({node: _zeros(node.meta["value"], next(zeros)) for node in operands})
        )

    def at_zero(self) -> tuple[Tensor, Tensor] | None:
        """What a function of one tensor gives at zero, and its slope there."""
        return at_zero(lambda x: self.run(dict.fromkeys(self.operands(), x), grad=True))


def at_zero(function: Callable[[Tensor], Any]) -> tuple[Tensor, Tensor] | None:
    """What a function of each entry by itself gives at zero, and its slope; None where a few entries do not tell."""
    with torch.enable_grad():
        x = torch.zeros(2, dtype=torch.float64, device="cpu", requires_grad=True)
        y = function(x.clone())
        if not isinstance(y, Tensor) or not y.requires_grad or y.is_complex():
            return None
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def targets(graphs: Iterable[fx.Graph], op: str) -> set[str]:
    """What nodes of a kind name: the modules that graphs call ("call_module"), the tensors that they read."""
    return {str(node.target) for graph in graphs for node in graph.nodes if node.op == op}


def places_of(value: Tensor) -> Tensor:
    """Every entry's own place in a tensor, counted from one so that zeros between are told apart."""
    return torch.arange(1, value.numel() + 1).reshape(value.shape)


def signs_of_zeros(count: int) -> Iterable[tuple[float, ...]]:
    """Zeros for so many operands, of either sign: atan2(0, 0) is 0, atan2(0, -0) is not. Of many, all of one sign.

    >>> list(signs_of_zeros(2))
    [(0.0, 0.0), (0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0)]
    """
    return itertools.product((0.0, -0.0), repeat=count) if count < 4 else ((zero,) * count for zero in (0.0, -0.0))


def keeps_zero(count: int, outcome: Callable[[Iterator[float]], Any]) -> bool:
    """Whether nothing but zeros is made of so many zeros, of whichever signs; not where that cannot be tried."""
    for signs in signs_of_zeros(count):
        try:
            made = list(flat_tensors(outcome(iter(signs))))
        except BROKEN:
            return False
        if not made or any(bool(tensor.any()) for tensor in made):
            return False
    return True


def _zeros(value: Any, zero: float) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_zeros(item, zero) for item in value)
    if not isinstance(value, Tensor):
        return value
    return torch.tensor(zero, dtype=torch.complex128 if value.is_complex() else torch.float64).expand(value.shape)
