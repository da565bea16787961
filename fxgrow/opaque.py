"""What stays one node of a graph: functions with a backward of their own, modules whose hooks change nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class CustomFunction(nn.Module):
    """A `torch.autograd.Function` as a module, so that the grown model keeps its backward."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function.__name__


def hooked(module: nn.Module) -> bool:
    """Whether forward hooks can change what the module computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
