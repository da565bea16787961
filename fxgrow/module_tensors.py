"""The tensors of a module by their names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def named_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Every parameter and buffer by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def place(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter or buffer, keeping its kind and whether it is saved."""
    path, _, leaf = name.rpartition(".")
    owner = root.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        setattr(owner, leaf, tensor)
    else:
        owner._buffers[leaf] = tensor
