"""Entries picked by indices that are known only in a run: the same indices pick the same old entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxgrow.proof.claims import Claim, Unproved, carried
from fxgrow.proof.comparing import plain
from fxgrow.proof.node_pair import Use, claims_in
from fxgrow.proof.rules.movement import moved, overwritten
from fxgrow.proof.rules.pointwise import combined
from fxgrow.rules.law import Law
from fxgrow.rules.picking import picking_axes


def item(law: Law, use: Use) -> Any:
    """`x[index]`: picked, where an index is a tensor whose values are not known; a movement, else."""
    x, *indices = use.claims()
    if not isinstance(use.args[0], Claim) or all(index.constant for index in indices):
        return moved(law, use)
    axes = _axes(use, x)
    if axes is None:
        return moved(law, use)
    use.rule = "entries picked by index"
    return carried(_indexed(use, x, indices, axes), axes, use.value.shape)


def written(law: Law, use: Use) -> Claim:
    """`x[index] = y`: an entry is what it was or what is written; a movement, where no index is a tensor."""
    x, value, indices = use.claim(), use.argument(2, "value"), list(claims_in(use.argument(1, "index")))
    axes = _axes(use, x) if indices else None
    if axes is None:
        return overwritten(law, use)
    use.rule = "entries written by index"
    rest = [axis if axis in axes else None for axis in range(x.rank)]
    both = [_beside_ones(_indexed(use, x, indices, axes), rest)]
    if isinstance(value, Claim):
        value = use.equal(value)
        at = axes[len(axes) - value.rank :]
        if any(position is not None for axis, position in zip(at, value.maps, strict=True) if axis is None):
            raise Unproved("what is written has grown along what an index picks")
        both.append(_beside_ones(value, [at.index(axis) if axis is not None and axis in at else None for axis in rest]))
    silent = isinstance(value, Claim) or plain(value).new == 0
    return carried(combined(use, both, "other", [[*range(len(both))]] if silent else ()), rest, x.old)


def _axes(use: Use, x: Claim) -> list[int | None] | None:
    index = use.argument(1, "index")
    items = index if isinstance(index, tuple) else [index]
    return picking_axes([torch.empty(v.old) if isinstance(v, Claim) else plain(v).old for v in items], x.rank)


def _indexed(use: Use, x: Claim, indices: Sequence[Claim], axes: Sequence[int | None]) -> Claim:
    """What is indexed, where the same entries are meant in both models."""
    use.same_numbers()
    use.unchanged(indices, "an index")
    x = use.equal(x)
    use.fixed(x, set(range(x.rank)).difference(axes), "an axis along which entries are picked")
    return x


def _beside_ones(claim: Claim, axes: Sequence[int | None]) -> Claim:
    """What is known on some axes, beside axes of size one."""
    return carried(claim, axes, [1] * len(axes), means=False)
