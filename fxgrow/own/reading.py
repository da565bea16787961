"""Says which attributes the forward of a model may read, by the names in its code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

_BY_ANY_NAME = {"vars", "__dict__", "__getattribute__"}


def may_read(model: nn.Module, names: set[str]) -> set[str]:
    """Those of some names of attributes that the code which a forward can reach may read.

    What a name in the code leads to is looked up in every class of the model, so that too many may be said, not too
    few. Code of torch's own layers, and what is not written in Python, is left out.
    """
    kinds = {kind for part in model.modules() for kind in type(part).__mro__ if not _is_of_torch(kind)}
    pending: list[Any] = [vars(kind).get("forward") for kind in kinds]
    for part in model.modules():
        pending += [*part._forward_pre_hooks.values(), *part._forward_hooks.values(), vars(part).get("forward")]
    seen: set[FunctionType] = set()
    mentioned: set[str] = set()
    while pending:
        for function in _functions(pending.pop()):
            if function in seen or _is_of_torch(function):
                continue
            seen.add(function)
            named = set(_names(function.__code__))
            pending += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
            pending += [function.__globals__.get(name) for name in named]
            pending += [vars(kind).get(name) for name in named - mentioned for kind in kinds]
            mentioned |= named
    return names if mentioned & _BY_ANY_NAME else names & mentioned


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions of which a value under a name is made, with those that decorators hold."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        value = value.__func__
    if isinstance(value, partial):
        value = value.func
    while isinstance(value, FunctionType):
        yield value
        value = vars(value).get("__wrapped__")


def _names(code: CodeType) -> Iterator[str]:
    """The names in code, and its texts, which may be names of attributes."""
    yield from code.co_names
    yield from (constant for constant in code.co_consts if isinstance(constant, str))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_of_torch(code: Any) -> bool:
    return (getattr(code, "__module__", None) or "").partition(".")[0] in ("torch", "builtins")
