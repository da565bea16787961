"""What a node calls: its name, whether it writes to what it is given, what it makes of actual values."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import fx, nn

from fxgrow.opaque import CustomFunction

_WRITING = frozenset({"iadd", "imul", "isub", "itruediv", "setitem"})


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
    name = name_of(node)
    if name in _WRITING or (name.endswith("_") and not name.endswith("__")):
        return True
    place = _place_of_inplace(node.target) if node.op == "call_function" else None
    return bool(node.args[place] if place is not None and place < len(node.args) else node.kwargs.get("inplace"))


@functools.lru_cache(maxsize=512)
def draws(name: str) -> bool:
    """Whether the operation of this name draws random numbers, by what PyTorch says of it.

    >>> draws("rand_like"), draws("cos")
    (True, False)
    """
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if isinstance(packet, torch._ops.OpOverloadPacket) else ()
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, overload).tags for overload in overloads)


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
