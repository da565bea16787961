"""Sums of products: y[o] = sum over i of x[i] w[o, i].

With weights of known values the sum is collapsed: columns that meet zeros are dropped, columns that meet copies of
one unit are added up, columns that meet the mean are spread over the old units. The result has to be the old weights
at old units, and zero at units that can be anything.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from fxgrow.modules.containers import along
from fxgrow.proof.atoms import Atoms, added_up, atoms_of, collapsed
from fxgrow.proof.claims import Claim, Map, Refuted, Unproved, at_old, both_copies, inverse, is_new
from fxgrow.proof.known_values import REPEATING, mean_positions, repeated
from fxgrow.proof.node_pair import Use
from fxgrow.proof.values import DERIVED_ULPS, ULPS, at_index, differing, exact, first, precision
from fxgrow.rules.convolution import Slide


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
        weight = _masked(weight, data)
        _collapse(use, weight, data, maps, output)
        return _outcome([weight, data], maps, output, bias, windows, _effective(weight, data, output))
    _meet_zeros(use, factors, maps, output)
    return _outcome(factors, maps, output, bias, windows)


def linear(use: Use, x: Claim, weight: Claim, bias: Claim | None) -> Claim:
    """x `[..., i]`, weight `[o, i]`, bias `[o]` -> `[..., o]`."""
    lead = tuple(f"n{k}" for k in range(x.rank - 1))
    added = Operand(bias, ("o",)) if bias is not None else None
    return contract(use, [Operand(x, (*lead, "i")), Operand(weight, ("o", "i"))], (*lead, "o"), added)


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


def _masked(weight: Operand, data: Operand) -> Operand:
    """Weights without the entries that meet zeros only, or what equals zeros; old zeros are the original's, too."""
    shared = [letter for letter in data.letters if letter in weight.letters]
    zero = data.claim.zeros_along([data.axis(letter) for letter in shared])
    if not bool(zero.any()):
        return weight
    zero = zero.reshape([zero.shape[data.axis(letter)] for letter in shared])
    for axis, letter in enumerate(shared):
        if zero.shape[axis] > 1:
            source = data.claim.copies_of(data.axis(letter))
            zeros = torch.zeros(zero.shape, dtype=torch.long).index_add_(axis, source, zero.long())
            zero = zeros.index_select(axis, source) > 0
    held = weight.claim.held
    assert held is not None
    met = ~_facing(zero, shared, weight.letters)
    met_before = at_old(met, weight.claim.maps, weight.claim.old)
    old = held.old if bool(met_before.all()) else held.old * met_before.to(held.old.device, held.old.dtype)
    masked = replace(held, new=held.new * met.to(held.new.device, held.new.dtype), old=old)
    return Operand(replace(weight.claim, held=masked), weight.letters)


def _collapse(use: Use, weight: Operand, data: Operand, maps: dict[str, Map], output: Sequence[str]) -> None:
    """Check that what weights make of new units adds up to nothing, and of old units to what it did."""
    claim, held = weight.claim, weight.claim.held
    assert held is not None
    summed = [a for a in weight.letters if a in data.letters and a not in output]
    kept = [None if a in summed else maps[a] for a in weight.letters]
    value, wanted = at_old(held.new, kept, claim.old), held.old
    loose = torch.full((1,) * claim.rank, not held.exact or held.rounded)
    added: list[tuple[int, Atoms]] = []
    rows = "rows of old outputs" if any(m is not None for m in kept) else "every row"
    for letter in summed:
        axis, source = weight.axis(letter), data.axis(letter)
        position = maps[letter]
        special = source in data.claim.copies or source in data.claim.means
        if position is None and not special:
            continue
        atoms = atoms_of(data.claim, source)
        columns, (value, free) = value, collapsed(value, axis, atoms)
        if atoms.twins is not None:
            value, wanted = (added_up(each, axis, atoms.twins) for each in (value, wanted))
        added.append((axis, atoms))
        loose = loose | along(atoms.adds_up(), axis, claim.rank)
        wrong = free != 0
        if free.numel() and bool(wrong.any()):
            wrong &= ~(free.abs() <= _of_sums(collapsed(columns.abs(), axis, atoms)[1]))
        if bool(wrong.any()):
            place = first(wrong)
            what = "the columns of a pair or of copies" if special else "the column of a new unit"
            raise Unproved(
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
    if added and bool(wrong.any()):  # to small sums of large columns the sums here do the rounding
        wrong &= ~((value - wanted).abs() <= _rounding(at_old(held.new, kept, claim.old), added))
    if bool(wrong.any()):
        place = first(wrong)
        raise Refuted(
            f"{held.name}: old entry {list(place)} counts as {at_index(value, place):.9g}, "
            f"it should be {at_index(wanted, place):.9g}"
        )
    exact = held.exact and not held.rounded
    use.checked(f"old entries of {held.name} are the original's" + ("" if exact else " (few ulp)"))


def _rounding(columns: Tensor, added: Sequence[tuple[int, Atoms]]) -> Tensor:
    """How much rounding the sums of columns may have had, which are taken in float64."""
    sizes = columns.abs()
    for axis, atoms in added:
        sizes, _ = collapsed(sizes, axis, atoms)
        if atoms.twins is not None:
            sizes = added_up(sizes, axis, atoms.twins)
    return _of_sums(sizes)


def _of_sums(sizes: Tensor) -> Tensor:
    """The rounding of sums of terms whose sizes add up to these."""
    return ULPS * precision(exact(sizes)) * exact(sizes)


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
            value = torch.cat(collapsed(value, axis, atoms), axis)
    return Operand(replace(weight.claim, held=replace(held, new=value)), weight.letters)


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
    zero = _zero_outputs(factors, output, bias, windows) & is_new(result)
    copies: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}
    for axis, letter in enumerate(output):
        if letter in windows or maps[letter] is None:
            continue
        seen = [effective if effective is not None and f.claim.held is not None else f for f in factors]
        alike = _copies(seen, letter, bias)
        if alike is not None:
            copies[axis] = alike
        mean = _mean(seen, letter, bias)
        if mean is not None:
            means[axis] = mean
    return Claim(old, new, result.maps, zero, copies, means)


def _zero_outputs(
    factors: Sequence[Operand], output: Sequence[str], bias: Operand | None, windows: Collection[str]
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
    copies: list[Tensor] = []
    operands = [*factors, *([bias] if bias is not None else [])]
    for operand in operands:
        if letter not in operand.letters:
            continue
        axis, held = operand.axis(letter), operand.claim.held
        if held is not None:
            if not (held.fills & REPEATING) and operand is not bias:
                return None
            copies.append(repeated(held.new, axis).cpu())
        elif operand.claim.repeats(axis):
            copies.append(operand.claim.copies_of(axis))
        elif operand.claim.new[axis] != 1:
            return None
    result: Tensor | None = None
    for alike in copies:
        result = alike if result is None else both_copies(result, alike)
    return result


def _mean(factors: Sequence[Operand], letter: str, bias: Operand | None) -> Tensor | None:
    """Positions whose outputs are means: one factor alone has the dimension, and there they are means."""
    having = [f for f in factors if letter in f.letters]
    if len(having) != 1:
        return None
    positions: Tensor | None = None
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
        positions = own if positions is None else positions & own
    return positions
