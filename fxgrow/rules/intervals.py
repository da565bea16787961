"""Intervals in which the entries of a tensor lie, inferred from the ops: a rectifier's output is not negative.

Every node has an interval that follows from the definitions of ops alone, whatever the weights are. It is used for
functions that do nothing to some numbers: relu(x) = x for x >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxgrow.modules.containers import holds_tensor
from fxgrow.rules.calls import Call
from fxgrow.rules.law import Law
from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_call


class Interval(NamedTuple):
    """All numbers from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if self == POSITIVE:
            return "never negative"
        return f"from {self.low:g} to {self.high:g}"


ANY = Interval()
POSITIVE = Interval(0.0)

RECTIFIERS = (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")
RELU6 = (nn.ReLU6, F.relu6)
_UNIT = (
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, torch.sigmoid, F.hardsigmoid, F.softmax, torch.softmax),
    *("sigmoid", "sigmoid_", "softmax"),
)
_POSITIVE = (
    *(nn.Softplus, F.softplus, torch.abs, torch.square, torch.exp, torch.sqrt),
    *("abs", "square", "exp", "sqrt"),
)
_LEAVE_POSITIVE = (nn.LeakyReLU, nn.ELU, nn.CELU, nn.PReLU, F.leaky_relu, F.elu, F.celu, torch.abs, "abs")
_PICKING = ("max_pool", "MaxPool", "amax", "amin", "mean", "Upsample", "interpolate")
_AVERAGING = ("avg_pool", "AvgPool")


def is_rectifier(kind: Any) -> bool:
    """Whether nothing that a function gives is negative, whatever it is given: ReLU, ReLU6."""
    return kind in RECTIFIERS or kind in RELU6


def left_alone(call: Call) -> Interval | None:
    """The numbers to which a function of one tensor does nothing, or None where there are none such."""
    operands, node = call.operands(), call.node
    if not isinstance(call.law, Pointwise) or len(operands) != 1:
        return None
    before, after = operands[0].meta["value"], node.meta["value"]
    if not isinstance(before, Tensor) or before.dtype != after.dtype:
        return None
    if call.law.kind == "linear":  # f(a x) = a f(x)
        at_one = call.run({operands[0]: torch.ones((1,) * before.ndim, dtype=torch.float64)})
        return ANY if isinstance(at_one, Tensor) and bool((at_one == 1).all()) else None
    return POSITIVE if call.kind in _LEAVE_POSITIVE else _bounds(call)


def intervals(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> dict[fx.Node, Interval]:
    """The interval of every node of a graph that holds a tensor, in order; `module_of`: what a node calls, if that.

    It is that of what a node gives; what is written to it later is what other nodes give.
    """
    known: dict[fx.Node, Interval] = {}
    for node in graph.nodes:
        if holds_tensor(node.meta.get("value")):
            module = module_of(node)
            known[node] = interval_of(node, module, law_of_call(node, module), known)
    return known


def interval_of(node: fx.Node, module: nn.Module | None, law: Law | None, known: dict[fx.Node, Interval]) -> Interval:
    """The interval of a node that holds a tensor, from those of its operands."""
    operands = [known.get(operand, ANY) for operand in node.all_input_nodes]
    if isinstance(law, BatchNorm) and law.activation is not None:
        return _activated(Call(node, getattr(module, law.activation), law), ANY)
    if not operands:
        return ANY
    call = Call(node, module, law if law is not None else Law())
    interval = _arithmetic(call, operands)
    if interval is not None:
        return interval
    return (
        _collected(call, operands)
        if call.law.family in ("shape", "pooling", "reduction")
        else _activated(call, operands[0])
    )


def _collected(call: Call, operands: list[Interval]) -> Interval:
    """Entries moved, picked or averaged."""
    name, node, first = call.name, call.node, operands[0]
    if call.law.family == "shape" and name != "setitem":
        return Interval(min(low for low, _ in operands), max(high for _, high in operands))
    if any(word in name for word in _PICKING):
        bicubic = "bicubic" in str((node.args, node.kwargs, getattr(call.module, "mode", "")))
        return ANY if bicubic else first
    if any(word in name for word in _AVERAGING):
        return Interval(min(first.low, 0.0), max(first.high, 0.0))  # padding counts as zeros
    return POSITIVE if name == "sum" and first.low >= 0 else _activated(call, first)


def _arithmetic(call: Call, operands: list[Interval]) -> Interval | None:
    name, plain = call.name.strip("_"), len(operands) == 2 and len(call.node.args) == 2 and not call.node.kwargs
    if name in ("add", "iadd") and plain:
        return Interval(operands[0].low + operands[1].low, operands[0].high + operands[1].high)
    if name in ("mul", "imul") and plain and all(low >= 0 for low, _ in operands):
        return POSITIVE
    return ANY if name in ("add", "iadd", "mul", "imul", "sub", "isub") else None


def _activated(call: Call, before: Interval) -> Interval:
    if call.kind in _UNIT:
        return Interval(0.0, 1.0)
    if call.kind in _POSITIVE:
        return POSITIVE
    if left_alone(call) == ANY:
        return before
    bounds = _bounds(call)
    return Interval(*(min(bounds.high, max(bounds.low, end)) for end in before)) if bounds is not None else ANY


def _bounds(call: Call) -> Interval | None:
    """The bounds that a function brings its input into, where they are numbers."""
    if is_rectifier(call.kind):
        return POSITIVE if call.kind in RECTIFIERS else Interval(0.0, 6.0)
    if isinstance(call.module, nn.Hardtanh):
        return Interval(float(call.module.min_val), float(call.module.max_val))
    if call.kind not in (F.hardtanh, torch.clamp, "clamp", "clamp_", "clip"):
        return None
    names = (("min_val", -1.0), ("max_val", 1.0)) if call.kind is F.hardtanh else (("min", None), ("max", None))
    bounds = []
    for place, ((name, default), open_end) in enumerate(zip(names, ANY, strict=True), start=1):
        bound = call.raw(place, name, default)
        if bound is not None and not isinstance(bound, (int, float)):
            return None
        bounds.append(open_end if bound is None else float(bound))
    return Interval(*bounds)
