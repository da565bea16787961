"""Entries picked by indices that are known only in a run: the same indices pick the same old entries."""

from __future__ import annotations

from typing import Any

import torch

from fxgrow.proof.claims import Claim, Unproved, carried
from fxgrow.proof.node_pair import Use, plain
from fxgrow.proof.rules.movement import moved
from fxgrow.rules.law import Law
from fxgrow.rules.picking import picking_axes


def item(law: Law, use: Use) -> Any:
    """`x[index]`: picked, where an index is a tensor whose values are not known; a movement, else."""
    x, *indices = use.claims()
    if not isinstance(use.args[0], Claim) or all(index.constant for index in indices):
        return moved(law, use)
    index = use.argument(1, "index")
    values = [v.old if isinstance(v, Claim) else plain(v).old for v in (index if isinstance(index, tuple) else [index])]
    axes = picking_axes([torch.empty(v) if isinstance(v, tuple) else v for v in values], x.rank)
    if axes is None:
        return moved(law, use)
    use.rule = "entries picked by index"
    use.same_numbers()
    x = use.equal(x)
    if not all(use.equal(index).same for index in indices):
        raise Unproved("an index has grown")
    if any(position is not None for axis, position in enumerate(x.maps) if axis not in axes):
        raise Unproved("entries are picked along an axis that has grown")
    return carried(x, axes, use.value.shape)
