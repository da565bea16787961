"""Sums, means, maxima, norms, similarities: what happens along the axis that is reduced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxgrow import guards
from fxgrow.modules.containers import has_fractions
from fxgrow.proof.atoms import atoms_of
from fxgrow.proof.claims import Claim, Refuted, Unproved, carried
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules.movement import selected
from fxgrow.proof.rules.pointwise import combined, elementwise
from fxgrow.rules.reduction import Compared, OverItsNorm, Reduction


def reduced(law: Reduction, use: Use) -> Any:
    """A statistic, or several, over the axes that an argument names."""
    dims = use.argument(*law.place)
    if isinstance(dims, Claim):  # `torch.max(x, y)`
        return elementwise(use, "zero")
    if len(use.claims()) > 1:
        raise no_rule(use)
    x = use.equal(use.claim())
    axes = law.axes(plain(dims).old, x.rank)
    several = isinstance(use.value, tuple)
    shape = tuple(use.value[0].shape if several else use.value.shape)
    for axis in axes:
        _along(use, x, axis, law.kind)
    result = _gone(x, axes, len(shape) == x.rank, means=law.kind != "other")
    result = result if law.keeps_zero else replace(result, zero=None)
    if not several:
        return result
    return tuple(result if has_fractions(v) else replace(result, zero=None) for v in use.value)


def _gone(x: Claim, axes: list[int], kept: bool, means: bool) -> Claim:
    """A claim once some axes are reduced to one entry; unless they are kept, without them."""
    left = [k for k in range(x.rank) if kept or k not in axes]
    return carried(x, [None if k in axes else k for k in left], [1] * len(left), means)


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


def compared(law: Compared, use: Use) -> Claim:
    first, second = map(use.equal, use.claims())
    rank = max(first.rank, second.rank)
    axis = law.axis(use.new_module, use.given, rank)
    for claim in (first, second):
        use.fixed(claim, [axis, *(range(claim.rank - 2) if law.pairs else ())], "an axis that is compared, or batch,")
    if law.pairs:
        lead, old, new = use.value.shape[:-2], (first.old[-2], second.old[-2]), (first.new[-2], second.new[-2])
        copies = {len(lead) + k: claim.copies_of(claim.rank - 2) for k, claim in enumerate((first, second))}
        maps = (*[None] * len(lead), first.maps[-2], second.maps[-2])
        return Claim((*lead, *old), (*lead, *new), maps, copies=copies)
    both = replace(combined(use, [first, second], "other"), zero=None)
    return _gone(both, [rank + axis], len(use.value.shape) == rank, means=False)


def over_its_norm(law: OverItsNorm, use: Use) -> Claim:
    """A tensor over its norm along an axis, to which zeros add nothing; in a guard it is that of the core units.

    A guard is beside itself, or beside the op that it took the place of; arguments are in the guard's order.
    """
    dim = plain(use.argument(2, "dim", 1))
    guarded = use.new.target is guards.normalize
    use.rule = "over a norm of the old units" if guarded else "over its norm"
    use.same_numbers(places=(2, 4) if guarded else ())
    x = use.equal(use.claim(0, "x" if guarded else "input"))
    axis = int(dim.new) % x.rank
    if guarded:
        if dim.old % x.rank != axis:
            raise Refuted(f"the guard is taken over axis {dim.new}, the norm over axis {dim.old}")
        check_core(use, x, axis, plain(use.argument(4, "core")))
    else:
        _along(use, x, axis, "sum")
    return Claim(x.old, x.new, x.maps, x.zero, x.copies)


def check_core(use: Use, x: Claim, axis: int, core: Both) -> None:
    """The core of a guard is the units that it was, or (None) all units of the original."""
    before, after = (positions(ranges, size) for ranges, size in ((core.old, x.old[axis]), (core.new, x.new[axis])))
    if not torch.equal(x.map(axis)[after], before):
        raise Refuted(f"the core {core.new} is not the units that {core.old or 'the old ones'} were")
    use.checked(f"the core {core.new} is the {'old units' if core.old is None else 'units that it was'}")


def positions(core: Any, size: int) -> Tensor:
    """The units in the ranges of a core; None: all units."""
    if core is None:
        return torch.arange(size)
    ranges = [torch.arange(int(start), int(stop)) for start, stop in core]
    units = torch.cat(ranges) if ranges else torch.arange(0)
    if len(units) and (int(units.min()) < 0 or int(units.max()) >= size):
        raise Refuted(f"the core {core} lies outside an axis of {size} units")
    return units


def core_units(use: Use, x: Claim, axis: int, core: object) -> Claim:
    """`guards.core` put before a reduction: the old units of an axis, beside the tensor itself in the original."""
    use.rule = "the old units of an axis"
    x = use.equal(x)
    axis %= x.rank
    kept = selected(x, axis, positions(core, x.new[axis]))
    if kept.maps[axis] is not None:
        raise Unproved(f"the core {core} is not the old units in their order")
    use.checked(f"the core {core} is the old units in their order")
    return kept
