"""Which target a node has for a function of torch that a forward called."""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.libraries import home_of

_BINARY = {
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "matmul", "pow", "eq", "ne", "lt", "le", "gt", "ge")
    },
    **{f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv", "mod")},
    **{f"__{name}__": getattr(operator, f"{name}_") for name in ("and", "or")},
    **{f"{name}_": getattr(operator, f"i{name}") for name in ("add", "sub", "mul")},
    "div": operator.truediv,
    "div_": operator.itruediv,
    "__xor__": operator.xor,
    "__getitem__": operator.getitem,
}
"""Methods that Python's operators call, by the operator: with one further argument they are the same."""

REFLECTED = {
    **{f"__r{name}__": getattr(operator, name) for name in ("sub", "pow", "floordiv", "matmul", "mod")},
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
}
_UNARY = {"neg": operator.neg, "__invert__": operator.invert}


def operator_of(func: Any, args: Any, kwargs: Any) -> Any:
    """What a node calls for a function of torch: Python's operator where it does the same, a method by its name."""
    if not args or not isinstance(args[0], Tensor):
        return func
    name = getattr(func, "__name__", "")
    if name == "__setitem__":
        return operator.setitem
    if not _of_tensors(func, name):
        return func
    if not kwargs and len(args) == 2:
        return _BINARY.get(name) or REFLECTED.get(name) or name
    return _UNARY.get(name, name) if not kwargs and len(args) == 1 else name


def call_of(func: Any, name: str, args: Any, kwargs: Any) -> tuple[str, Any, Any]:
    """The kind of node for a call, what it calls, and with which operands."""
    target = operator_of(func, args, kwargs)
    reflected = name in REFLECTED and target is REFLECTED[name]
    return "call_method" if isinstance(target, str) else "call_function", target, args[::-1] if reflected else args


def _of_tensors(func: Any, name: str) -> bool:
    """Whether a function is a method of tensors, wrapped for an operator or not."""
    return getattr(Tensor, name, None) is func or getattr(func, "__module__", None) == "torch._tensor"


@functools.cache
def opened(function: Any) -> Callable[..., Any] | None:
    """A function of torch that is written in Python, without its question whether it is overridden; or None.

    One that calls a function of its own name stays whole: code calls functions by name, and takes these two for one.
    """
    if not isinstance(function, types.FunctionType) or not home_of(function).startswith("torch."):
        return None
    if hasattr(torch._C._VariableFunctions, function.__name__) and function.__module__ == "torch.functional":
        return None
    unasked = {name: lambda *args: False for name in function.__globals__ if name.startswith("has_torch_function")}
    if not unasked:
        return None
    twin = types.FunctionType(
        function.__code__,
        {**function.__globals__, **unasked},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


FILLING: Mapping[str, Callable[..., Any]] = {
    "copy_": lambda src, non_blocking=False: src,
    "fill_": lambda value: value,
    "zero_": lambda: 0,
}
"""Methods that write one thing into all of a tensor, as `x[...] = y` does, which is how they are recorded."""

RESHAPING = frozenset(("unsqueeze_", "squeeze_", "t_", "transpose_", "swapaxes_", "swapdims_"))
"""Methods that give a tensor another shape in place, recorded as those that give another tensor of that shape."""

VALUE_OF: dict[str, Callable[[Any], Any]] = {
    "item": lambda value: value,
    "__bool__": bool,
    "__int__": int,
    "__index__": int,
    "__float__": float,
}
"""Methods that give the value of a tensor, and what they make of it."""

VALUES = frozenset(
    ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "backward")
)
"""Methods that give the values of a tensor to Python, or to a backward pass."""

MOVING = frozenset(
    ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cuda", "cpu", "detach", "unsqueeze")
)
"""Methods that give a tensor in another form, each entry as it was, and name no size."""

HOOKING = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")
"""Methods that do something in the backward pass, which no node stands for."""

SAID = {"__bool__": "control flow", "__array__": "numpy"}
"""How errors call what asks for values."""


def is_method(func: Any, name: str, args: Any) -> bool:
    """Whether a call is of a method of the tensor that comes first."""
    return bool(args) and isinstance(args[0], Tensor) and getattr(torch.Tensor, name, None) is func
