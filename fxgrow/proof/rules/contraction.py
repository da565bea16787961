"""Sums of products by patterns, convolutions, readouts, lookups: each as a sum of products (`products.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fxgrow.proof.claims import Claim, Refuted, Unproved, carried, merge_axes, split_axis
from fxgrow.proof.node_pair import Both, Use
from fxgrow.proof.products import Operand, contract
from fxgrow.rules.convolution import Slide


def by_patterns(
    use: Use,
    operands: Sequence[Claim],
    bias: Claim | None,
    inputs: Sequence[str],
    output: str,
    bias_pattern: str | None = None,
) -> Claim:
    """A sum of products whose axes are named by patterns, as a law has them: ("... i", "o i") -> "... o".

    Raises
    ------
    Unproved: the patterns name products of axes, or space, or an axis of an operand twice, or do not fit.
    """
    if len(inputs) != len(operands) or any(sign in pattern for pattern in (*inputs, output) for sign in "(*"):
        raise Unproved(f"{use.name} has no proof rule, and something that it is given has grown")
    claims = [*operands, *([bias] if bias is not None else [])]
    parsed = [pattern.split() for pattern in (*inputs, *([bias_pattern or ""] if bias is not None else []))]
    spare = [claim.rank - len(names) + 1 for claim, names in zip(claims, parsed, strict=True) if "..." in names]
    widest = max(spare, default=0)

    def letters(names: Sequence[str], count: int) -> tuple[str, ...]:
        lead = tuple(f"n{k}" for k in range(widest - count, widest))
        return tuple(letter for name in names for letter in (lead if name == "..." else (name,)))

    lettered = []
    for claim, names in zip(claims, parsed, strict=True):
        own = letters(names, claim.rank - len(names) + 1)
        if len(own) != claim.rank or len(set(own)) != len(own):
            raise Unproved(f"{use.name} names the axes of an operand otherwise than it has them, or one of them twice")
        lettered.append(Operand(claim, own))
    factors, added = lettered[: len(operands)], lettered[len(operands) :]
    return contract(use, factors, letters(output.split(), widest), added[0] if added else None)


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
    return carried(known, [*[None] * index.rank, 1], (*index.old, known.old[1]))
