"""Weights that a copy of a model borrows: whatever a forward writes into them is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxgrow.modules.containers import flat_tensors
from fxgrow.rules.calls import writes_by_name


class Borrowed(TorchFunctionMode):
    """Puts back, at its end, what is written into the parameters of a model, whichever view of them is written to.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> before = layer.weight.item()
    >>> with Borrowed(layer), torch.no_grad():
    ...     _ = layer.weight.data.zero_()
    >>> layer.weight.item() == before
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parameters = {_storage(p): p for p in nn.Module.parameters(model)}
        self.kept: dict[int, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        name = getattr(function, "__name__", "")
        scaled = name in ("embedding", "embedding_bag") and (keywords.get("max_norm") or args[3:4]) not in (None, ())
        if keywords.get("out") is not None or writes_by_name(name) or scaled:  # too long rows, in place
            for tensor in flat_tensors((args, keywords)):
                place = _storage(tensor)
                if place in self.parameters and place not in self.kept:
                    self.kept[place] = self.parameters[place].detach().clone()
        return function(*args, **keywords)

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        for place, value in self.kept.items():
            self.parameters[place].detach().copy_(value)


def _storage(tensor: Tensor) -> int:
    """What is one for all views of some entries, also where a wrapper of tensors holds them and has no address."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)
