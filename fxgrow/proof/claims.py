"""Claims about a tensor of the grown graph, compared with the tensor of the original at the same place.

A claim has two parts. The old part: entry e of the grown tensor, at a position that is old on every axis,
equals the entry of the original at the positions that `maps` say. The new part: which other entries are zero,
which equal another entry (copies, mirror pairs), which are the mean of the old units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fxgrow.modules.containers import along

Map = Tensor | None
"""New position -> old position, or -1 where it is new. None: the axis is as it was."""


class Unproved(Exception):
    """A step for which no rule gives a proof; says why."""


class Refuted(Exception):
    """A condition that the actual values break; says where."""


@dataclass(frozen=True)
class HeldValues:
    """Actual values, old and new, of a tensor made of parameters and constants only.

    exact: they are stored values, so that old and new must agree to the bit where growth does not round.
    precision: the unit in the last place of the parameters they come from. fills: how growth filled new entries,
    which says what is worth looking for in them and proves nothing. rounded: growth rounded old entries too.
    """

    old: Tensor
    new: Tensor
    name: str
    exact: bool = True
    precision: float = 0.0
    fills: frozenset[str] = frozenset()
    rounded: bool = False


@dataclass(frozen=True, eq=False)
class Moved:
    """Where entries come from that were moved: the tensor that they were in, and their places in it, counted on.

    Kept where means lie along an axis that was folded into another: a later move may unfold it.
    """

    source: Claim
    old: Tensor
    new: Tensor


@dataclass(frozen=True, eq=False)
class Claim:
    """What is known of a grown tensor beside the original one.

    old, new: shapes. maps: one a axis. zero: which entries are zero, a bool tensor that broadcasts to `new`.
    copies: axis -> position -> the first position along that axis whose entries are all equal to its own.
    means: axis -> which positions hold the mean of the old positions of that axis. held: the values, where
    they are known; the old part is then not claimed but can be checked. nonnegative: no entry is below zero.
    moved: what its entries were before a move. uniform: all entries are one number, in both models, so that any map
    would be as true.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    maps: tuple[Map, ...]
    zero: Tensor | None = None
    copies: dict[int, Tensor] = field(default_factory=dict)
    means: dict[int, Tensor] = field(default_factory=dict)
    held: HeldValues | None = None
    nonnegative: bool = False
    moved: Moved | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        """What is known in its smallest form: nothing is kept that says nothing."""
        copies = {k: source for k, source in self.copies.items() if not torch.equal(source, torch.arange(len(source)))}
        means = {k: where for k, where in self.means.items() if bool(where.any())}
        for name, known in (("zero", spare(self.zero)), ("copies", copies), ("means", means)):
            object.__setattr__(self, name, known)

    @property
    def rank(self) -> int:
        return len(self.new)

    @property
    def same(self) -> bool:
        """Whether the grown tensor is claimed to be the original."""
        return self.held is None and all(m is None for m in self.maps)

    @property
    def constant(self) -> bool:
        """Whether its values are known and are one and the same in both models, whatever their parameters."""
        return self.held is not None and self.held.old is self.held.new

    def map(self, axis: int) -> Tensor:
        """The map of an axis, spelled out."""
        position = self.maps[axis]
        return torch.arange(self.new[axis]) if position is None else position

    def copies_of(self, axis: int) -> Tensor:
        """The copies along an axis, spelled out; all that hold the mean are copies of each other, as is one number."""
        if self.uniform:
            return torch.zeros(self.new[axis], dtype=torch.long)
        copies = self.copies.get(axis, torch.arange(self.new[axis]))
        if axis not in self.means:
            return copies
        classes = copies[self.means[axis]]
        return torch.where(torch.isin(copies, classes), classes.min(), copies)

    def equal_along(self, axis: int) -> Tensor:
        """The copies along an axis, those included that are equal because they are all zero."""
        copies, zero = self.copies_of(axis), self.zeros_along([axis]).flatten()
        if not bool(zero.any()):
            return copies
        classes = copies[zero.expand(len(copies))]
        return torch.where(torch.isin(copies, classes), classes.min(), copies)

    def repeats(self, axis: int) -> bool:
        """Whether any positions along an axis are known to be copies of each other."""
        return axis in self.copies or axis in self.means

    def zeros(self) -> Tensor:
        """Which entries are zero, broadcastable."""
        return torch.zeros((1,) * self.rank, dtype=torch.bool) if self.zero is None else self.zero

    def zeros_along(self, axes: Iterable[int]) -> Tensor:
        """Which positions of some axes are zero whatever the others; the others have size one."""
        zero, kept = self.zeros(), set(axes)
        for axis in range(self.rank):
            if axis not in kept and zero.shape[axis] > 1:
                zero = zero.all(axis, keepdim=True)
        return zero


def unchanged(shape: Sequence[int], nonnegative: bool = False) -> Claim:
    """The claim that a tensor of this shape is the original."""
    return Claim(tuple(shape), tuple(shape), (None,) * len(shape), nonnegative=nonnegative)


def one_number(old: Sequence[int], new: Sequence[int], maps: Sequence[Map], zero: bool) -> Claim:
    """The claim of a tensor all of whose entries are one number, zero or not."""
    means = {axis: position < 0 for axis, position in enumerate(maps) if position is not None}
    mask = torch.ones((1,) * len(new), dtype=torch.bool) if zero else None
    return Claim(tuple(old), tuple(new), tuple(maps), mask, {}, means, uniform=True)


def settled(position: Tensor) -> Map:
    """A map in its simplest form: None if every position is where it was."""
    return None if torch.equal(position, torch.arange(len(position))) else position


def same_map(a: Map, b: Map) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def spare(zero: Tensor | None) -> Tensor | None:
    """A mask in its smallest broadcastable form, or None if nothing is zero."""
    if zero is None or not bool(zero.any()):
        return None
    for axis in range(zero.ndim):
        if zero.shape[axis] > 1 and bool((zero == zero.narrow(axis, 0, 1)).all()):
            zero = zero.narrow(axis, 0, 1)
    return zero


def is_new(claim: Claim) -> Tensor:
    """Which entries are at a new position of some axis, broadcastable."""
    new = torch.zeros((1,) * claim.rank, dtype=torch.bool)
    for axis, position in enumerate(claim.maps):
        if position is not None:
            new = new | along(position < 0, axis, claim.rank)
    return new


def both_copies(first: Tensor, second: Tensor) -> Tensor:
    """Copies that two tensors have in common: equal in both at the same time. Each `[positions]`."""
    pair = first * len(first) + second
    _, classes = torch.unique(pair, return_inverse=True)
    return earliest(classes)


def earliest(classes: Tensor) -> Tensor:
    """Position -> the earliest position of its class."""
    first = torch.full((len(classes),), len(classes), dtype=torch.long)
    first.scatter_reduce_(0, classes, torch.arange(len(classes)), "amin")
    return first[classes]


def old_positions_cover(position: Tensor, size: int) -> bool:
    """Whether a map has every old position exactly once."""
    old = position[position >= 0]
    return len(old) == size and torch.equal(old.sort().values, torch.arange(size))


def inverse(position: Tensor, size: int) -> Tensor:
    """Old position -> its new position, for a map that has each once."""
    place = torch.empty(size, dtype=torch.long)
    where = (position >= 0).nonzero().flatten()
    place[position[where]] = where
    return place


def at_old(tensor: Tensor, maps: Sequence[Map], old: Sequence[int]) -> Tensor:
    """The old part of a tensor, in the order of the original."""
    for axis, position in enumerate(maps):
        if position is not None and axis < tensor.ndim and tensor.shape[axis] > 1:
            place = inverse(position, old[axis])
            tensor = taken(tensor, axis, place)
    return tensor


def taken(tensor: Tensor, axis: int, place: Tensor) -> Tensor:
    """Positions of one axis: a view where they are consecutive."""
    if len(place) and torch.equal(place, torch.arange(int(place[0]), int(place[0]) + len(place))):
        return tensor.narrow(axis, int(place[0]), len(place))
    return tensor.index_select(axis, place.to(tensor.device))


def split_axis(claim: Claim, axis: int, old: tuple[int, int], new: tuple[int, int]) -> Claim:
    """One axis taken apart into two, row-major.

    Raises
    ------
    Unproved: the map of the axis is not one of each part.
    """
    position = claim.maps[axis]
    if position is None and old == new:
        maps: tuple[Map, Map] = (None, None)
    else:
        grid = claim.map(axis).reshape(new)
        row, column = _parts_of(grid, old)
        maps = (settled(row) if old[0] == new[0] else row, settled(column) if old[1] == new[1] else column)
    zero = claim.zero
    if zero is not None:
        size = new if zero.shape[axis] > 1 else (1, 1)
        zero = zero.reshape(*zero.shape[:axis], *size, *zero.shape[axis + 1 :])
    shift = {k: k + (k > axis) for k in range(claim.rank)}
    copies = {shift[k]: source for k, source in claim.copies.items() if k != axis}
    means = {shift[k]: where for k, where in claim.means.items() if k != axis}
    if axis in claim.copies:
        grid = claim.copies[axis].reshape(new)
        rows, columns = grid // new[1], grid % new[1]
        if bool((rows == rows[:, :1]).all()) and bool((columns == columns[:1]).all()):
            copies |= {axis: rows[:, 0], axis + 1: columns[0]}
    if axis in claim.means:
        if old[0] == new[0] == 1:
            means[axis + 1] = claim.means[axis]
        elif old[1] == new[1] == 1:
            means[axis] = claim.means[axis]
    held = claim.held
    if held is not None:
        held = replace(
            held,
            old=held.old.reshape(*claim.old[:axis], *old, *claim.old[axis + 1 :]),
            new=held.new.reshape(*claim.new[:axis], *new, *claim.new[axis + 1 :]),
        )
    return Claim(
        (*claim.old[:axis], *old, *claim.old[axis + 1 :]),
        (*claim.new[:axis], *new, *claim.new[axis + 1 :]),
        (*claim.maps[:axis], *maps, *claim.maps[axis + 1 :]),
        zero,
        copies,
        means,
        held,
        claim.nonnegative,
    )


def _parts_of(grid: Tensor, old: tuple[int, int]) -> tuple[Tensor, Tensor]:
    known = grid >= 0
    row = torch.where(known, grid // old[1], -1).amax(1)
    column = torch.where(known, grid % old[1], -1).amax(0)
    both = (row[:, None] >= 0) & (column[None, :] >= 0)
    if not torch.equal(torch.where(both, row[:, None] * old[1] + column[None, :], -1), grid):
        raise Unproved("the old units of an axis are not those of its factors")
    return row, column


def merge_axes(claim: Claim, axis: int) -> Claim:
    """Two neighbouring axes as one, row-major."""
    old, new = claim.old[axis] * claim.old[axis + 1], claim.new[axis] * claim.new[axis + 1]
    first, second = claim.maps[axis], claim.maps[axis + 1]
    position: Map = None
    if first is not None or second is not None:
        rows, columns = claim.map(axis)[:, None], claim.map(axis + 1)[None, :]
        position = torch.where((rows < 0) | (columns < 0), -1, rows * claim.old[axis + 1] + columns).flatten()
    zero = claim.zero
    if zero is not None:
        size = zero.shape[axis : axis + 2]
        if tuple(size) != (1, 1):
            zero = zero.expand(*zero.shape[:axis], claim.new[axis], claim.new[axis + 1], *zero.shape[axis + 2 :])
        zero = zero.reshape(*zero.shape[:axis], -1, *zero.shape[axis + 2 :])
    shift = {k: k - (k > axis) for k in range(claim.rank)}
    copies = {shift[k]: source for k, source in claim.copies.items() if k not in (axis, axis + 1)}
    means = {shift[k]: where for k, where in claim.means.items() if k not in (axis, axis + 1)}
    if axis in claim.copies or axis + 1 in claim.copies:
        copies[axis] = (
            claim.copies_of(axis)[:, None] * claim.new[axis + 1] + claim.copies_of(axis + 1)[None, :]
        ).flatten()
    for k, other in ((axis, axis + 1), (axis + 1, axis)):
        if k in claim.means and claim.new[other] == claim.old[other] == 1:
            means[axis] = claim.means[k]
    return Claim(
        (*claim.old[:axis], old, *claim.old[axis + 2 :]),
        (*claim.new[:axis], new, *claim.new[axis + 2 :]),
        (*claim.maps[:axis], position, *claim.maps[axis + 2 :]),
        zero,
        copies,
        means,
        None,
        claim.nonnegative,
    )


def carried(claim: Claim, axes: Sequence[int | None], shape: Sequence[int], means: bool = True) -> Claim:
    """What a tensor is known to be that takes after another on some axes: its axis k is axis `axes[k]` of that one.

    axes: in increasing order; None: an axis of its own, as long as `shape` says in both models. means: stay means.
    """
    kept = [axis for axis in axes if axis is not None]
    old, new = (
        tuple(size if axis is None else sizes[axis] for axis, size in zip(axes, shape, strict=True))
        for sizes in (claim.old, claim.new)
    )
    result = Claim(old, new, tuple(None if axis is None else claim.maps[axis] for axis in axes))
    zero = claim.zeros_along(kept)
    zero = zero.reshape([1 if axis is None else zero.shape[axis] for axis in axes])
    return replace(
        result,
        zero=zero & is_new(result),
        copies={k: claim.copies_of(axis) for k, axis in enumerate(axes) if axis is not None and claim.repeats(axis)},
        means={k: claim.means[axis] for k, axis in enumerate(axes) if means and axis in claim.means},
    )
