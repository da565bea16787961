"""Parameters divided among processes (torch.distributed's DTensor): what this process holds of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fxgrow.errors import TrainingError


def is_divided(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; told by what it has, since importing the class takes a while."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def refuse_divided(named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Say that something cannot be done with parameters divided among processes.

    Raises
    ------
    TrainingError: one of them is.
    """
    name = next((name for name, tensor in named if is_divided(tensor)), None)
    if name is not None:
        raise TrainingError(
            f"the parameter is divided among processes, and {what} needs all of it",
            where=name,
            remedy="grow and transfer on whole parameters (torch.distributed.checkpoint.state_dict gathers a model "
            "and its optimizer's state), then divide the grown model",
        )


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
