"""How large each dimension becomes: amounts asked for, shared out over the factors of each axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from fxgrow.amounts import Amount, Amounts, within
from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, leaves, resolve
from fxgrow.errors import AmountError, PlanError
from fxgrow.planning.analysis import Analysis, reading_places

MOST_UNITS = 2**40
MOST_BYTES = 2**63 - 1

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
    return [tuple(itertools.chain(*choice)) for choice in itertools.product(*map(blocks, layout.parts))]


def size_after(layout: Layout, growth: dict[Leaf, int]) -> int:
    """The size of a layout once its leaves have grown."""
    layout = resolve(layout)
    if isinstance(layout, Leaf):
        return growth.get(layout, layout.size)
    if isinstance(layout, Join):
        return sum(size_after(part, growth) for part in layout.parts)
    return math.prod(size_after(factor, growth) for factor in layout.parts)


@dataclass(frozen=True)
class ParameterAxis:
    """An axis of a parameter."""

    parameter: str
    axis: int

    @property
    def path(self) -> str:
        return self.parameter.rpartition(".")[0]

    def __str__(self) -> str:
        return f"{self.parameter}[{self.axis}]"


def producing_places(analysis: Analysis) -> Iterator[tuple[ParameterAxis, Layout]]:
    """The parameter axes that make units, as against those that read them alone."""
    reading = reading_places(analysis) - analysis.tied
    for name, tensor in analysis.parameters.items():
        for axis, layout in enumerate(tensor.axes):
            if (name, axis) not in reading:
                yield ParameterAxis(name, axis), resolve(layout)


def more_than(size: int, asked: int | str, name: str) -> int:
    """How many there are to be, by what was asked for as the argument of a name.

    Raises
    ------
    AmountError: they are no more than there are, or too many.
    """
    amount = Amount("exact", asked) if isinstance(asked, int) else Amount.parse(asked)
    after = int(amount.apply(size) + 0.5)
    if not size < after <= MOST_UNITS:
        raise AmountError(f"{name}={asked!r} of {size} are {after}", remedy='pass more than there are, or "+1" for one')
    return after


@dataclass
class Sizing:
    """Which leaves grow, and to what.

    held: leaves that stay because another factor of their axis grows. unmoved: those whose amount changes nothing.
    """

    growth: dict[Leaf, int]
    held: dict[Leaf, str]
    unmoved: dict[Leaf, str] = field(default_factory=dict)

    def reach(self, leaves: Iterable[Leaf], new: int) -> None:
        """Give dimensions, where they are free, the size that they are to have."""
        self.growth.update({leaf: new for leaf in leaves if not leaf.fixed})


def check_reached(leaves: Iterable[Leaf], growth: Mapping[Leaf, int], new: int, noun: str, remedy: str) -> None:
    """Raise a PlanError where dimensions that were to get a size turned out to be tied down."""
    for leaf in leaves:
        if growth.get(leaf, leaf.size) != new:
            reason = leaf.reason or "something is tied to them"
            raise PlanError(f"{leaf.size} {noun} cannot become {new}: {reason}", remedy=remedy)


def choose_sizes(analysis: Analysis, amounts: Amounts, round_to: int, pairs: bool) -> Sizing:
    """Share the amounts out: in each product one factor grows, the one that comes closest to the amount."""
    sizing = Sizing({}, {})
    asked: dict[tuple[int, ...], tuple[Block, list[Asked]]] = {}
    for place, layout in producing_places(analysis):
        matched = amounts.match(place.path)
        if matched is not None and isinstance(analysis.learnable[place.parameter], nn.Parameter):
            for block in blocks(layout):
                asked.setdefault(tuple(map(id, block)), (block, []))[1].append(Asked(place, *matched))
    wanted = [(block, _settled(requests)) for block, requests in asked.values()]
    reluctant = {leaf for layout in analysis.unifier.reluctant for leaf in leaves(layout)}
    for block, request in sorted(wanted, key=lambda item: sum(not leaf.fixed for leaf in item[0])):
        _grow_block(block, request.amount, request.place, sizing, reluctant, round_to, pairs)
    settle_equal_sizes(analysis, sizing)
    return sizing


@dataclass(frozen=True)
class Asked:
    """An amount that a key asks for, of units made at a place."""

    place: ParameterAxis
    key: str
    amount: Amount


def _settled(requests: list[Asked]) -> Asked:
    """Which of the requests for one dimension counts: one whose key is within the parts that the others name.

    Raises
    ------
    AmountError: keys of different parts ask for different amounts.
    """
    first = requests[0]
    for request in requests:
        if all(contender.amount == request.amount or within(request.key, contender.key) for contender in requests):
            return request
    rival = next(request for request in requests if request.amount != first.amount)
    raise AmountError(
        f"{first.key!r} and {rival.key!r} ask different amounts for one dimension, {first.place} and {rival.place}",
        where=rival.place.path,
        remedy="ask the same, or add a key for a part within one of them",
    )


def _grow_block(
    block: Block,
    amount: Amount,
    place: ParameterAxis,
    sizing: Sizing,
    reluctant: set[Leaf],
    round_to: int,
    pairs: bool,
) -> None:
    free = [leaf for leaf in dict.fromkeys(block) if not leaf.fixed and leaf not in sizing.held]
    grown = [leaf for leaf in free if leaf in sizing.growth]
    if not free:
        return
    total = math.prod(leaf.size for leaf in block)
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
    """The new size nearest to `size x factor`: a multiple of `round_to`, and even growth for pairs if it can be."""
    target = size * factor
    if target > MOST_UNITS:
        raise AmountError(f"x{factor:g} of {size} is more units than a tensor can have", remedy="ask for less")
    new = max(size, int(target / round_to + 0.5) * round_to) if round_to > 1 else max(size, int(target + 0.5))
    if pairs and (new - size) % 2 and round_to % 2:
        new += round_to
    return new


def settle_equal_sizes(analysis: Analysis, sizing: Sizing) -> None:
    """Make pieces that must stay equal in size so, or keep them all as they are."""
    for _ in range(len(analysis.unifier.equal_sizes) + 1):
        settled = True
        for a, b, reason in analysis.unifier.equal_sizes:
            left, right = size_after(a, sizing.growth), size_after(b, sizing.growth)
            if left == right or (left == a.size and right == b.size):
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
