"""Evaluation: what calls give on the meta device, worked out once for calls on tensors alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.capture.numbers import Float, Int, plain
from fxgrow.containers import each_tensor, holds_tensor, of_kind


class Memory:
    """What calls gave in the recordings of a model."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def outcome(self, function: Callable[..., Any], what: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives on the meta device; never the very tensor that it was given, unless that changed.

        what: the same for calls that give the same on tensors alike.
        """
        try:
            key = (what, _alike(args), _alike(kwargs))
            if key in self.known:
                return _made_as(self.known[key])
        except TypeError:  # an argument that cannot be hashed
            key = None
        before = [(tensor, tensor._version) for tensor in of_kind((args, kwargs), Tensor)]
        value = function(*args, **kwargs)
        if not holds_tensor(value):
            return value
        if key is not None and all(tensor._version == version for tensor, version in before):
            with suppress(TypeError):
                self.known[key] = _alike(value)
        return each_tensor(value, lambda t: _apart(t, before))


def _apart(tensor: Tensor, before: list[tuple[Tensor, int]]) -> Tensor:
    """A tensor that an operation gave; where it is one that went in unchanged, another one over the same storage."""
    unchanged = any(tensor is one and tensor._version == version for one, version in before)
    return torch.ops.aten.alias(tensor) if unchanged else tensor


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_POINTWISE = (nn.Dropout, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid)


def counts_samples(module: nn.Module) -> bool:
    """Whether a module refuses too few samples in the mode that it is in."""
    return module.training and isinstance(module, nn.modules.batchnorm._NormBase)


def keeps_shape(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a module gives what is like its one input, without looking at more than its channels."""
    if len(args) != 1 or not isinstance(args[0], Tensor) or getattr(module, "inplace", False):
        return False
    shape = args[0].shape
    if isinstance(module, _NORMS):
        if isinstance(module, nn.LayerNorm):
            return tuple(shape[-len(module.normalized_shape) :]) == tuple(module.normalized_shape)
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        return len(shape) > 1 and shape[1] == channels and (shape.numel() > channels or not module.training)
    return type(module) in _POINTWISE


@dataclass(frozen=True)
class _Alike:
    """What tensors have in common that no operation on shapes can tell apart."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _alike(value: Any) -> Any:
    """Arguments or outputs with tensors by what they have in common; TypeError where that cannot be hashed."""
    if isinstance(value, Tensor):
        return _Alike(tuple(map(int, value.shape)), value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return type(value) if _named(value) else isinstance(value, list), tuple(map(_alike, value))
    if isinstance(value, dict):
        return dict, tuple((key, _alike(item)) for key, item in value.items())
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    if isinstance(value, (Int, Float)):
        return type(value).__bases__[0], plain(value)
    hash(value)
    return type(value), value


def _made_as(like: Any) -> Any:
    """Tensors as those that an operation gave before."""
    if isinstance(like, _Alike):
        return torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta")
    kind, items = like
    if kind is dict:
        return {key: _made_as(item) for key, item in items}
    if isinstance(kind, bool):
        return (list if kind else tuple)(map(_made_as, items))
    if isinstance(kind, type) and _named(kind):
        return kind(*map(_made_as, items)) if hasattr(kind, "_fields") else kind(map(_made_as, items))
    return items


def _named(kind: Any) -> bool:
    """Whether a tuple, or a kind of tuples, has names for its items: Python's own, or those that torch returns."""
    return hasattr(kind, "_fields") or hasattr(kind, "n_sequence_fields")
