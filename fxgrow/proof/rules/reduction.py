"""Sums, means, maxima, softmax: what happens along the axis that is reduced or coupled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from fxgrow.proof.atoms import atoms_of
from fxgrow.proof.claims import Claim, Refuted, Unproved, carried, spare
from fxgrow.proof.node_pair import Both, Use, plain
from fxgrow.proof.products import dropped
from fxgrow.proof.rules.normalisation import positions
from fxgrow.rules.calls import is_inexact


def reduced(use: Use, kind: Literal["sum", "mean", "other"], place: tuple[int, str], keeps_zero: bool = True) -> Any:
    """A statistic, or several, over the axes that an argument names; keeps_zero: it is zero where all entries are."""
    use.rule = "reduction"
    x = use.equal(use.claim())
    use.same_numbers()
    dims = plain(use.argument(*place)).old
    named = range(x.rank) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    axes = sorted(axis % max(1, x.rank) for axis in named)
    several = isinstance(use.value, tuple)
    shape = tuple(use.value[0].shape if several else use.value.shape)
    for axis in axes:
        _along(use, x, axis, kind)
    keep = len(shape) == x.rank
    result = carried(x, [None if k in axes else k for k in range(x.rank)], [1] * x.rank, means=kind != "other")
    result = result if keeps_zero else replace(result, zero=None)
    for axis in reversed(axes if not keep else []):
        result = dropped(result, axis)
    if not several:
        return result
    return tuple(result if is_inexact(v) else replace(result, zero=None) for v in use.value)


def _along(use: Use, x: Claim, axis: int, kind: str) -> None:
    """The statistic along one axis is that of the old units."""
    if x.maps[axis] is None:
        return
    atoms = atoms_of(x, axis)
    counts = atoms.counts()
    if atoms.count_free:
        where = int(atoms.names[0])
        raise Unproved(f"{use.name} is taken over unit {where}, which is new and can be anything")
    once = bool((counts == 1).all())
    evenly = bool((counts == counts[0]).all())
    if kind == "sum" and once and not atoms.count_mean:
        use.checked("the new units that it is taken over are zero")
    elif kind == "mean" and evenly and not atoms.count_zero:
        use.checked("the new units that it is taken over are the mean of the old, or copies of all of them")
    else:
        raise Refuted(f"{use.name} is taken over new units, which change it")


def over_its_norm(use: Use, axis: int) -> Claim:
    """A tensor over its norm along an axis, to which zeros add nothing."""
    use.rule = "over its norm"
    x = use.equal(use.claim())
    axis %= x.rank
    if x.maps[axis] is not None:
        atoms = atoms_of(x, axis)
        if atoms.count_free or atoms.count_mean or bool((atoms.counts() != 1).any()):
            raise Refuted(f"{use.name} is taken over new units")
        use.checked("the new units that it is taken over are zero")
    return Claim(x.old, x.new, x.maps, x.zero, x.copies)


def over_its_core(use: Use, x: Claim, axis: int, core: Both) -> Claim:
    """`guards.normalize`, its norm that of the units it was of in the original (core None: of all units)."""
    use.rule = "over a norm of the old units"
    x = use.equal(x)
    axis %= x.rank
    before, after = (positions(ranges, size) for ranges, size in ((core.old, x.old[axis]), (core.new, x.new[axis])))
    if not torch.equal(x.map(axis)[after], before):
        raise Refuted(f"the core {core.new} is not the units that the norm was taken over")
    use.checked(f"the core {core.new} is the units that the norm was taken over")
    return Claim(x.old, x.new, x.maps, x.zero, x.copies)


def of_one(claim: Claim, axis: int) -> Claim:
    """The claim once an axis is reduced to one entry."""
    reduced = carried(claim, [None if k == axis else k for k in range(claim.rank)], [1] * claim.rank, means=False)
    return replace(reduced, zero=None)


def core_units(use: Use, x: Claim, axis: int, core: object) -> Claim:
    """`guards.core` put before a reduction: the old units of an axis, beside the tensor itself in the original."""
    use.rule = "the old units of an axis"
    x = use.equal(x)
    axis %= x.rank
    ranges = [torch.arange(int(a), int(b)) for a, b in core]  # type: ignore[attr-defined]
    position = x.map(axis)[torch.cat(ranges)]
    if not torch.equal(position, torch.arange(x.old[axis])):
        raise Unproved(f"the core {core} is not the old units in their order")
    use.checked(f"the core {core} is the old units in their order")
    keep = torch.cat(ranges)
    zero = x.zero
    if zero is not None and zero.shape[axis] > 1:
        zero = zero.index_select(axis, keep)
    return Claim(
        x.old,
        tuple(len(keep) if k == axis else s for k, s in enumerate(x.new)),
        tuple(None if k == axis else m for k, m in enumerate(x.maps)),
        spare(zero),
        {k: c for k, c in x.copies.items() if k != axis},
        {k: m for k, m in x.means.items() if k != axis},
    )
