"""Entries picked by indices that only a run tells: the same indices pick the same old entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxgrow.proof.claims import Claim, Unproved, both_copies, carried, is_new, spare, spare_copies
from fxgrow.proof.node_pair import Use


def picked(use: Use, axes: Sequence[int | None]) -> Claim:
    """`x[index]`: axis k of the output is axis `axes[k]` of x, or (None) one of the indices.

    Raises
    ------
    Unproved: an index has grown, or what it picks from.
    """
    use.rule = "entries picked by index"
    use.same_numbers()
    given = use.claims()
    x, passing = use.equal(given[0]), [axis for axis in axes if axis is not None]
    if not all(use.equal(index).same for index in given[1:]):
        raise Unproved("an index has grown")
    if any(position is not None for axis, position in enumerate(x.maps) if axis not in passing):
        raise Unproved("entries are picked along an axis that has grown")
    return carried(x, axes, use.value.shape)


def gathered(use: Use, axis: int) -> Claim:
    """`gather`: at each place of an index, the entry of x at that place, but for one axis, where the index says.

    Raises
    ------
    Unproved: that axis has grown, or x and the index have not grown alike on another.
    """
    use.rule = "entries picked by index"
    x, index = use.equal(use.claim()), use.equal(use.claim(2, "index"))
    axis %= max(1, x.rank)
    if x.maps[axis] is not None or index.maps[axis] is not None:
        raise Unproved("entries are picked along an axis that has grown")
    others = [k for k in range(x.rank) if k != axis]
    copies = {}
    for k in others:
        use.agreeing_maps((x.maps[k], index.maps[k]), (0, 0), f"axis {k}")
        own = torch.zeros(index.new[k], dtype=torch.long) if index.uniform else index.copies_of(k)
        if x.new[k] == index.new[k]:
            copies[k] = both_copies(x.copies_of(k), own)
    result = Claim(index.old, index.new, index.maps)
    zero = x.zeros_along(others)
    return Claim(result.old, result.new, result.maps, spare(zero & is_new(result)), spare_copies(copies))
