"""Recognises wrappers around a model, and says what to pass instead."""

from __future__ import annotations

from torch import nn

WRAPPERS = {
    "DistributedDataParallel": ("pass model.module", "put its .module in its place"),
    "DataParallel": ("pass model.module", "put its .module in its place"),
    "FullyShardedDataParallel": ("grow the model before wrapping it", "grow the model before wrapping its parts"),
    "OptimizedModule": (
        "pass the model from before torch.compile (model._orig_mod)",
        "put its ._orig_mod in its place",
    ),
    "AveragedModel": ("pass its .module", "put its .module in its place"),
}
"""Classes of torch, with what to do about one that is around all of a model, and about one around a part."""


def wrapper_of(module: nn.Module) -> str | None:
    """The class of a module, if it is one that is put around a model.

    >>> wrapper_of(nn.DataParallel(nn.Linear(2, 2)))
    'DataParallel'
    """
    kind = type(module)
    return kind.__name__ if kind.__name__ in WRAPPERS and kind.__module__.startswith("torch.") else None
