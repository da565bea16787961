"""Evaluation: the results of calls on the meta device, worked out once for all calls that are alike."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fxgrow.capture.numbers import Float, Int, plain
from fxgrow.capture.supposed import sequences
from fxgrow.modules.containers import each_tensor, holds_tensor, of_kind
from fxgrow.modules.tensors import OF_MODULES, OF_RECURRENT
from fxgrow.opaque import packed_sequence


class Memory:
    """What calls gave in the recordings of a model; for torch's own functions and layers, in those of any model."""

    _of_torch: ClassVar[dict[Any, Any]] = {}

    def __init__(self) -> None:
        self._of_others: dict[Any, Any] = {}

    def outcome(self, function: Callable[..., Any], callee: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives on the meta device; never a tensor that went in, unless the call changed it.

        callee: the same for calls that give the same on tensors alike: a function, or what `identity` says of a layer.
        """
        outcomes = self._of_torch if isinstance(callee, LayerIdentity) or _is_torchs(callee) else self._of_others
        with torch._C.DisableTorchFunction():
            try:
                key = (callee, torch.get_default_dtype(), _alike(args), _alike(kwargs))
                if key in outcomes:
                    return _made_as(outcomes[key])
            except TypeError:  # an argument that says nothing by its value
                key = None
        before = [(tensor, tensor._version) for tensor in of_kind((args, kwargs), Tensor)]
        value = function(*args, **kwargs)
        if not holds_tensor(value):
            return value
        if key is not None and all(tensor._version == version for tensor, version in before):
            with suppress(TypeError), torch._C.DisableTorchFunction():
                if len(outcomes) >= _MOST:
                    outcomes.clear()
                outcomes[key] = _alike(value)
        return each_tensor(value, lambda t: _apart(t, before))


_MOST = 50_000
"""How many calls are remembered before all are forgotten."""


@functools.cache
def _is_torchs(callee: Any) -> bool:
    """Whether a function is one of torch's own, which go by nothing but their arguments."""
    home = str(getattr(callee, "__module__", None) or getattr(getattr(callee, "__objclass__", None), "__module__", ""))
    return isinstance(callee, _FUNCTIONS) and home.partition(".")[0] == "torch"


_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)


@dataclass(frozen=True)
class LayerIdentity:
    """What a layer of torch computes by, besides its arguments: its class, its tensors, its settings, its own parts.

    counts: whether it counts samples.
    """

    kind: type[nn.Module]
    counts: bool
    settings: Any
    tensors: Any
    parts: Any


def identity(module: nn.Module, path: str) -> Any:
    """The same for layers that give the same on tensors alike; of one that is not torch's own, its path."""
    try:
        return _layer(module)
    except TypeError:
        return path, counts_samples(module)


_OF_TORCH = OF_MODULES | OF_RECURRENT
"""Attributes that say no more than a layer's class, tensors and parts do."""


def _layer(module: nn.Module) -> LayerIdentity:
    kind, state = type(module), module.__dict__
    if not kind.__module__.startswith("torch.nn.modules."):
        raise TypeError("its forward may go by anything")
    return LayerIdentity(
        kind,
        counts_samples(module),
        tuple((name, _alike(value)) for name, value in state.items() if name not in _OF_TORCH),
        (_alike(state["_parameters"]), _alike(state["_buffers"])),
        tuple((name, _layer(part)) for name, part in module._modules.items() if part is not None),
    )


def _apart(tensor: Tensor, before: list[tuple[Tensor, int]]) -> Tensor:
    """A tensor that an operation gave; where it is one that went in unchanged, another one over the same storage."""
    unchanged = any(tensor is operand and tensor._version == version for operand, version in before)
    return torch.ops.aten.alias(tensor) if unchanged else tensor


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_POINTWISE = (nn.Dropout, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid)


def counts_samples(module: nn.Module) -> bool:
    """Whether a module refuses too few samples in the mode that it is in."""
    return bool(module.__dict__["training"]) and isinstance(module, nn.modules.batchnorm._NormBase)


def minds_samples(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a module may refuse these inputs in one of the modes: too few values to average over."""
    x = args[0] if args else None
    with torch._C.DisableTorchFunction():
        few = not isinstance(x, Tensor) or x.ndim < 3 or x.numel() <= x.shape[0] * x.shape[1]
    return few and isinstance(module, nn.modules.batchnorm._NormBase)


def told(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer gives, told by the sizes of its inputs without running it; None where it has to run.

    Norms are slow on the meta device, and recurrent layers take one step after the other there, or ask for the values
    of packed sequences.
    """
    if isinstance(module, nn.RNNBase) and args and isinstance(args[0], PackedSequence):
        return _over_packed(module, args[0])
    if kwargs or not args or type(args[0]) is not Tensor:
        return None
    with torch._C.DisableTorchFunction():
        x = args[0]
        if not x.is_contiguous():
            return None
        if type(module) in _RECURRENT:
            return _of_recurrence(module, x, *args[1:])
        if len(args) > 1 or not (type(module) in _POINTWISE or _normalises(module, x.shape)):
            return None
        return x if getattr(module, "inplace", False) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


_RECURRENT = (nn.RNN, nn.GRU, nn.LSTM)


def _of_recurrence(layer: Any, x: Tensor, first: Any = None) -> Any:
    """The outputs and last states of a recurrent layer; None where its first states, or the inputs, do not fit."""
    if x.ndim not in (2, 3) or x.shape[-1] != layer.input_size or x.dtype != layer.weight_ih_l0.dtype or not len(x):
        return None
    steps_second = x.ndim == 3 and layer.batch_first
    *outer, _ = x.shape
    length, *batch = outer[::-1] if steps_second else outer
    ways, sizes = 1 + layer.bidirectional, [layer.proj_size or layer.hidden_size]
    made = torch.empty((length, *batch, ways * sizes[0]), dtype=x.dtype, device=x.device)
    sizes += [layer.hidden_size] if isinstance(layer, nn.LSTM) else []
    states = [torch.empty((ways * layer.num_layers, *batch, size), dtype=x.dtype, device=x.device) for size in sizes]
    if not length or (first is not None and _kinds(of_kind(first, Tensor)) != _kinds(states)):
        return None
    return made.transpose(0, 1) if steps_second else made, tuple(states) if len(states) > 1 else states[0]


def _kinds(tensors: Iterable[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def _over_packed(module: nn.RNNBase, packed: PackedSequence) -> Any:
    """What a recurrent layer gives on sequences that are all as long as the longest."""
    with torch._C.DisableTorchFunction():
        output, states = _of_recurrence(module, packed.data) or module.forward(packed.data)  # as one sequence
        count = sequences(packed.data, packed.batch_sizes)
        states = each_tensor(states, lambda state: state.new_empty((state.shape[0], count, state.shape[1])))
        return packed_sequence(output, *each_tensor(tuple(packed[1:]), torch.empty_like)), states


def _normalises(module: nn.Module, shape: torch.Size) -> bool:
    if isinstance(module, nn.LayerNorm):
        return shape[-len(module.normalized_shape) :] == tuple(module.normalized_shape)
    if not isinstance(module, _NORMS):
        return False
    channels: Any = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
    if len(shape) < 2 or shape[1] != channels:
        return False
    return shape.numel() > channels or not module.__dict__["training"]


class _Alike(NamedTuple):
    """What tensors have in common that no operation on shapes can tell apart."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _alike(value: Any) -> Any:
    """Arguments or outputs with tensors by what they have in common; TypeError where that says not all of them."""
    if isinstance(value, Tensor):
        return _Alike(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return type(value) if _named(value) else isinstance(value, list), tuple(map(_alike, value))
    if isinstance(value, dict):
        return dict, tuple((key, _alike(item)) for key, item in value.items())
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    if isinstance(value, (Int, Float)):
        return type(value).__bases__[0], plain(value)
    if not isinstance(value, _PLAIN):
        raise TypeError(f"{type(value).__name__} says nothing by its value")
    return type(value), value


_PLAIN = (
    *(bool, int, float, complex, str, type(None), type(Ellipsis)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)


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
        return getattr(kind, "_make", kind)(map(_made_as, items))
    return items


def _named(kind: Any) -> bool:
    """Whether a tuple, or a kind of tuples, has names for its items: Python's own, or those that torch returns."""
    return hasattr(kind, "_fields") or hasattr(kind, "n_sequence_fields")
