"""The tensors of a module by their names, and the paths of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import nn

Made = TypeVar("Made")

CONSTANT = "_constant_"
"""What names of tensors begin with that a graph keeps since its forward made them: in a precision of their own."""

OF_MODULES = frozenset(nn.Module().__dict__)
"""The attributes that every module has."""

OF_RECURRENT = frozenset(("_flat_weights", "_flat_weight_refs"))
"""The attributes in which recurrent layers hold their parameters once more."""

OF_TREE = OF_RECURRENT | {"_parameters", "_buffers", "_modules", "training"}
"""The attributes of a module that make up the tree of modules and tensors, and its mode."""

COMPILED = "_compiled_call_impl"
"""The attribute in which `module.compile()` leaves what runs this one module; torch's own copies do without, too."""


def dotted(path: str, name: str) -> str:
    """The path of what a module has under a name, by the module's own path, which is "" for the whole model."""
    return f"{path}.{name}" if path else name


def prefixes(path: str) -> Iterator[str]:
    """A path and every path above it, the root aside."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def within(path: str, above: str) -> bool:
    """Whether a path is that of a part or of something in it."""
    return path == above or path.startswith(above + ".")


def within_any(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a path is within one of several parts."""
    return any(within(path, root) for root in roots)


def named_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Every parameter and buffer by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def parameter_count(model: nn.Module) -> int:
    """How many numbers the parameters of a model are, tied ones once."""
    return sum(parameter.numel() for parameter in nn.Module.parameters(model))


def each_once(tensors: Mapping[str, torch.Tensor], made: Callable[[str], Made]) -> dict[str, Made]:
    """What is made for each tensor, by name; for one of several names once, by the first.

    >>> weight = torch.ones(2)
    >>> each_once({"first": weight, "second": weight}, str.upper)
    {'first': 'FIRST', 'second': 'FIRST'}
    """
    results: dict[int, Made] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in results:
            results[id(tensor)] = made(name)
    return {name: results[id(tensor)] for name, tensor in tensors.items()}


def plain_tensor(model: nn.Module, name: str) -> torch.Tensor | None:
    """A tensor that a module holds as an attribute without having registered it; None where there is none.

    >>> model = nn.Identity()
    >>> model.table = torch.ones(2)
    >>> plain_tensor(model, "table")
    tensor([1., 1.])
    """
    path, _, leaf = name.rpartition(".")
    try:
        held = vars(model.get_submodule(path)).get(leaf)
    except AttributeError:
        return None
    return held if isinstance(held, torch.Tensor) else None


def tensors_named(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of a model that have some names, registered or plain; without those that it does not have."""
    registered = named_tensors(model)
    found = ((name, registered[name] if name in registered else plain_tensor(model, name)) for name in names)
    return {name: tensor for name, tensor in found if tensor is not None}


def place(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter, a buffer or a plain tensor, keeping its kind and whether it is saved."""
    path, _, leaf = name.rpartition(".")
    owner = root.get_submodule(path)
    if isinstance(tensor, nn.Parameter) or leaf in vars(owner):
        setattr(owner, leaf, tensor)
    else:
        owner._buffers[leaf] = tensor


def as_registered(data: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Data as a parameter where a tensor is one, as ready to be trained; else as they are."""
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def same_values(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors hold the same values, no number (NaN) at the same places included.

    >>> same_values(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    True
    """
    return first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of a tensor that has several -> all of them."""
    names: dict[int, list[str]] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return {name: several for several in names.values() if len(several) > 1 for name in several}
