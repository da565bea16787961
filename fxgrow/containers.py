"""Containers of tensors: what models take and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def each_tensor(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same containers with `function` of every tensor in them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: each_tensor(item, function) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [each_tensor(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def flat_tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in an output of any kind: tensor, tuple, list, dict, dataclass-like mapping."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from flat_tensors(item)
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from flat_tensors(item)
