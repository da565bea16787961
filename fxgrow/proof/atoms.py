"""What each position of an axis stands for: an old unit, a unit that can be anything, zero, or the mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxgrow.proof.claims import Claim, Refuted, at_old
from fxgrow.proof.values import exact


@dataclass(frozen=True)
class Atoms:
    """What each position of an axis stands for.

    index: an old unit, or old size + a class of equal units that can be anything, -1 for zero, -2 for the mean.
    size: the old size. names: a position for each class. twins: old unit -> the first old unit that it equals,
    where a new unit equals both; None: there are no such.
    """

    index: Tensor
    size: int
    names: Tensor
    twins: Tensor | None = None

    @property
    def count_free(self) -> int:
        return int((self.index >= self.size).sum())

    @property
    def count_zero(self) -> int:
        return int((self.index == -1).sum())

    @property
    def count_mean(self) -> int:
        return int((self.index == -2).sum())

    def counts(self) -> Tensor:
        """How many positions stand for each old unit and each class."""
        return torch.bincount(self.index[self.index >= 0], minlength=self.size + len(self.names))

    def adds_up(self) -> Tensor:
        """Old units for which several positions stand. Shape `[old size]`, bool."""
        several = self.counts()[: self.size] > 1
        if self.twins is not None:
            several = several | (torch.bincount(self.twins, minlength=self.size) > 1)
        return torch.ones_like(several) if self.count_mean else several

    @property
    def simple(self) -> bool:
        """Whether every old unit stands for itself alone and every free unit differs from all others."""
        return bool((self.counts() == 1).all()) and not self.count_mean


def atoms_of(claim: Claim, axis: int) -> Atoms:
    """What the positions of an axis stand for, by what is claimed of a tensor."""
    position, size = claim.map(axis), claim.old[axis]
    source = claim.copies_of(axis)
    owner = torch.full((len(position),), -1, dtype=torch.long)
    owner.scatter_reduce_(0, source, position, "amax")
    index = torch.where(position >= 0, position, owner[source])
    zeros = claim.zeros_along([axis]).flatten().expand(len(position))
    new = position < 0
    if axis in claim.means:
        index = torch.where(claim.means[axis] & (index < 0), -2, index)
    index = torch.where(index == -1, size + source, index)
    index = torch.where(zeros & new, -1, index)
    free = index >= size
    classes, named = torch.unique(index[free], return_inverse=True)
    index[free] = size + named
    return Atoms(index, size, classes - size, _twins(position, source, size))


def _twins(position: Tensor, source: Tensor, size: int) -> Tensor | None:
    """Old unit -> the first old unit of its class, in classes that have new units too; None if no class has two."""
    new, old = position < 0, (position >= 0).nonzero().flatten()
    shared = source[new].unique()
    if not len(shared) or len(source[old].unique()) == len(old):
        return None
    first_of = torch.full((len(position),), size, dtype=torch.long)
    first_of.scatter_reduce_(0, source[old], position[old], "amin")
    twins = torch.arange(size)
    among = old[torch.isin(source[old], shared)]
    twins[position[among]] = first_of[source[among]]
    return None if torch.equal(twins, torch.arange(size)) else twins


def added_up(columns: Tensor, axis: int, twins: Tensor) -> Tensor:
    """Weights by old unit, those of equal units added up at the first of them."""
    columns = exact(columns)
    return torch.zeros_like(columns).index_add_(axis, twins.to(columns.device), columns)


def collapsed(value: Tensor, axis: int, atoms: Atoms) -> tuple[Tensor, Tensor]:
    """Weights by old unit, and weights by class of free units."""
    index, size = atoms.index, atoms.size
    if len(index) != value.shape[axis]:
        raise Refuted(f"a weight has {value.shape[axis]} columns for {len(index)} units")
    if atoms.simple:
        position = torch.where(index < size, index.clamp(min=-1), -1)
        old = at_old(value, [*[None] * axis, position], [*[0] * axis, size])
        return old, value.index_select(axis, (index >= size).nonzero().flatten().to(value.device))
    shape = list(value.shape)
    shape[axis] = size + len(atoms.names)
    known = (index >= 0).nonzero().flatten().to(value.device)
    columns = exact(value.index_select(axis, known))
    total = columns.new_zeros(shape).index_add_(axis, index.to(value.device)[known], columns)
    old, free = total.narrow(axis, 0, size), total.narrow(axis, size, len(atoms.names))
    mean = (index == -2).nonzero().flatten().to(value.device)
    if len(mean):
        old = old + exact(value.index_select(axis, mean)).sum(axis, keepdim=True) / size
    return old, free
