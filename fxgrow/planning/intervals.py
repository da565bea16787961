"""Which numbers the entries of each tensor can be, where the graph alone decides it: never negative, at most six.

Pointwise functions are looked at by running them: on samples of every magnitude of what may enter.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.containers import flat_tensors, of_kind
from fxgrow.noise import WithoutNoise
from fxgrow.opaque import ByMode
from fxgrow.planning.analysis import law_of_node
from fxgrow.rules.calls import name_of, run, writes
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise

INFINITY = math.inf


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`."""

    low: float = -INFINITY
    high: float = INFINITY

    @property
    def nonnegative(self) -> bool:
        return self.low >= 0

    def samples(self) -> Tensor:
        """Numbers of every magnitude within the interval, its ends among them. Shape `[n]`, float64."""
        return _samples(self).clone()

    def __str__(self) -> str:
        if self.low == 0 and self.high == INFINITY:
            return "never negative"
        return f"from {self.low:g} to {self.high:g}"


@functools.lru_cache(maxsize=64)
def _samples(interval: Interval) -> Tensor:
    sizes = torch.logspace(-6, 4, 201, dtype=torch.float64, device="cpu")
    within = torch.cat([-sizes.flip(0), sizes.new_zeros(1), sizes])
    ends = [end for end in (interval.low, interval.high) if math.isfinite(end)]
    within = torch.cat([within, sizes.new_tensor(ends)])
    return within[(within >= interval.low) & (within <= interval.high)]


ANYTHING = Interval()


def intervals(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Interval]:
    """What is known of every node of a graph that holds a tensor, in order."""
    known: dict[fx.Node, Interval] = {}
    for node in graph.nodes:
        known[node] = _interval(model, node, known)
        if node.op != "call_module" and writes(node) and node.args and isinstance(node.args[0], fx.Node):
            known[node.args[0]] = known[node]
    return known


def _interval(model: nn.Module, node: fx.Node, known: dict[fx.Node, Interval]) -> Interval:
    law = law_of_node(model, node)
    if law is None:
        return ANYTHING
    operands = tensor_operands(node)
    inside = [known[operand] for operand in operands]
    if isinstance(law, BatchNorm) and law.activation is not None:
        function = getattr(model.get_submodule(str(node.target)), law.activation)
        return _image(function(ANYTHING.samples())) if parameterless(function) else ANYTHING
    if not operands or name_of(node) == "setitem":
        return ANYTHING
    if isinstance(law, Pointwise):
        if len(operands) == 1:
            return _image(applied(model, node, {operands[0]: inside[0].samples()}))
        name = name_of(node).strip("_")
        if all(one.nonnegative for one in inside) and name in ("add", "iadd", "mul", "imul") and not node.kwargs:
            return Interval(0.0)
        return ANYTHING
    if law.family == "pooling":  # padding counts
        inside.append(Interval(0.0, 0.0))
    averaging = law.family == "pooling" and "bicubic" not in str((node.args, node.kwargs))
    if averaging or law.family == "shape" or (law.family == "reduction" and all(one.nonnegative for one in inside)):
        low, high = min(one.low for one in inside), max(one.high for one in inside)
        return Interval(low, high if law.family == "shape" or averaging else INFINITY)
    return ANYTHING


def _image(values: Any) -> Interval:
    if not isinstance(values, Tensor) or not bool(torch.isfinite(values).all()):
        return ANYTHING
    low, high = values.min().item(), values.max().item()
    return Interval(0.0 if low >= 0 else -INFINITY, high if high < 1e3 else INFINITY)


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """The operands of a node that hold a tensor or several."""
    return [operand for operand in node.all_input_nodes if holds_tensor(operand.meta.get("value"))]


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor or contains one."""
    return any(True for _ in of_kind(value, Tensor))


def parameterless(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def applied(model: nn.Module, node: fx.Node, given: dict[fx.Node, Any]) -> Any:
    """What a node without parameters makes of other operands than its own, draws off; None where it cannot say."""

    def operand(other: fx.Node) -> Any:
        value = given.get(other, other.meta.get("value"))
        return value.clone() if isinstance(value, Tensor) and other in given else value

    args: Any = fx.node.map_arg(node.args, operand)
    kwargs: Any = fx.node.map_arg(node.kwargs, operand)
    module: nn.Module | None = None
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if not parameterless(module) or isinstance(module, ByMode):
            return None
        module = copy.copy(module).eval()
    try:
        with WithoutNoise():
            result = run(node, module, args, kwargs, torch.is_grad_enabled())
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None
    return None if any(tensor.is_meta for tensor in flat_tensors(result)) else result
