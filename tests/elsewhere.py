"""A pretended device, for machines that have none but the CPU: its tensors do not mix with those of the CPU.

They hold a tensor of the CPU each; an op is run on these once it is sure that it would run on a device. What asks for
a device past PyTorch's dispatcher, as fused LSTM cells do, is not pretended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fxgrow.modules.devices import WITHOUT_FLOAT64

NAME = "elsewhere"
_setup_privateuseone_for_python_backend(NAME)
_PLACE = torch.device(NAME, 0)
_CROSSING = ("_to_copy", "copy_")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")  # with places of the CPU too
_ANSWERS = ("item", "_local_scalar_dense", "equal", "is_nonzero")
_COUNTING = ("nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave")  # results of unknown size


class There(Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, tensor: Tensor) -> There:
        if tensor.dtype is torch.float64 and NAME in WITHOUT_FLOAT64:
            raise TypeError(f"there is no float64 {NAME}")
        wrapper: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            tensor.shape,
            strides=tensor.stride(),
            storage_offset=tensor.storage_offset(),
            dtype=tensor.dtype,
            device=_PLACE,
            requires_grad=tensor.requires_grad,
        )
        wrapper.held = tensor
        return wrapper

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])  # no tensor is made of a list on the device
        if function is Tensor.tolist:
            return args[0].cpu().tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """Lets tensors be made on the device, and be brought there and back."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class Waits(TorchDispatchMode):
    """Counts what makes a program wait until the device has done all that was asked of it; `names` says for what."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name, keywords = function.overloadpacket.__name__, kwargs or {}
        result = function(*args, **keywords)
        tensors = [value for value in _leaves((args, keywords)) if isinstance(value, Tensor)]
        there = [isinstance(tensor, There) for tensor in tensors]
        if name in _CROSSING:
            same_side = isinstance(result, There) == there[-1]  # what is copied comes last
            waits = not same_side and not (keywords.get("non_blocking") or args[2:3] == (True,))
        elif name in _INDEXING:
            here = [tensor for tensor in tensors if not isinstance(tensor, There)]
            waits = isinstance(args[0], There) and any(tensor.ndim for tensor in here)
        else:
            waits = name in (*_ANSWERS, *_COUNTING) and any(there)
        if waits:
            self.names.append(name)
        return result


def _run(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    tensors = [value for value in _leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    if not there and kwargs.get("device") is None:
        return function(*args, **kwargs)
    here = any(tensor.ndim and not isinstance(tensor, There) and not tensor.is_meta for tensor in tensors)
    into_first = name == "copy_" or name in _INDEXING
    if there and here and name not in _CROSSING and not (name in _INDEXING and isinstance(args[0], There)):
        raise RuntimeError(f"{name} is given tensors of two devices")
    result_there = isinstance(args[0], There) if into_first else there
    if kwargs.get("device") is not None:
        result_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, **({"device": torch.device("cpu")} if result_there else {})}
    opened: dict[int, There] = {}

    def held(value: Any) -> Any:
        if isinstance(value, There):
            opened[id(value.held)] = value
            return value.held
        return value

    def given_back(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, There):
            return value
        if id(value) in opened:
            return opened[id(value)]
        return There(value) if result_there and not value.is_meta else value

    result = function(*_changed(held, args), **_changed(held, kwargs))
    return result if name in _ANSWERS else _changed(given_back, result)


def _leaves(value: Any) -> Iterator[Any]:
    """What is in the tuples, lists and dictionaries that ops are given; as PyTorch's pytrees, which are slow."""
    if isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _changed(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _changed(change, item) for name, item in value.items()}
    return type(value)(_changed(change, item) for item in value) if type(value) in (tuple, list) else change(value)


def pretend(float64: bool = True) -> Elsewhere:
    """The mode to be in, with what else it takes: once a process, which has to end by `os._exit`."""
    if not float64:
        WITHOUT_FLOAT64.add(NAME)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `data = ...` would leave behind what is held
    torch.autograd.set_multithreading_enabled(False)
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        result = make(data, **options)
        return result if device is None else result.to(device)

    torch.tensor = tensor
    module: Any = torch.get_device_module(NAME)
    module.get_rng_state = lambda device: torch.empty(0)
    module.set_rng_state = lambda state, device: None
    module.manual_seed = lambda seed: None
    module.current_device = lambda: 0
    module.device = contextlib.nullcontext
    return Elsewhere()
