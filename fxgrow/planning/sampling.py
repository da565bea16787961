"""Functions looked at by running them: on samples of every magnitude of what may enter."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxgrow.containers import flat_tensors, holds_tensor
from fxgrow.noise import WithoutNoise
from fxgrow.opaque import ByMode
from fxgrow.rules.calls import run
from fxgrow.rules.intervals import Interval


@functools.lru_cache(maxsize=64)
def samples(interval: Interval) -> Tensor:
    """Numbers of every magnitude within an interval, its ends among them. Shape `[n]`, float64; shared."""
    sizes = torch.logspace(-6, 4, 201, dtype=torch.float64, device="cpu")
    within = torch.cat([-sizes.flip(0), sizes.new_zeros(1), sizes])
    ends = [end for end in (interval.low, interval.high) if math.isfinite(end)]
    within = torch.cat([within, sizes.new_tensor(ends)])
    return within[(within >= interval.low) & (within <= interval.high)]


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """The operands of a node that hold a tensor or several."""
    return [operand for operand in node.all_input_nodes if holds_tensor(operand.meta.get("value"))]


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
