"""Containers of tensors that models take and return, and that nodes have as arguments.

These are tuples, lists, dictionaries, and objects of a user's own; none of them holds itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict

from fxgrow.modules.holders import attributes_of, holding, is_object

Kind = TypeVar("Kind")


def of_kind(value: Any, kind: type[Kind] | tuple[type[Kind], ...]) -> Iterator[Kind]:
    """Everything of a kind in containers and slices, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from of_kind(item, kind)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from of_kind(item, kind)
    elif isinstance(value, slice):
        yield from of_kind((value.start, value.stop, value.step), kind)
    elif is_object(value):
        yield from of_kind(attributes_of(value), kind)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor or contains one."""
    return next(of_kind(value, Tensor), None) is not None


def each_of_kind(value: Any, kind: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """The same containers and slices with `function` of everything of a kind in them."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return with_items(value, {key: each_of_kind(item, kind, function) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        return with_items(value, {k: each_of_kind(item, kind, function) for k, item in enumerate(value)})
    if isinstance(value, slice):
        return slice(*(each_of_kind(part, kind, function) for part in (value.start, value.stop, value.step)))
    if is_object(value):
        return holding(value, {k: each_of_kind(item, kind, function) for k, item in attributes_of(value).items()})
    return value


def with_dictionaries(value: Any) -> Any:
    """The same containers with dictionaries in place of objects that hold tensors.

    >>> from types import SimpleNamespace
    >>> with_dictionaries([SimpleNamespace(k=1), SimpleNamespace(k=torch.tensor(1))])
    [namespace(k=1), {'k': tensor(1)}]
    """
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return with_items(value, {key: with_dictionaries(item) for key, item in items})
    return with_dictionaries(attributes_of(value)) if is_object(value) and holds_tensor(value) else value


def with_items(container: Any, items: dict[Any, Any]) -> Any:
    """A tuple, list or mapping of the same class with other items; a dictionary where a mapping does not say how.

    >>> from collections import OrderedDict
    >>> with_items(OrderedDict(a=1), {"a": 2}), with_items([1], {0: 2})
    (OrderedDict([('a', 2)]), [2])
    """
    if isinstance(container, tuple) or is_object(container):
        return holding(container, items)
    if isinstance(container, list):
        return type(container)(items.values())
    if type(container) in (dict, immutable_dict) or not isinstance(container, MutableMapping):
        return items
    twin = copy.copy(container)
    twin.clear()
    twin.update(items)
    return twin


def each_tensor(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same containers with `function` of every tensor in them."""
    return each_of_kind(value, Tensor, function)


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector as a tensor that varies along one axis only.

    >>> along(torch.arange(4), 1, 3).shape
    torch.Size([1, 4, 1])
    """
    return vector.reshape([-1 if k == axis else 1 for k in range(rank)])


def has_fractions(tensor: Tensor) -> bool:
    """Whether the numbers in a tensor, real or complex, are floating-point ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def of_precision(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """The dtype of what is `own` once floating-point numbers are of one dtype: complex ones are made of such.

    >>> of_precision(torch.cfloat, torch.float64), of_precision(torch.long, torch.float64)
    (torch.complex128, torch.int64)
    """
    if own.is_complex and dtype is not torch.bfloat16:  # of which there are no complex ones
        return dtype.to_complex()
    return dtype if own.is_floating_point else own


def in_dtype(value: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """The same containers with copies of tensors, floating-point ones in one dtype, on a device if one is given.

    Copies, since a forward may write to what it is given.

    >>> in_dtype((torch.ones(1), torch.tensor([2])), torch.float64)
    (tensor([1.], dtype=torch.float64), tensor([2]))
    """

    def copied(tensor: Tensor) -> Tensor:
        return tensor.to(device or tensor.device, of_precision(tensor.dtype, dtype), copy=True)

    return each_tensor(value, copied)


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
    elif is_dataclass(output) and not isinstance(output, type):
        yield from flat_tensors([getattr(output, field.name) for field in fields(output)])
    elif is_object(output):
        yield from flat_tensors(attributes_of(output))
