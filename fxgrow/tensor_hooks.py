"""Hooks of tensors that refer to other tensors, whose shapes they may count on: a mask of a gradient, an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.holders import content_of, held_by

_DEEP = 4
"""So many containers and objects within each other are looked into."""


def why_hooked(tensor: Tensor) -> str | None:
    """Why a tensor has to stay as it is: the first of its hooks that refers to tensors; None where there is none.

    >>> weight, mask = torch.nn.Parameter(torch.ones(2)), torch.zeros(2)
    >>> handle = weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    >>> why_hooked(weight)
    >>> handle = weight.register_hook(functools.partial(torch.mul, mask))
    >>> why_hooked(weight)
    'a hook of it, mul, refers to tensors, and may count on its shape'
    """
    hooks: list[Any] = []
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        hooks += (getattr(tensor, name, None) or {}).values()
    hook = next((hook for hook in hooks if any(_is_tensors(held, _DEEP) for held in _referred(hook))), None)
    return f"a hook of it, {_name(hook)}, refers to tensors, and may count on its shape" if hook is not None else None


def _referred(hook: Any) -> Iterator[Any]:
    if isinstance(hook, functools.partial):
        yield from (*hook.args, *hook.keywords.values(), *_referred(hook.func))
    elif isinstance(hook, MethodType):
        yield from (hook.__self__, *_referred(hook.__func__))
    elif isinstance(hook, FunctionType):
        yield from (*(hook.__defaults__ or ()), *(hook.__kwdefaults__ or {}).values())
        yield from map(content_of, hook.__closure__ or ())
        yield from (hook.__globals__.get(name) for name in hook.__code__.co_names)
    else:
        yield hook


def _is_tensors(value: Any, deep: int) -> bool:
    if isinstance(value, (Tensor, torch.optim.Optimizer)):
        return True
    held = held_by(value) if deep and not isinstance(value, torch.nn.Module) else None
    return held is not None and any(_is_tensors(item, deep - 1) for item in (*held.keys(), *held.values()))


def _name(hook: Any) -> str:
    function = hook.func if isinstance(hook, functools.partial) else hook
    return getattr(function, "__name__", type(function).__name__)
