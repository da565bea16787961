"""What the modules of a model hold besides parameters, and what of it is another after a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fxgrow.modules.containers import of_kind
from fxgrow.modules.holders import attributes_of, held_by, is_object
from fxgrow.modules.libraries import package_of
from fxgrow.modules.tensors import OF_MODULES

NOTHING = object()
"""What `state_of` has before an attribute is there: the same as nothing else."""


def state_of(model: nn.Module) -> dict[tuple[str, str, str], Any]:
    """The buffers and attributes of modules with a forward of their own, by path, kind and name."""
    state: dict[tuple[str, str, str], Any] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        state.update({(path, "buffer", name): tensor for name, tensor in module._buffers.items()})
        attributes, package = module.__dict__.items(), package_of(type(module))
        if type(module).__module__.startswith("torch.nn."):
            own = {name: value for name, value in attributes if isinstance(value, torch.Tensor)}
        else:
            own = {n: contents_of(value, seen, package) for n, value in attributes if n not in OF_MODULES}
        state.update({(path, "attribute", name): contents for name, contents in own.items()})
    return state


def with_tensors(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """An attribute, or those of an object, that hold tensors, perhaps in containers, by their paths."""
    if is_object(value):
        for name, item in attributes_of(value).items():
            yield from with_tensors(item, f"{where}.{name}")
    elif next(of_kind(value, torch.Tensor), None) is not None:
        yield where, value


def contents_of(value: Any, seen: set[int], package: str = "") -> Any:
    """A container or an object of a user's own as it is now, whatever is put into it later; each once."""
    held = held_by(value, package) if id(value) not in seen else None
    if held is None:
        return value
    seen.add(id(value))
    return value, tuple((key, contents_of(item, seen, package)) for key, item in held.items())


def is_same(value: Any, before: Any) -> bool:
    """Whether what `state_of` says of something is what it said before."""
    if type(value) is tuple and type(before) is tuple:
        return len(value) == len(before) and all(map(is_same, value, before))
    return value is before or (type(value) is type(before) and isinstance(value, (int, str, bytes)) and value == before)
