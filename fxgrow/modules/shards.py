"""Parameters sharded over processes (torch.distributed's DTensor): what this process holds of them, and of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import TrainingError
from fxgrow.modules.libraries import home_of
from fxgrow.modules.tensors import OF_MODULES


def is_divided(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; told by what it has, since importing the class takes a while."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def refuse_divided(named: Iterable[tuple[str, Tensor]], purpose: str) -> None:
    """Say that something cannot be done with parameters divided among processes.

    Raises
    ------
    TrainingError: one of them is.
    """
    name = next((name for name, tensor in named if is_divided(tensor)), None)
    if name is not None:
        raise TrainingError(
            f"the parameter is divided among processes, and {purpose} needs all of it",
            where=name,
            remedy="gather the model and its optimizer's state first (torch.distributed.checkpoint.state_dict)",
        )


def whole(tensor: Any) -> Tensor:
    """All entries of a tensor, gathered from all processes where it is divided; each of them has to ask for it."""
    return tensor.full_tensor() if is_divided(tensor) else tensor.detach()  # type: ignore[no-any-return]


class Gathered(Mapping[str, Tensor]):
    """Tensors by name, of which each is gathered whenever it is asked for. All processes have to ask for the same."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return whole(self.tensors[name].detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def mesh_of(tensors: Iterable[Any]) -> Any:
    """The mesh of processes among which the first divided one of some tensors is divided; None where none is."""
    return next((tensor.device_mesh for tensor in tensors if is_divided(tensor)), None)


def told_apart(fingerprints: Mapping[str, str], mesh: Any) -> list[str]:
    """The names for which the processes of a mesh have different fingerprints."""
    seen = {frozenset(fingerprints.items())}
    for group in mesh.get_all_groups():
        several: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(several, seen, group=group)
        seen = set().union(*several)
    apart = frozenset().union(*seen) - frozenset.intersection(*seen)
    return sorted({name for name, _ in apart})


def alike_undivided(tensor: Tensor) -> Tensor:
    """A tensor of the size, the precision and on the device of another one, which takes no memory and has no values."""
    return local_part(tensor).new_empty(1).expand(tensor.shape) if is_divided(tensor) else tensor


def divide(data: Tensor, like: Any) -> Tensor:
    """A tensor divided among processes as another of its shape is; each process has all of it."""
    if not is_divided(like):
        return data
    from torch.distributed.tensor import DTensor

    part = data[_slices(like)].clone()
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def fill(tensor: Any, data: Tensor) -> None:
    """Let a tensor, whether it is divided or not, have the entries of another, of which each process has all."""
    with torch.no_grad():
        local_part(tensor).copy_(data[_slices(tensor)])


def _slices(tensor: Any) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in local_ranges(tensor))


def undivided(module: nn.Module) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class and the attributes that a module has, or had before torch's `fully_shard`."""
    kind, state = type(module), module.__dict__
    if any(
        name.startswith(_MARKS) for name in state.keys() - OF_MODULES
    ):  # layers inside a divided block have marks, too
        state = {name: value for name, value in state.items() if not name.startswith(_MARKS)}
    if not hasattr(kind, "reshard") or kind.__mro__[1].__module__.partition(".fsdp")[0] != "torch.distributed":
        return kind, state
    for name, marks in _HOOKS.items():
        of_torch = {k for k, hook in state[name].items() if home_of(hook).startswith("torch.distributed.")}
        for attribute in (name, *marks):
            state[attribute] = type(state[attribute])(
                (key, hook) for key, hook in state[attribute].items() if key not in of_torch
            )
    return kind.__mro__[2], state


_HOOKS = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
}
"""Where a module keeps its hooks, and what it keeps of them by the same keys."""


_MARKS = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""Attributes that `fully_shard` gives to modules."""


def local_part(tensor: Any) -> Tensor:
    """The entries of a tensor that this process holds."""
    part: Tensor = tensor.to_local() if is_divided(tensor) else tensor
    return part


def local_ranges(tensor: Any) -> tuple[tuple[int, int], ...]:
    """Where on each axis the entries lie that this process holds: half-open ranges."""
    if not is_divided(tensor):
        return tuple((0, size) for size in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, starts = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple((start, start + size) for start, size in zip(starts, sizes, strict=True))


def groups_of(tensor: Any) -> tuple[Any, ...]:
    """The groups of processes among which a tensor is divided; none where each holds all of it."""
    if not is_divided(tensor):
        return ()
    axes = [axis for axis, place in enumerate(tensor.placements) if place.is_shard()]
    return tuple(tensor.device_mesh.get_group(axis) for axis in axes)


def add_up(sums: Tensor, groups: Iterable[tuple[tuple[Any, ...], list[int]]]) -> Tensor:
    """Sums over what each process holds, added up over the groups that share them.

    groups: for each set of groups of processes, the places of `sums` that these share.
    """
    for members, places in groups:
        part = sums[places]
        for group in members:
            torch.distributed.all_reduce(part, group=group)
        sums[places] = part
    return sums
