"""Linear layers, matrix products, convolutions, readouts, lookups: each as a sum of products (`products.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fxgrow.proof.claims import Claim, Unproved, carried, is_new, merge_axes, split_axis, unchanged
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.products import Operand, contract, dropped
from fxgrow.proof.rules.reduction import check_core
from fxgrow.rules.contraction import Contraction, Gather, SumOfProducts, scales_rows
from fxgrow.rules.convolution import Convolution, Deformable, Slide, slides_of
from fxgrow.rules.patterns import Names, named_axes, spelled
from fxgrow.rules.products import CoreReadout


def summed(law: SumOfProducts, use: Use) -> Claim:
    """A sum of products whose axes are named by the patterns of its law, but for space and products of axes."""
    use.rule = law.called
    factors, added = law.operands(use)
    inputs, output, _ = law.patterns([claim.rank for claim in factors if claim is not None], use.given)
    if None in factors or any(sign in pattern for pattern in (*inputs, output) for sign in "(*"):
        raise no_rule(use)
    taken = len(law.given) if use.new_module is not None else len(factors) + (added is not None)
    if len(inputs) != len(factors) or len(use.claims()) != taken:
        raise Unproved(f"{use.name} is given other tensors than its patterns say")
    return _by_patterns(law, use, Both(1, 1), ())


def convolved(law: Contraction, use: Use) -> Claim:
    """x `[b, g i, space]`, weight `[g o, i, kernel]` or, transposed, `[g i, o, kernel]` -> `[b, g o, space]`."""
    (_, weight), _ = law.operands(use)
    sliding = isinstance(law, Convolution)
    slides = slides_of(use.new_module, weight.new[2:], use.given) if sliding else [Slide.FIXED] * (weight.rank - 2)
    return _by_patterns(law, use, use.setting(6, "groups", 1), slides)


def deformed(law: Deformable, use: Use) -> Claim:
    """The same, where the kernel reads where offsets say, which are of every channel."""
    (x, weight), bias = law.operands(use)
    own = {id(x), id(weight), id(bias)}
    use.unchanged((claim for claim in use.claims() if id(claim) not in own), "an offset")
    if law.offset_groups(use.claim(1, "offset").new, weight.new) > 1:
        use.fixed(x, [1], "the number of channels, with offsets by groups,")
    return _by_patterns(law, use, Both(x.old[1] // weight.old[1], x.new[1] // weight.new[1]), [Slide.FIXED] * 2)


def _by_patterns(law: SumOfProducts, use: Use, groups: Both, slides: Sequence[Slide]) -> Claim:
    """The sum that patterns name; groups: how many an axis of two names has; slides: how a kernel does over space."""
    factors, added = law.operands(use)
    inputs, output, beside = law.patterns([factor.rank for factor in factors], use.given)
    named, space = named_axes(inputs, [factor.rank for factor in factors])
    made = spelled(output.replace("*t", "*s"), use.value.ndim, space)
    operands = [_lettered(use, claim, names, groups) for claim, names in zip(factors, named, strict=True)]
    bias = _facing(use, added, spelled(beside or "", added.rank), made, groups) if added is not None else None
    windows = {f"*s{k}": slide for k, slide in enumerate(slides) if slide is not Slide.BY_UNIT}
    result = contract(use, operands, [name for names in made for name in _apart(names, groups)], bias, windows)
    old, new = [], []
    for axis, names in enumerate(made):
        result = merge_axes(result, axis) if len(_apart(names, groups)) > 1 else result
        slid = names[0][0] == "*"
        old.append(use.value.shape[axis] if slid else result.old[axis])
        new.append(use.value.shape[axis] if slid and result.maps[axis] is None else result.new[axis])
    return replace(result, old=tuple(old), new=tuple(new))


def _apart(names: Names, groups: Both) -> Names:
    """What an axis of groups is taken apart into; of one group, the units that are in it are all there are."""
    return names if (groups.old, groups.new) != (1, 1) else names[-1:]


def _lettered(use: Use, claim: Claim, names: Sequence[Names], groups: Both) -> Operand:
    letters = tuple(name for own in names for name in _apart(own, groups))
    for axis, own in reversed([*enumerate(names)]):
        if len(_apart(own, groups)) > 1:
            old, new = claim.old[axis] // groups.old, claim.new[axis] // groups.new
            claim = split_axis(claim, axis, (groups.old, old), (groups.new, new))
    if len(letters) != claim.rank or len(set(letters)) != len(letters):
        raise Unproved(f"{use.name} names the axes of an operand otherwise than it has them, or one of them twice")
    return Operand(claim, letters)


def _facing(use: Use, added: Claim, names: list[Names], made: Sequence[Names], groups: Both) -> Operand:
    """What is added to a sum, without the axes of size one along which it is broadcast."""
    sizes, names = dict(zip(made, use.value.shape, strict=True)), names[len(names) - added.rank :]
    for axis in reversed(range(added.rank)):
        if added.new[axis] == 1 != sizes.get(names[axis], 1):
            added, names = dropped(added, axis), [*names[:axis], *names[axis + 1 :]]
    return _lettered(use, added, names, groups)


def readout(law: CoreReadout, use: Use) -> Claim:
    """`guards.readout`: weight `[core, units]`, beside one that was there before."""
    x, weight, core = use.claim(0, "x"), use.claim(1, "weight"), plain(use.argument(3, "core"))
    axis = int(plain(use.argument(2, "dim")).new) % x.rank
    check_core(use, x, axis, core)
    letters = tuple("u" if k == axis else f"n{k}" for k in range(x.rank))
    output = tuple("i" if k == axis else a for k, a in enumerate(letters))
    added = contract(use, [Operand(x, letters), Operand(weight, ("i", "u"))], output)
    return Claim(added.old, added.new, added.maps)


def gather(law: Gather, use: Use) -> Claim:
    """Rows of a table `[entries, units]` picked by index."""
    return _rows(use, use.claim())


def gather_bags(law: Gather, use: Use) -> Claim:
    """Such rows put together bag by bag; of the largest among means nobody knows."""
    use.unchanged(use.claims(), "an index")
    return replace(_rows(use, unchanged(use.value.shape[:1])), means={})


def _rows(use: Use, index: Claim) -> Claim:
    table = use.weight(1, "weight")
    assert table is not None
    index, known = use.equal(index), use.equal(table)
    entries = torch.arange(known.old[0])
    if any(m is not None for m in index.maps) or not torch.equal(known.map(0)[: len(entries)], entries):
        raise Unproved("the index or the place of entries of a table has changed")
    if scales_rows(lambda *place: use.setting(*place).new) and not bool((known.zeros() | ~is_new(known)).all()):
        raise Unproved("rows are scaled by their norms, and new entries are not zero")
    return carried(known, [*[None] * index.rank, 1], (*index.old, known.old[1]))
