"""How large each dimension becomes: amounts asked for, shared out over the factors of each axis."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fxgrow.amounts import Amount, Amounts, specificity
from fxgrow.axes.infer import Analysis
from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, leaves, resolve
from fxgrow.errors import AmountError

Block = tuple[Leaf, ...]
"""The leaves of one row-major product; growing any one of them grows the whole axis part."""


def blocks(layout: Layout) -> list[Block]:
    """The products an axis consists of, seen through concatenations."""
    layout = resolve(layout)
    if isinstance(layout, Leaf):
        return [(layout,)]
    if isinstance(layout, Join):
        return [block for part in layout.parts for block in blocks(part)]
    assert isinstance(layout, Product)
    return [tuple(itertools.chain(*choice)) for choice in itertools.product(*map(blocks, layout.factors))]


def size_after(layout: Layout, growth: dict[Leaf, int]) -> int:
    """The size of a layout once its leaves have grown."""
    layout = resolve(layout)
    if isinstance(layout, Leaf):
        return growth.get(layout, layout.size)
    if isinstance(layout, Join):
        return sum(size_after(part, growth) for part in layout.parts)
    total = 1
    for factor in layout.factors:
        total *= size_after(factor, growth)
    return total


@dataclass(frozen=True)
class Place:
    """An axis of a parameter."""

    parameter: str
    axis: int

    @property
    def path(self) -> str:
        return self.parameter.rpartition(".")[0]

    def __str__(self) -> str:
        return f"{self.parameter}[{self.axis}]"


def producing_places(analysis: Analysis) -> Iterator[tuple[Place, Layout]]:
    """The parameter axes that make units, as against those that read them."""
    reading = {place for op in analysis.ops for place in op.law.reads(op)}
    for name, tensor in analysis.parameters.items():
        for axis, layout in enumerate(tensor.axes):
            if (name, axis) not in reading:
                yield Place(name, axis), resolve(layout)


@dataclass
class Sizing:
    """Which leaves grow, and to what.

    held: leaves that stay because another factor of their axis grows. unmoved: those whose amount changes nothing.
    """

    growth: dict[Leaf, int]
    held: dict[Leaf, str]
    unmoved: dict[Leaf, str] = field(default_factory=dict)


def choose_sizes(analysis: Analysis, amounts: Amounts, round_to: int, pairs: bool) -> Sizing:
    """Share the amounts out: in each product one factor grows, the one that comes closest to the amount."""
    sizing = Sizing({}, {})
    wanted: dict[tuple[int, ...], tuple[Block, Amount, Place, str]] = {}
    for place, layout in producing_places(analysis):
        found = amounts.match(place.path)
        if found is None:
            continue
        for block in blocks(layout):
            _, amount, elsewhere, key = wanted.setdefault(tuple(map(id, block)), (block, found[1], place, found[0]))
            if specificity(found[0]) > specificity(key):
                wanted[tuple(map(id, block))] = (block, found[1], place, found[0])
            elif specificity(found[0]) == specificity(key) and found[1] != amount:
                raise AmountError(
                    f"{key!r} and {found[0]!r} ask different amounts for one dimension, {elsewhere} and {place}",
                    where=place.path,
                    remedy="ask the same, or make one of the keys more specific",
                )
    reluctant = {leaf for layout in analysis.unifier.reluctant for leaf in leaves(layout)}
    for block, amount, place, _ in sorted(wanted.values(), key=lambda item: sum(not d.fixed for d in item[0])):
        _grow_block(block, amount, place, sizing, reluctant, round_to, pairs)
    _settle_equal_sizes(analysis, sizing)
    return sizing


def _grow_block(
    block: Block,
    amount: Amount,
    place: Place,
    sizing: Sizing,
    reluctant: set[Leaf],
    round_to: int,
    pairs: bool,
) -> None:
    free = [leaf for leaf in dict.fromkeys(block) if not leaf.fixed and leaf not in sizing.held]
    grown = [leaf for leaf in free if leaf in sizing.growth]
    if not free:
        return
    total = 1
    for leaf in block:
        total *= leaf.size
    try:
        factor = amount.apply(total) / total
    except AmountError as error:
        raise AmountError(error.what, where=str(place), remedy=error.remedy) from None
    if not grown:
        candidates = [leaf for leaf in free if leaf not in reluctant] or free
        sizes = {leaf: rounded(leaf.size, factor, round_to if len(free) == 1 else 1, pairs) for leaf in candidates}
        best = min(candidates, key=lambda leaf: abs(sizes[leaf] / leaf.size - factor))
        grown = [best]
        if sizes[best] > best.size:
            sizing.growth[best] = sizes[best]
        else:
            sizing.unmoved[best] = f"x{factor:g} of {best.size} rounds to {best.size}"
    for leaf in free:
        if leaf not in grown:
            sizing.held[leaf] = "another factor of its axis grows"


def rounded(size: int, factor: float, round_to: int, pairs: bool) -> int:
    """The new size nearest to `size x factor`: a multiple of `round_to`, and even growth for pairs."""
    target = size * factor
    new = max(size, int(target / round_to + 0.5) * round_to) if round_to > 1 else max(size, int(target + 0.5))
    if pairs and (new - size) % 2:
        step = 1 if round_to % 2 else round_to
        new += step
    return new


def _settle_equal_sizes(analysis: Analysis, sizing: Sizing) -> None:
    """Make pieces that must stay equal in size so, or keep them all as they are."""
    for _ in range(len(analysis.unifier.equal_sizes) + 1):
        settled = True
        for a, b, reason in analysis.unifier.equal_sizes:
            left, right = size_after(a, sizing.growth), size_after(b, sizing.growth)
            if left == right:
                continue
            settled = False
            smaller, size = (a, right) if left < right else (b, left)
            only = resolve(smaller)
            if isinstance(only, Leaf) and not only.fixed and only not in sizing.held:
                sizing.growth[only] = size
                continue
            _hold(itertools.chain(leaves(a), leaves(b)), sizing, reason)
        if settled:
            return


def _hold(all_leaves: Iterable[Leaf], sizing: Sizing, reason: Reason) -> None:
    for leaf in all_leaves:
        if not leaf.fixed:
            leaf.reason = reason
        sizing.growth.pop(leaf, None)
