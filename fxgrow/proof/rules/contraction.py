"""Sums of products: y[o] = sum over i of x[i] w[o, i].

With weights of known values the sum is collapsed: columns that meet zeros count for nothing, columns that
meet copies of one unit are added up, columns that meet the mean are spread over the old units. What is left
has to be the old weights at old units, and zero at units that can be anything.
"""

from __future__ import annotations

import enum
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fxgrow.proof.claims import (
    Claim,
    Map,
    Refuted,
    Unproved,
    at_old,
    both_copies,
    inverse,
    is_new,
    merge_axes,
    spare,
    spare_copies,
    spare_means,
    split_axis,
)
from fxgrow.proof.use import REPEATING, Both, Use, mean_positions, repeated
from fxgrow.proof.values import DERIVED_ULPS, ULPS, at_index, differing, first


@dataclass(frozen=True)
class Operand:
    """A factor of the products, one letter an axis."""

    claim: Claim
    letters: tuple[str, ...]

    def axis(self, letter: str) -> int:
        return self.letters.index(letter)

    def map(self, letter: str) -> Map:
        return self.claim.maps[self.axis(letter)]


def contract(
    use: Use,
    operands: Sequence[Operand],
    output: Sequence[str],
    bias: Operand | None = None,
    windows: Mapping[str, Slide] = MappingProxyType({}),
) -> Claim:
    """What is claimed of a sum of products.

    output: the letters that stay. windows: letters of space, over which a kernel slides: they stay, mixed.

    Raises
    ------
    Refuted: a weight that meets a new unit does not vanish. Unproved: the operands do not fit each other.
    """
    factors = _without_broadcasts(operands)
    weights = [k for k, factor in enumerate(factors) if factor.claim.held is not None]
    if len(factors) == len(weights) == 2:
        factors[0] = Operand(use.equal(factors[0].claim), factors[0].letters)
        weights = [1]
    if len(factors) != 2 or len(weights) != 1:
        factors = [Operand(use.equal(f.claim), f.letters) for f in factors]
        weights = []
    _check_windows(use, factors, windows)
    maps = {letter: _map(use, factors, letter) for letter in dict.fromkeys(a for f in factors for a in f.letters)}
    if bias is not None:
        _check_bias(use, bias, maps)
    if weights:
        weight, data = factors[weights[0]], factors[1 - weights[0]]
        weight = _masked(weight, data, windows)
        _collapse(use, weight, data, maps, output)
        return _outcome(use, [weight, data], maps, output, bias, windows, _effective(weight, data, output))
    _meet_zeros(use, factors, maps, output)
    return _outcome(use, factors, maps, output, bias, windows)


def _without_broadcasts(operands: Sequence[Operand]) -> list[Operand]:
    """Operands without the axes of size one that stretch to another's."""
    result = []
    for operand in operands:
        claim, letters = operand.claim, list(operand.letters)
        for axis in reversed(range(claim.rank)):
            others = [o for o in operands if o is not operand and letters[axis] in o.letters]
            wide = any(
                (o.claim.old[o.axis(letters[axis])], o.claim.new[o.axis(letters[axis])]) != (1, 1) for o in others
            )
            if wide and (claim.old[axis], claim.new[axis]) == (1, 1):
                claim = dropped(claim, axis)
                del letters[axis]
        result.append(Operand(claim, tuple(letters)))
    return result


def dropped(claim: Claim, axis: int) -> Claim:
    """A claim without an axis of size one."""
    keep = [k for k in range(claim.rank) if k != axis]
    held = claim.held
    if held is not None:
        held = replace(held, old=held.old.squeeze(axis), new=held.new.squeeze(axis))
    return Claim(
        tuple(claim.old[k] for k in keep),
        tuple(claim.new[k] for k in keep),
        tuple(claim.maps[k] for k in keep),
        claim.zero.squeeze(axis) if claim.zero is not None else None,
        {keep.index(k): v for k, v in claim.copies.items() if k != axis},
        {keep.index(k): v for k, v in claim.means.items() if k != axis},
        held,
        claim.nonnegative,
    )


def _check_windows(use: Use, factors: Sequence[Operand], windows: Mapping[str, Slide]) -> None:
    """New units under a kernel stand where its padding stood: last, and zero."""
    for factor in factors:
        for letter in set(windows).intersection(factor.letters):
            position, axis = factor.map(letter), factor.axis(letter)
            if position is None:
                continue
            size = factor.claim.old[axis]
            last = torch.equal(position[:size], torch.arange(size)) and bool((position[size:] < 0).all())
            zero = factor.claim.zeros_along([axis]).flatten().expand(len(position))
            if windows[letter] is not Slide.SAME or not last or not bool(zero[size:].all()):
                raise Unproved("a kernel slides over an axis that grows")
            use.checked("new units that the kernel slides over are zero, as the padding was")


def _map(use: Use, factors: Sequence[Operand], letter: str) -> Map:
    having = [f for f in factors if letter in f.letters]
    return use.agreeing_maps(
        (f.map(letter) for f in having), (f.claim.new[f.axis(letter)] for f in having), f"dimension {letter}"
    )


def _facing(mask: Tensor, own: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """A mask over some letters as one over others, those it lacks with size one."""
    order = [own.index(letter) for letter in wanted if letter in own]
    mask = mask.permute(order)
    for position, letter in enumerate(wanted):
        if letter not in own:
            mask = mask.unsqueeze(position)
    return mask


def _masked(weight: Operand, data: Operand, windows: Collection[str]) -> Operand:
    """Weights without the entries that meet zeros only."""
    shared = [letter for letter in data.letters if letter in weight.letters]
    zero = data.claim.zeros_along([data.axis(letter) for letter in shared])
    if not bool(zero.any()):
        return weight
    zero = zero.reshape([zero.shape[data.axis(letter)] for letter in shared])
    held = weight.claim.held
    assert held is not None
    met = ~_facing(zero, shared, weight.letters)
    masked = replace(held, new=held.new * met.to(held.new.device, held.new.dtype))
    return Operand(replace(weight.claim, held=masked), weight.letters)


def _collapse(use: Use, weight: Operand, data: Operand, maps: dict[str, Map], output: Sequence[str]) -> None:
    """Check that what weights make of new units adds up to nothing, and of old units to what it did."""
    claim, held = weight.claim, weight.claim.held
    assert held is not None
    summed = [a for a in weight.letters if a in data.letters and a not in output]
    kept = [None if a in summed else maps[a] for a in weight.letters]
    value, wanted = at_old(held.new, kept, claim.old), held.old
    loose = torch.full((1,) * claim.rank, not held.exact or held.rounded)
    rows = "rows of old outputs" if any(m is not None for m in kept) else "every row"
    for letter in summed:
        axis, source = weight.axis(letter), data.axis(letter)
        position = maps[letter]
        special = source in data.claim.copies or source in data.claim.means
        if position is None and not special:
            continue
        atoms = atoms_of(data.claim, source)
        value, free = _collapsed(value, axis, atoms)
        if atoms.twins is not None:
            value, wanted = (_added_up(columns, axis, atoms.twins) for columns in (value, wanted))
        loose = loose | atoms.adds_up().reshape([-1 if k == axis else 1 for k in range(claim.rank)])
        wrong = free != 0
        if free.numel() and bool(wrong.any()):
            place = first(wrong)
            what = "the columns of a pair or of copies" if special else "the column of a new unit"
            raise Refuted(
                f"{held.name}: {what} should add up to 0, but row {list(place[:axis] + place[axis + 1 :])} makes "
                f"{at_index(free, place):.6g} at column {int(atoms.names[place[axis]])}, and nothing is known of "
                f"the unit that it reads"
            )
        if atoms.count_free:
            vanish = "cancel" if special else "are zero"
            use.checked(f"in {rows}, columns of {held.name} at new units {vanish}")
        if atoms.count_zero:
            use.checked(f"{atoms.count_zero} new units that {held.name} reads are zero")
        if bool(atoms.adds_up().any()):
            use.checked(f"in {rows}, columns of {held.name} that read copies or means add up to the old ones (few ulp)")
    if value.shape != held.old.shape:
        raise Refuted(
            f"{held.name} is of shape {list(held.new.shape)}, which is not a growth of {list(held.old.shape)}"
        )
    bound = (ULPS if held.exact else DERIVED_ULPS) * held.precision
    wrong = value != wanted
    if bool(loose.any()):
        wrong = torch.where(loose.to(wrong.device), differing(value, wanted, bound, largest=not held.exact), wrong)
    if bool(wrong.any()):
        place = first(wrong)
        raise Refuted(
            f"{held.name}: old entry {list(place)} counts as {at_index(value, place):.9g}, "
            f"it should be {at_index(wanted, place):.9g}"
        )
    exact = held.exact and not held.rounded
    use.checked(f"old entries of {held.name} are the original's" + ("" if exact else " (few ulp)"))


def _effective(weight: Operand, data: Operand, output: Sequence[str]) -> Operand:
    """Weights as outputs see them, all rows: columns that meet copies or means added up. Old values are left out."""
    held = weight.claim.held
    assert held is not None
    value = held.new
    if not held.fills & (REPEATING | {"mean"}):
        return weight
    for letter in weight.letters:
        if letter in output or letter not in data.letters:
            continue
        axis, source = weight.axis(letter), data.axis(letter)
        atoms = atoms_of(data.claim, source)
        if not atoms.simple:
            value = torch.cat(_collapsed(value, axis, atoms), axis)
    return Operand(replace(weight.claim, held=replace(held, new=value)), weight.letters)


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


def _added_up(columns: Tensor, axis: int, twins: Tensor) -> Tensor:
    """Weights by old unit, those of equal units added up at the first of them."""
    total = torch.zeros_like(columns, dtype=torch.float64)
    return total.index_add_(axis, twins.to(columns.device), columns.double())


def _collapsed(value: Tensor, axis: int, atoms: Atoms) -> tuple[Tensor, Tensor]:
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
    total = torch.zeros(shape, dtype=torch.float64, device=value.device)
    known = (index >= 0).nonzero().flatten().to(value.device)
    total.index_add_(axis, index.to(value.device)[known], value.index_select(axis, known).double())
    old, free = total.narrow(axis, 0, size), total.narrow(axis, size, len(atoms.names))
    mean = (index == -2).nonzero().flatten().to(value.device)
    if len(mean):
        old = old + value.index_select(axis, mean).double().sum(axis, keepdim=True) / size
    return old, free


def _meet_zeros(use: Use, factors: Sequence[Operand], maps: dict[str, Map], output: Sequence[str]) -> None:
    """Where no factor is a weight, one of them is zero at each new unit that is summed over."""
    for letter, position in maps.items():
        if letter in output or position is None:
            continue
        having = [f for f in factors if letter in f.letters]
        new = (position < 0).nonzero().flatten()
        live = []
        for factor in factors:
            mask = ~factor.claim.zeros()
            for axis, own in enumerate(factor.letters):
                if mask.shape[axis] == 1:
                    continue
                if own == letter:
                    mask = mask.index_select(axis, new)
                elif maps[own] is not None and own in output:
                    mask = mask.index_select(axis, inverse(maps[own], factor.claim.old[axis]))  # type: ignore[arg-type]
            live.append((mask, factor.letters))
        if len(new) and bool(_product(live, ()).any()):
            raise Unproved(f"{use.name} sums over new units, and neither factor is known to be zero there")
        if len(having) < 2 and len(new):
            use.checked("new units that are summed over are zero")
        elif len(new):
            use.checked("one factor is zero at every new unit that is summed over")


def _product(masks: Sequence[tuple[Tensor, Sequence[str]]], output: Sequence[str]) -> Tensor:
    """Where a sum of products can differ from zero: an einsum over masks; axes of size one stretch."""
    letters = list(dict.fromkeys(a for _, own in masks for a in own))
    name = dict(zip(letters, string.ascii_letters, strict=False))
    sizes = {a: max(m.shape[own.index(a)] for m, own in masks if a in own) for a in letters}
    for a in letters:  # an axis on which no mask varies stays of size one
        sizes.setdefault(a, 1)
    equation = ",".join("".join(name[a] for a in own) for _, own in masks)
    kept = "".join(name[a] for a in output)
    return torch.einsum(f"{equation}->{kept}", *[m.float() for m, _ in masks]) > 0


def _check_bias(use: Use, bias: Operand, maps: dict[str, Map]) -> None:
    claim = bias.claim
    for axis, letter in enumerate(bias.letters):
        if (claim.old[axis], claim.new[axis]) != (1, 1):
            use.agreeing_maps((claim.maps[axis], maps[letter]), (0, 0), "the bias")
    if claim.held is not None:
        use.old_entries(claim.held, claim.maps, claim.old)


def _outcome(
    use: Use,
    factors: Sequence[Operand],
    maps: dict[str, Map],
    output: Sequence[str],
    bias: Operand | None,
    windows: Collection[str],
    effective: Operand | None = None,
) -> Claim:
    owner = {letter: next(f for f in factors if letter in f.letters) for letter in output}
    old = tuple(owner[a].claim.old[owner[a].axis(a)] for a in output)
    new = tuple(owner[a].claim.new[owner[a].axis(a)] for a in output)
    result = Claim(old, new, tuple(maps[a] for a in output))
    if all(maps[a] is None for a in output):
        return result
    zero = _zero_outputs(factors, maps, output, bias, windows) & is_new(result)
    copies: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}
    for axis, letter in enumerate(output):
        if letter in windows or maps[letter] is None:
            continue
        seen = [effective if effective is not None and f.claim.held is not None else f for f in factors]
        found = _copies(seen, letter, bias)
        if found is not None:
            copies[axis] = found
        mean = _mean(seen, letter, bias)
        if mean is not None:
            means[axis] = mean
    return Claim(old, new, result.maps, spare(zero), spare_copies(copies), spare_means(means))


def _zero_outputs(
    factors: Sequence[Operand],
    maps: dict[str, Map],
    output: Sequence[str],
    bias: Operand | None,
    windows: Collection[str],
) -> Tensor:
    live = []
    for factor in factors:
        held = factor.claim.held
        if held is not None:
            mask, letters = held.new != 0, list(factor.letters)
            for axis in reversed(range(len(letters))):  # kernels, and what neither stays nor meets the data
                if letters[axis] not in output and not any(
                    f is not factor and letters[axis] in f.letters for f in factors
                ):
                    mask = mask.any(axis)
                    del letters[axis]
            live.append((mask.cpu(), tuple(letters)))
        else:
            sliding = [k for k, a in enumerate(factor.letters) if a in windows]
            kept = [k for k in range(factor.claim.rank) if k not in sliding]
            live.append((~factor.claim.zeros_along(kept), factor.letters))
    zero = ~_product(live, output)
    if bias is not None:
        value = bias.claim.held.new == 0 if bias.claim.held is not None else bias.claim.zeros()
        zero = zero & _facing(value.cpu(), bias.letters, output)
    return zero


def _copies(factors: Sequence[Operand], letter: str, bias: Operand | None) -> Tensor | None:
    found: list[Tensor] = []
    operands = [*factors, *([bias] if bias is not None else [])]
    for operand in operands:
        if letter not in operand.letters:
            continue
        axis, held = operand.axis(letter), operand.claim.held
        if held is not None:
            if not (held.fills & REPEATING) and operand is not bias:
                return None
            found.append(repeated(held.new, axis).cpu())
        elif operand.claim.repeats(axis):
            found.append(operand.claim.copies_of(axis))
        elif operand.claim.new[axis] != 1:
            return None
    result: Tensor | None = None
    for one in found:
        result = one if result is None else both_copies(result, one)
    return result


def _mean(factors: Sequence[Operand], letter: str, bias: Operand | None) -> Tensor | None:
    """Positions whose outputs are means: one factor alone has the dimension, and there they are means."""
    having = [f for f in factors if letter in f.letters]
    if len(having) != 1:
        return None
    found: Tensor | None = None
    for operand in [*having, *([bias] if bias is not None and letter in bias.letters else [])]:
        axis, held = operand.axis(letter), operand.claim.held
        position = operand.claim.maps[axis]
        if held is not None:
            if "mean" not in held.fills or position is None:
                return None
            own = mean_positions(held.new, axis, position, held.precision)
        elif axis in operand.claim.means:
            own = operand.claim.means[axis]
        else:
            return None
        found = own if found is None else found & own
    return found


# -- the ops -------------------------------------------------------------------------------------------------


def linear(use: Use, x: Claim, weight: Claim, bias: Claim | None) -> Claim:
    """x `[..., i]`, weight `[o, i]`, bias `[o]` -> `[..., o]`."""
    use.rule = "linear"
    lead = tuple(f"n{k}" for k in range(x.rank - 1))
    return contract(
        use,
        [Operand(x, (*lead, "i")), Operand(weight, ("o", "i"))],
        (*lead, "o"),
        Operand(bias, ("o",)) if bias is not None else None,
    )


def bilinear(use: Use, one: Claim, two: Claim, weight: Claim, bias: Claim | None) -> Claim:
    """`[..., i]`, `[..., j]`, weight `[o, i, j]` -> `[..., o]`."""
    use.rule = "bilinear"
    lead = tuple(f"n{k}" for k in range(one.rank - 1))
    operands = [Operand(one, (*lead, "i")), Operand(two, (*lead, "j")), Operand(weight, ("o", "i", "j"))]
    return contract(use, operands, (*lead, "o"), Operand(bias, ("o",)) if bias is not None else None)


class Slide(enum.Enum):
    """How a kernel slides over an axis."""

    FIXED = "fixed"  # so that the axis cannot grow
    SAME = "same"  # one step at a time, over as many zeros at both ends as keep its size
    BY_UNIT = "by unit"  # it has one entry, so every unit is treated by itself


def slides(kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> list[Slide]:
    """How a kernel slides, by the arguments of a convolution that pads with zeros.

    >>> slides((1, 3, 3), 1, (0, 1, 0), 1)
    [<Slide.BY_UNIT: 'by unit'>, <Slide.SAME: 'same'>, <Slide.FIXED: 'fixed'>]
    """

    def each(value: Any) -> list[Any]:
        return [value] * len(kernel) if isinstance(value, (int, str)) else [*value] * (len(kernel) // len(value))

    found = []
    for size, step, pad, apart in zip(kernel, each(stride), each(padding), each(dilation), strict=True):
        reach = apart * (size - 1)
        kept = step == 1 and (pad == "same" or (pad == "valid" and reach == 0) or (pad != "valid" and 2 * pad == reach))
        if not kept or reach % 2:
            found.append(Slide.FIXED)
        else:
            found.append(Slide.SAME if reach else Slide.BY_UNIT)
    return found


def convolution(
    use: Use,
    x: Claim,
    weight: Claim,
    bias: Claim | None,
    groups: tuple[int, int],
    slides: Sequence[Slide],
    transposed: bool = False,
) -> Claim:
    """x `[b, g i, space]`, weight `[g o, i, kernel]` or, transposed, `[g i, o, kernel]` -> `[b, g o, space]`."""
    use.rule = "convolution"
    space = weight.rank - 2
    batched = x.rank == space + 2
    channels = 1 if batched else 0
    before, after = groups
    grouped = groups != (1, 1)
    inner = (weight.old[0] // before, weight.new[0] // after) if transposed else (weight.old[1], weight.new[1])
    if grouped:
        x = split_axis(x, channels, (before, inner[0]), (after, inner[1]))
        weight = split_axis(weight, 0, (before, weight.old[0] // before), (after, weight.new[0] // after))
        if bias is not None:
            size = (bias.old[0] // before, bias.new[0] // after)
            bias = split_axis(bias, 0, (before, size[0]), (after, size[1]))
    letters = tuple(f"s{k}" for k in range(space))
    windows = {a: slide for a, slide in zip(letters, slides, strict=True) if slide is not Slide.BY_UNIT}
    kernel = tuple(f"k{k}" for k in range(space))
    lead = ("b",) if batched else ()
    group = ("g",) if grouped else ()
    inside = ("i", "o") if transposed else ("o", "i")
    result = contract(
        use,
        [Operand(x, (*lead, *group, "i", *letters)), Operand(weight, (*group, *inside, *kernel))],
        (*lead, *group, "o", *letters),
        Operand(bias, (*group, "o")) if bias is not None else None,
        windows,
    )
    if grouped:
        result = merge_axes(result, channels)
    old, new, first = list(result.old), list(result.new), channels + 1
    for axis, size in enumerate(use.value.shape[first:], start=first):
        old[axis] = size
        new[axis] = size if result.maps[axis] is None else new[axis]
    return replace(result, old=tuple(old), new=tuple(new))


def matrix_product(use: Use, a: Claim, b: Claim) -> Claim:
    """`a @ b`, leading axes broadcast; one-dimensional operands as torch reads them."""
    use.rule = "matrix product"
    lead = max(a.rank, b.rank, 2) - 2
    names = tuple(f"n{k}" for k in range(lead))
    left = (*names[lead - max(a.rank - 2, 0) :], *(("p", "k") if a.rank > 1 else ("k",)))
    right = (*names[lead - max(b.rank - 2, 0) :], *(("k", "q") if b.rank > 1 else ("k",)))
    output = (*names, *(("p",) if a.rank > 1 else ()), *(("q",) if b.rank > 1 else ()))
    return contract(use, [Operand(a, left), Operand(b, right)], output)


def einsum(use: Use, equation: str, operands: list[Claim]) -> Claim:
    """`torch.einsum`: the equation has the letters."""
    use.rule = "einsum"
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = [c for c in left if c.isalpha()]
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        right = ("..." if "..." in left else "") + right
    parts = left.split(",")
    if len(parts) != len(operands):
        raise Unproved("the equation has another number of operands")
    widest = max(
        (
            claim.rank - len(part.replace("...", ""))
            for part, claim in zip(parts, operands, strict=True)
            if "..." in part
        ),
        default=0,
    )

    def spelled(part: str, rank: int | None) -> tuple[str, ...]:
        head, dots, tail = part.partition("...")
        count = widest if rank is None else rank - len(head) - len(tail)
        return (*head, *(f"n{k}" for k in range(widest - count, widest)), *tail) if dots else tuple(part)

    factors = [Operand(c, spelled(p, c.rank)) for p, c in zip(parts, operands, strict=True)]
    if any(len(set(f.letters)) != len(f.letters) for f in factors):
        raise Unproved("einsum takes a diagonal")
    return contract(use, factors, spelled(right, None))


def readout(use: Use, x: Claim, weight: Claim, axis: int, core: Both) -> Claim:
    """`guards.readout`: weight `[core, units]`, beside one that was there before."""
    use.rule = "readout"
    axis %= x.rank
    taken = [torch.cat([torch.arange(int(a), int(b)) for a, b in ranges]) for ranges in (core.old, core.new)]
    if not torch.equal(x.map(axis)[taken[1]], taken[0]):
        raise Refuted(f"the core {core.new} is not the units that {core.old} were")
    use.checked(f"the core {core.new} is the units that it was")
    letters = tuple("u" if k == axis else f"n{k}" for k in range(x.rank))
    output = tuple("i" if k == axis else a for k, a in enumerate(letters))
    added = contract(use, [Operand(x, letters), Operand(weight, ("i", "u"))], output)
    return Claim(added.old, added.new, added.maps)


def gather(use: Use, index: Claim, table: Claim) -> Claim:
    """Rows of a table `[entries, units]` picked by index."""
    use.rule = "rows picked by index"
    index, known = use.equal(index), use.equal(table)
    if any(m is not None for m in index.maps) or known.maps[0] is not None:
        raise Unproved("the index or the number of entries of a table has changed")
    lead = index.rank
    zero = known.zero
    if zero is not None:
        zero = known.zeros_along([1]).reshape((1,) * lead + (-1,))
    return Claim(
        (*index.old, known.old[1]),
        (*index.new, known.new[1]),
        (*index.maps, known.maps[1]),
        zero,
        {lead: known.copies[1]} if 1 in known.copies else {},
        {lead: known.means[1]} if 1 in known.means else {},
    )
