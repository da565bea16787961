"""What stays one node: functions with their own backward, numbers that follow the mode, packed sequences, modules."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fxgrow.errors import FxgrowError


class CustomFunction(nn.Module):
    """A `torch.autograd.Function` as a module, so that the grown model keeps its backward."""

    law: Any = None
    """The law that its forward was seen to obey, where it has no rule."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function.__name__


class NotScripted(nn.Module):
    """A module whose forward torch.jit.script cannot read."""

    def __prepare_scriptable__(self: nn.Module) -> Any:
        remedy = "use torch.jit.trace or torch.export"
        what = "torch.jit.script cannot read the code of what growth changed in it"
        raise FxgrowError(what, where=type(self).__name__, remedy=remedy)


class ByMode(nn.Module):
    """A number that differs between train and eval mode, as a module so that it follows `.train()`."""

    def __init__(self, train_value: Any, eval_value: Any) -> None:
        super().__init__()
        self.train_value = train_value
        self.eval_value = eval_value

    def forward(self) -> Any:
        return self.train_value if self.training else self.eval_value

    def extra_repr(self) -> str:
        return f"train={self.train_value}, eval={self.eval_value}"


def packed_sequence(
    data: Tensor, batch_sizes: Tensor, sorted_indices: Tensor | None = None, unsorted_indices: Tensor | None = None
) -> PackedSequence:
    """A `PackedSequence` of its parts, which are not looked at."""
    return PackedSequence._make((data, batch_sizes, sorted_indices, unsorted_indices))


OPAQUE = (CustomFunction, ByMode)
"""What a capture puts into the tree of a model, and no class of the user's has."""


AROUND_FORWARD = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
"""The attributes of a module that hold hooks which run around its forward."""


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run around the forward of a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def hooked(module: nn.Module) -> bool:
    """Whether forward hooks, or a forward that it was given by hand, can change what the module computes."""
    return has_hooks(module) or "forward" in module.__dict__


def without_hooks(module: nn.Module) -> nn.Module:
    """A layer over the same tensors without the hooks around its forward; itself if there are none."""
    if not has_hooks(module):
        return module
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    take_off_hooks(twin)
    return twin


def take_off_hooks(module: nn.Module) -> None:
    """Let no hooks run around the forward of a module; dictionaries that other modules share stay as they are."""
    module.__dict__.update({name: OrderedDict() for name in AROUND_FORWARD})
