"""What each part of a model is beside its tensors: its class, its plain attributes, the functions that it holds."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import fx, nn

from fxgrow.modules.libraries import home_of
from fxgrow.modules.tensors import OF_MODULES

Shape = tuple[int, ...]
HOOKS = {
    "the hook": ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"),
    "the hook of files": ("_state_dict_pre_hooks", "_state_dict_hooks"),
}
"""The attributes of a module that hold hooks, by what these are in words."""

FORWARD = "the forward"


@dataclass(frozen=True)
class Part:
    """What a part is beside its tensors: its class, its plain attributes, and the names of functions that it holds.

    Attributes
    ----------
    functions: names of functions that it holds, and of its hooks; its graphs as text, where it has any.
    bare: it has no tensors and no parts of its own.
    buffers: the shapes of its own buffers; None where it was read from a pickle that did not have them.
    """

    home: str
    name: str
    attributes: tuple[tuple[str, Any], ...]
    functions: tuple[tuple[str, str], ...]
    bare: bool
    buffers: tuple[tuple[str, Shape | None], ...] | None = None


def parts_of(model: nn.Module) -> dict[str, Part]:
    """What every part is, by path; the model itself has the path ""."""
    return {path: part_of(part) for path, part in model.named_modules(remove_duplicate=False)}


def part_of(part: Any) -> Part:
    """What one part is."""
    kind, plain, functions = type(part), [], []
    is_graph = isinstance(part, fx.GraphModule)
    for name, value in sorted(part.__dict__.items()):
        if name in OF_MODULES or (is_graph and name.startswith("_")):
            continue
        if is_plain(value):
            plain.append((name, copy.deepcopy(value)))
        elif isinstance(value, (FunctionType, BuiltinFunctionType)) and name != "forward":
            functions.append((name, f"{home_of(value)}.{value.__qualname__}"))
    if is_graph:
        graphs = part.graphs() if hasattr(part, "graphs") else {"": part.graph}  # of each mode, in a grown one
        functions += [(f"the graph {mode}".strip(), _digest(graph)) for mode, graph in graphs.items()]
    functions += [(said, names) for said, names in functions_around(part).items() if names]
    buffers = tuple((name, None if buffer is None else tuple(buffer.shape)) for name, buffer in part._buffers.items())
    return Part(kind.__module__, kind.__name__, tuple(plain), tuple(functions), not holds_any(part), buffers)


def functions_around(part: nn.Module) -> dict[str, str]:
    """The hooks of a part and the forward that it holds, which no file keeps, in words; the names of the functions."""
    held = {said: [hook for name in names for hook in getattr(part, name).values()] for said, names in HOOKS.items()}
    held[FORWARD] = [part.__dict__["forward"]] if "forward" in part.__dict__ else []
    return {said: ", ".join(map(_name_of_function, functions)) for said, functions in held.items()}


def _name_of_function(function: Any) -> str:
    function = getattr(function, "func", function)  # of a partial
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def unkept(model: nn.Module, before: Mapping[str, Part]) -> list[str]:
    """Hooks and forwards of single parts that no file keeps, in words; before: what each part was as it grew."""
    return [
        f"{said} {names} of {path or type(part).__name__}" if names else f"that {said} {then} of {path} is gone"
        for path, part in model.named_modules()
        for said, names in functions_around(part).items()
        if path in before and (then := dict(before[path].functions).get(said, "")) != names
    ]


def _digest(graph: fx.Graph) -> str:
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(graph)).encode()).hexdigest()[:16]


def holds_any(part: nn.Module) -> bool:
    """Whether a part has tensors or parts of its own."""
    return any(
        value is not None for held in (part._modules, part._parameters, part._buffers) for value in held.values()
    )


def is_plain(value: Any) -> bool:
    """Whether JSON has a word for a value: numbers, strings, and lists and dictionaries of them."""
    if type(value) in (tuple, list):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str)
