"""Linear layers, matrix products, convolutions, readouts, lookups: each as a sum of products (`products.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fxgrow.proof.claims import Claim, Unproved, carried, is_new, merge_axes, split_axis, unchanged
from fxgrow.proof.node_pair import Both, Use, no_rule, plain
from fxgrow.proof.products import Operand, contract, dropped
from fxgrow.proof.rules.reduction import check_core
from fxgrow.rules.contraction import Contraction, Gather, SumOfProducts, scales_rows
from fxgrow.rules.convolution import Deformable, Slide, Transposed, slides_of
from fxgrow.rules.patterns import Names, spelled
from fxgrow.rules.products import Readout


def summed(law: SumOfProducts, use: Use) -> Claim:
    """A sum of products whose axes are named by the patterns of its law, but for space and products of axes."""
    use.rule = law.called
    use.same_settings(law.attributes)
    factors, added = law.operands(use)
    inputs, output, beside = law.patterns([claim.rank for claim in factors if claim is not None], use.given)
    if None in factors or any(sign in pattern for pattern in (*inputs, output) for sign in "(*"):
        raise no_rule(use)
    taken = len(law.given) if use.new_module is not None else len(factors) + (added is not None)
    if len(inputs) != len(factors) or len(use.claims()) != taken:
        raise Unproved(f"{use.name} is given other tensors than its patterns say")
    pairs = zip(factors, inputs, strict=True)
    operands = [_lettered(use, claim, spelled(pattern, claim.rank)) for claim, pattern in pairs]
    made = tuple(name for (name,) in spelled(output, use.value.ndim))
    if added is None:
        return contract(use, operands, made)
    names = spelled(beside or "", added.rank)
    operand = _lettered(use, added, names[len(names) - added.rank :])
    for axis, letter in reversed([*enumerate(operand.letters)]):
        if operand.claim.new[axis] == 1 and letter in made and use.value.shape[made.index(letter)] != 1:
            letters = (*operand.letters[:axis], *operand.letters[axis + 1 :])
            operand = Operand(dropped(operand.claim, axis), letters)
    return contract(use, operands, made, operand)


def _lettered(use: Use, claim: Claim, names: Sequence[Names]) -> Operand:
    letters = tuple(name for (name,) in names)
    if len(letters) != claim.rank or len(set(letters)) != len(letters):
        raise Unproved(f"{use.name} names the axes of an operand otherwise than it has them, or one of them twice")
    return Operand(claim, letters)


def convolved(law: Contraction, use: Use) -> Claim:
    """x `[b, g i, space]`, weight `[g o, i, kernel]` or, transposed, `[g i, o, kernel]` -> `[b, g o, space]`."""
    use.rule = "convolution"
    use.same_module(law.attributes)
    use.same_numbers({"groups"}, (6,))
    (x, weight), bias = law.operands(use)
    transposed = isinstance(law, Transposed)
    slides = [Slide.FIXED] * (weight.rank - 2) if transposed else slides_of(use.new_module, weight.new[2:], use.given)
    return _convolved(use, x, weight, bias, use.setting(6, "groups", 1), slides, transposed)


def deformed(law: Deformable, use: Use) -> Claim:
    """The same, where the kernel reads where offsets say, which are of every channel."""
    use.rule = "deformable convolution"
    use.same_settings(law.attributes)
    (x, weight), bias = law.operands(use)
    own = {id(x), id(weight), id(bias)}
    use.unchanged((claim for claim in use.claims() if id(claim) not in own), "an offset")
    if law.offset_groups(use.claim(1, "offset").new, weight.new) > 1:
        use.fixed(x, [1], "the number of channels, with offsets by groups,")
    groups = Both(x.old[1] // weight.old[1], x.new[1] // weight.new[1])
    return _convolved(use, x, weight, bias, groups, [Slide.FIXED] * 2)


def _convolved(
    use: Use,
    x: Claim,
    weight: Claim,
    bias: Claim | None,
    groups: Both,
    slides: Sequence[Slide],
    transposed: bool = False,
) -> Claim:
    before, after = int(groups.old), int(groups.new)
    space = weight.rank - 2
    batched = x.rank == space + 2
    channels = 1 if batched else 0
    grouped = (before, after) != (1, 1)
    inner = (weight.old[0] // before, weight.new[0] // after) if transposed else (weight.old[1], weight.new[1])
    if grouped:
        x = split_axis(x, channels, (before, inner[0]), (after, inner[1]))
        weight = split_axis(weight, 0, (before, weight.old[0] // before), (after, weight.new[0] // after))
        if bias is not None:
            bias = split_axis(bias, 0, (before, bias.old[0] // before), (after, bias.new[0] // after))
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


def readout(law: Readout, use: Use) -> Claim:
    """`guards.readout`: weight `[core, units]`, beside one that was there before."""
    use.rule = "readout"
    use.same_numbers({"core"}, (3,))
    x, weight, core = use.claim(0, "x"), use.claim(1, "weight"), plain(use.argument(3, "core"))
    axis = int(plain(use.argument(2, "dim")).new) % x.rank
    check_core(use, x, axis, core)
    letters = tuple("u" if k == axis else f"n{k}" for k in range(x.rank))
    output = tuple("i" if k == axis else a for k, a in enumerate(letters))
    added = contract(use, [Operand(x, letters), Operand(weight, ("i", "u"))], output)
    return Claim(added.old, added.new, added.maps)


def gather(law: Gather, use: Use) -> Claim:
    """Rows of a table `[entries, units]` picked by index."""
    use.same_settings({"num_embeddings", "embedding_dim"})
    return _rows(use, use.claim())


def gather_bags(law: Gather, use: Use) -> Claim:
    """Such rows put together bag by bag; of the largest among means nobody knows."""
    use.same_settings({"num_embeddings", "embedding_dim"})
    use.unchanged(use.claims(), "an index")
    return replace(_rows(use, unchanged(use.value.shape[:1])), means={})


def _rows(use: Use, index: Claim) -> Claim:
    use.rule = "rows picked by index"
    table = use.weight(1, "weight")
    assert table is not None
    index, known = use.equal(index), use.equal(table)
    entries = torch.arange(known.old[0])
    if any(m is not None for m in index.maps) or not torch.equal(known.map(0)[: len(entries)], entries):
        raise Unproved("the index or the place of entries of a table has changed")
    if scales_rows(lambda *place: use.setting(*place).new) and not bool((known.zeros() | ~is_new(known)).all()):
        raise Unproved("rows are scaled by their norms, and new entries are not zero")
    return carried(known, [*[None] * index.rank, 1], (*index.old, known.old[1]))
