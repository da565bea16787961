"""Layouts: what one dimension of a tensor is made of.

A layout is a term. A `Leaf` is an indivisible run of units of one dimension; a `Product` is a row-major
product (heads x head dimension); a `Join` is a concatenation. A leaf starts free and may later be bound to
a finer term, merged with another leaf, or fixed at its size with the reason why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import is_
from typing import NamedTuple


@dataclass(frozen=True)
class Reason:
    """Why a dimension cannot grow: what ties it, and where in the model."""

    text: str
    where: str = ""
    quiet: bool = False  # batch, space, classes: nobody expects those to grow

    def __str__(self) -> str:
        return f"{self.text} (at {self.where})" if self.where else self.text


_serial = itertools.count()
_ties = 0
"""How often a leaf was bound or fixed: as long as none is, what a term resolves to stays."""


@dataclass(eq=False)
class Leaf:
    """A dimension, or the part of one that always grows as one piece."""

    size: int
    bound: Leaf | Product | Join | None = None
    reason: Reason | None = None
    serial: int = field(default_factory=lambda: next(_serial))

    def __setattr__(self, name: str, value: object) -> None:
        if value is not None and name in ("bound", "reason"):
            global _ties
            _ties += 1
        object.__setattr__(self, name, value)

    @property
    def fixed(self) -> bool:
        return self.reason is not None

    @property
    def quiet(self) -> bool:
        """Whether it stays for a reason that goes without saying."""
        return self.reason is not None and self.reason.quiet

    def __repr__(self) -> str:
        return f"{'fixed' if self.fixed else 'd'}{self.serial}[{self.size}]"


@dataclass(frozen=True, eq=False)
class Term:
    """A layout of several others, in order."""

    parts: tuple[Layout, ...]
    size: int = field(init=False)
    resolved: Resolved | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        sizes = (part.size for part in self.parts)
        object.__setattr__(self, "size", math.prod(sizes) if isinstance(self, Product) else sum(sizes))

    def __repr__(self) -> str:
        return "(" + (" x " if isinstance(self, Product) else " + ").join(map(repr, self.parts)) + ")"


class Product(Term):
    """Row-major product of factors, outermost first."""


class Join(Term):
    """Concatenation of parts, first part first."""


Layout = Leaf | Product | Join


class Resolved(NamedTuple):
    """What a term resolves to, after so many ties, and the leaves of that in order."""

    ties: int
    layout: Layout
    leaves: tuple[Leaf, ...]


def resolve(layout: Layout) -> Layout:
    """The finest known form of `layout`: bindings followed, nested products and joins flattened."""
    if isinstance(layout, Leaf):
        if layout.bound is None:
            return layout
        result = resolve(layout.bound)
        if result is not layout.bound:
            object.__setattr__(layout, "bound", result)
        return result
    return _resolved(layout).layout


def _resolved(layout: Product | Join) -> Resolved:
    if layout.resolved is not None and layout.resolved.ties == _ties:
        return layout.resolved
    before = layout.parts
    after = [resolve(child) for child in before]
    dropped = _is_one if isinstance(layout, Product) else _is_empty
    loose = len(after) == 1 or any(isinstance(child, type(layout)) or dropped(child) for child in after)
    result: Layout = layout
    if loose or not all(map(is_, before, after)):
        result = product(after) if isinstance(layout, Product) else join(after)
    resolution = Resolved(_ties, result, (result,) if isinstance(result, Leaf) else _inside(result))
    object.__setattr__(layout, "resolved", resolution)
    if not isinstance(result, Leaf):
        object.__setattr__(result, "resolved", resolution)
    return resolution


def product(factors: list[Layout]) -> Layout:
    """Product of `factors`, flattened; factors fixed at size one are dropped."""
    flat: list[Layout] = []
    for factor in factors:
        if isinstance(factor, Product):
            flat.extend(factor.parts)
        elif not _is_one(factor):
            flat.append(factor)
    if not flat:
        return factors[0]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def _is_one(factor: Layout) -> bool:
    return factor.size == 1 and isinstance(factor, Leaf) and factor.fixed


def _is_empty(part: Layout) -> bool:
    return part.size == 0


def join(parts: list[Layout]) -> Layout:
    """Concatenation of `parts`, flattened; empty parts are dropped."""
    flat: list[Layout] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Join) else [part])
    flat = [part for part in flat if part.size > 0] or flat[:1]
    return flat[0] if len(flat) == 1 else Join(tuple(flat))


def leaves(layout: Layout) -> Iterator[Leaf]:
    """The leaves of a layout in order, with repetitions."""
    layout = resolve(layout)
    return iter((layout,) if isinstance(layout, Leaf) else _resolved(layout).leaves)


def _inside(layout: Product | Join) -> tuple[Leaf, ...]:
    """The leaves of a term that is resolved."""
    inner_leaves: list[Leaf] = []
    for child in layout.parts:
        if isinstance(child, Leaf):
            inner_leaves.append(child)
        else:
            inner_leaves.extend(_inside(child))
    return tuple(inner_leaves)


def same(a: Layout, b: Layout) -> bool:
    """Whether two resolved layouts are the same term over the same leaves."""
    if a is b:
        return True
    if isinstance(a, Leaf) and isinstance(b, Leaf):
        return a.fixed and b.fixed and a.size == b.size
    if isinstance(a, Leaf) or isinstance(b, Leaf):
        return False
    return type(a) is type(b) and len(a.parts) == len(b.parts) and all(map(same, a.parts, b.parts))


def is_fixed(layout: Layout) -> bool:
    """Whether no part of the layout can grow."""
    return all(leaf.fixed for leaf in leaves(layout))
