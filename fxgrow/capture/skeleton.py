"""The skeleton of a model: its tree of modules without its data."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture.checks import refuse_uncapturable
from fxgrow.modules.containers import of_kind
from fxgrow.modules.references import exchange
from fxgrow.modules.shards import is_divided, undivided
from fxgrow.modules.tensors import COMPILED, OF_MODULES, as_registered

GIVEN = "fxgrow_given"
"""The attribute of a tensor on the meta device that has the values for which it stands."""

_FEW = 16
"""So many entries a buffer has at most by which a forward decides."""

_COPIED = (dict, OrderedDict, set)
_ORDINARY = (torch.Tensor, nn.Parameter)


def skeleton(
    model: nn.Module, dtype: Callable[[torch.dtype], torch.dtype] | None = None, *, whole: bool = False
) -> nn.Module:
    """A copy of a model's structure whose parameters and buffers are on the meta device; ties are kept.

    Parameters
    ----------
    dtype: the precision of a tensor in place of another.
    whole: of a model divided by `fully_shard`, the structure that it had before.

    Raises
    ------
    CaptureError: the model is lazy, quantised, scripted, compiled or wrapped for parallel training.
    """
    refuse_uncapturable(model, divided=whole)
    return twin_of(model, dtype)


def twin_of(
    model: nn.Module, dtype: Callable[[torch.dtype], torch.dtype] | None = None, share: bool = False
) -> nn.Module:
    """The skeleton of what is known to be fit for one; `share`: over the model's own tensors, which are on meta."""
    modules: dict[int, nn.Module] = {}
    tensors: dict[int, torch.Tensor] = {}
    hooks: dict[int, dict[Any, Any]] = {}  # dictionaries of them, to which handles refer
    graphs: dict[int, fx.Graph] = {}

    def bare(tensor: Any) -> Any:
        if tensor is None:
            return None
        if share:
            return tensor
        if id(tensor) not in tensors:
            precision = tensor.dtype if dtype is None else dtype(tensor.dtype)
            if is_divided(tensor) or (type(tensor) in _ORDINARY and tensor.is_contiguous()):
                empty = torch.empty(tensor.shape, dtype=precision, device="meta")
            else:
                empty = torch.empty_like(tensor, device="meta", dtype=precision)
            tensors[id(tensor)] = as_registered(empty, tensor)
        return tensors[id(tensor)]

    def copy_of(module: nn.Module) -> nn.Module:
        if id(module) not in modules:
            kind, state = undivided(module)
            is_graph = isinstance(module, fx.GraphModule)
            twin: nn.Module = object.__new__(_of_its_own(kind) if is_graph else kind)
            modules[id(module)] = twin
            own = twin.__dict__
            own.update(state)
            own.pop(COMPILED, None)
            for graph in of_kind(list(own.values()), fx.Graph) if is_graph else ():
                if id(graph) not in graphs:
                    graphs[id(graph)] = copy.deepcopy(graph)
                    graphs[id(graph)].owning_module = twin  # type: ignore[assignment]
            for name in OF_MODULES:
                value: Any = own.get(name)
                if type(value) in _COPIED:
                    own[name] = value.copy() if value else type(value)()
                    if value:
                        hooks[id(value)] = own[name]
            for name, parameter in module._parameters.items():
                twin._parameters[name] = bare(parameter)
            for name, buffer in module._buffers.items():
                twin._buffers[name] = bare(buffer)
                if buffer is not None and not share and buffer.numel() <= _FEW:
                    setattr(twin._buffers[name], GIVEN, getattr(buffer, GIVEN, None if buffer.is_meta else buffer))
            for name, child in module._modules.items():
                twin._modules[name] = copy_of(child) if child is not None else None
        return modules[id(module)]

    result = copy_of(model)
    exchange(modules.values(), {**modules, **tensors, **hooks, **graphs})
    return result


def _of_its_own(kind: type[nn.Module]) -> type[nn.Module]:
    """A class like that of a graph module, which holds its forward there: another graph makes it another one.

    How torch prints its errors is left out, which names the class before.
    """
    left_out = ("__dict__", "__weakref__", "__call__", "_wrapped_call")
    own = {name: value for name, value in vars(kind).items() if name not in left_out}
    return type(kind.__name__, kind.__bases__, {**own, "__qualname__": kind.__qualname__})
