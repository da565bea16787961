"""Refuses models that cannot be captured at all, before anything is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxgrow.errors import CaptureError
from fxgrow.modules.shards import is_divided
from fxgrow.modules.tensors import dotted
from fxgrow.wrappers import WRAPPERS, wrapper_of

_AVERAGES = ("ModelEma", "ModelEmaV2", "ModelEmaV3")
"""Classes of timm that hold an average of a model's weights beside the model."""

_COMPUTING = ("torch.nn.utils.spectral_norm", "torch.nn.utils.prune")
"""Where hooks come from that compute a weight before each forward."""


_FLOATING = ("FloatFunctional", "FXFloatFunctional")
"""What models that can be quantised later add and concatenate by; they live beside the quantised layers."""


def _is_quantised(module: nn.Module) -> bool:
    home = type(module).__module__
    quantised = home.startswith("torch.") and "quantized" in home.split(".")
    return quantised and type(module).__name__ not in _FLOATING


def refuse_uncapturable(model: nn.Module, *, divided: bool = False) -> None:
    """Raise a CaptureError for what is not an ordinary model with its weights in place.

    divided: whether its weights may be divided among processes.
    """
    if not isinstance(model, nn.Module):
        exported = type(model).__name__ == "ExportedProgram"
        remedy = "pass the model from before torch.export" if exported else "pass a torch.nn.Module"
        raise CaptureError(f"{_article(type(model).__name__)} is not a model", remedy=remedy)
    if hasattr(model, "validate_inputs") or _is_unlifted(model):
        raise CaptureError(
            "the model is an exported module, whose sizes are settled",
            remedy="pass the model from before torch.export",
        )
    _refuse_other_trees(model)
    for path, module in model.named_modules():
        for what, remedy in _obstacles(module, bool(path), divided):
            raise CaptureError(what, where=path or None, remedy=remedy)
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        name = type(model).__name__
        raise CaptureError(
            f'the forward cannot be captured: Module [{name}] is missing the required "forward" function',
            where=name,
            remedy="pass a module that has a forward",
        )


def _obstacles(module: nn.Module, is_part: bool, divided: bool) -> Iterator[tuple[str, str]]:
    """What keeps a model from being captured in one of its parts, or in the whole, and what to do about it."""
    kind = type(module).__name__
    if wrapper_of(module) is not None:
        yield f"{'a part of the model' if is_part else 'the model'} is wrapped in {kind}", WRAPPERS[kind][is_part]
    if kind in _AVERAGES and type(module).__module__.startswith("timm."):
        yield f"the model is an average held by {kind}", "pass its .module"
    bases = {base.__name__ for base in type(module).__mro__}
    if "ScriptModule" in bases:
        maker = "trace" if "TopLevelTracedModule" in bases or "TracedModule" in bases else "script"
        yield "the model is a TorchScript module", f"pass the model from before torch.jit.{maker}"
    if _is_quantised(module):
        yield f"{kind} is quantised", "grow the floating-point model and quantise afterwards"
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__ in _COMPUTING:
            name = getattr(hook, "name", None) or getattr(hook, "_tensor_name", "a weight")
            remedy = "take the pruning or old-style spectral norm off, or use torch.nn.utils.parametrizations"
            yield f"{name} of {kind} is computed from other parameters by a hook", remedy
    sharded = next((name for name, p in module._parameters.items() if p is not None and is_divided(p)), None)
    if sharded is not None and not divided:
        what = f"{sharded} of {kind} is a DTensor, of which this process holds a shard"
        yield what, "use fxgrow.grow_sharded, or grow the model before fully_shard"
    own = (*module._parameters.values(), *module._buffers.values())
    if any(is_lazy(tensor) for tensor in own if tensor is not None):
        yield f"{kind} is lazy and has no shape yet", "run the model once on an example first"


_OF_TREE = ("named_modules", "modules", "named_parameters", "named_buffers")
"""The methods by which the parts and the tensors of a model are found; each goes by those before it."""


def _refuse_other_trees(model: nn.Module) -> None:
    """Raise a CaptureError where a class says otherwise than torch which parts and tensors its modules have."""
    parts = [("", model)]
    seen = {id(model)}
    for path, part in parts:  # which grows
        for name, child in part._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                parts.append((dotted(path, name), child))
    for path, part in reversed(parts):  # torch's own ask the parts inside
        for method in _OF_TREE:
            plainly = getattr(nn.Module, method)
            if getattr(type(part), method) is not plainly and not _gives_the_same(part, method, plainly):
                raise CaptureError(
                    f"{method} of {type(part).__name__} does not give what torch's own would",
                    where=path or None,
                    remedy="call the method otherwise: what a model has is found by this one",
                )


def _gives_the_same(part: nn.Module, method: str, plainly: Callable[..., Iterable[Any]]) -> bool:
    options = {"remove_duplicate": False} if method.startswith("named_") else {}
    try:
        own, expected = (
            [(item[0], id(item[1])) if options else ("", id(item)) for item in given]
            for given in (getattr(part, method)(**options), plainly(part, **options))
        )
    except Exception:  # whatever a method raises that is made for other calls
        return False
    return sorted(own) == sorted(expected)


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _is_unlifted(model: nn.Module) -> bool:
    """Whether a module is what `torch.export` gives back of a program."""
    graph = getattr(model, "graph", None)
    nodes = graph.nodes if isinstance(graph, torch.fx.Graph) else ()
    return any("aten" in str(node.target) and hasattr(node.target, "_schema") for node in nodes)
