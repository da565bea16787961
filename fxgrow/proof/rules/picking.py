"""Entries picked by indices that are known only in a run: the same indices pick the same old entries."""

from __future__ import annotations

from collections.abc import Sequence

from fxgrow.proof.claims import Claim, Unproved, carried
from fxgrow.proof.node_pair import Use


def picked(use: Use, axes: Sequence[int | None]) -> Claim:
    """`x[index]`: axis k of the output is axis `axes[k]` of x, or (None) one of the indices.

    Raises
    ------
    Unproved: an index has grown, or what it picks from.
    """
    use.rule = "entries picked by index"
    use.same_numbers()
    claims = use.claims()
    x, passing = use.equal(claims[0]), [axis for axis in axes if axis is not None]
    if not all(use.equal(index).same for index in claims[1:]):
        raise Unproved("an index has grown")
    if any(position is not None for axis, position in enumerate(x.maps) if axis not in passing):
        raise Unproved("entries are picked along an axis that has grown")
    return carried(x, axes, use.value.shape)
