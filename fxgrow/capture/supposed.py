"""The shapes of what torch gives only where it has values: of sequences packed by their lengths, of losses, of counts.

What hangs on values is supposed: that all sequences are as long as the longest, that nothing is counted beyond what was
asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.containers import flat_tensors


def sequences(data: Tensor, batch_sizes: Tensor) -> int:
    """How many sequences are packed."""
    return len(data) // max(len(batch_sizes), 1)


def _packed(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    steps = x.shape[1 if batch_first else 0]
    return x.flatten(0, 1), lengths.new_empty(steps, dtype=torch.int64)


def _padded(data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: Any, steps: int) -> Any:
    count = sequences(data, batch_sizes)
    lead = (count, steps) if batch_first else (steps, count)
    return data.new_empty((*lead, *data.shape[1:])), batch_sizes.new_empty(count)


def _ctc_loss(
    scores: Tensor, targets: Tensor, lengths: Any, target_lengths: Any, blank: int = 0, reduction: int = 1, *others: Any
) -> Tensor:
    return scores.new_empty(() if reduction else scores.shape[1:-1])


def _counts(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    if not minlength:
        raise NotImplementedError
    return x.new_empty(minlength) if weights is None else weights.new_empty(minlength)


_ALIKE = (
    *("_sample_dirichlet", "_standard_gamma"),
    *("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"),
)
"""What is of the shape of the first tensor."""


def _alike(*given: Any, **named: Any) -> Tensor:
    return torch.empty_like(next(iter(flat_tensors((given, named)))))


SUPPOSED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_ALIKE, _alike),
    "_pack_padded_sequence": _packed,
    "_pad_packed_sequence": _padded,
    "ctc_loss": _ctc_loss,
    "bincount": _counts,
}
"""By the names of functions and methods."""

SUPPOSITIONS = {
    "_pack_padded_sequence": "how long sequences are that are packed: the longest is taken to fill its row",
    "bincount": "how far something is counted: no further than asked for",
}
"""What a record supposes, by the names of such functions."""
