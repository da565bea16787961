"""Linear layers, convolutions, products of matrices, einsum, lookups: each as a sum of products (`products.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fxgrow.proof.claims import Claim, Refuted, Unproved, merge_axes, split_axis
from fxgrow.proof.node_pair import Both, Use
from fxgrow.proof.products import Operand, Slide, contract


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
