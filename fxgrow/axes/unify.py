"""Unification of layouts: the one place where dimensions are tied, cut, factored and fixed.

Two layouts that contradict each other are never an error: both are fixed at their size, with the reason.
Growth then stays correct and is merely smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, is_fixed, join, leaves, product, resolve, same

NO_UNITS = Reason("not a dimension of units", quiet=True)
"""Why batch, space and the like stay as they are."""


class Unifier:
    """Ties layouts together. `reason` says, at any moment, what op is being looked at."""

    def __init__(self) -> None:
        self.reason = Reason("nothing is known yet")
        self.equal_sizes: list[tuple[Layout, Layout, Reason]] = []
        self.reluctant: list[Layout] = []  # can grow, but at the price of a guard

    def fresh(self, size: int) -> Leaf:
        return Leaf(size)

    def constant(self, size: int, text: str = "") -> Leaf:
        """A dimension fixed from birth: batch, space, classes."""
        return Leaf(size, reason=Reason(text) if text else NO_UNITS)

    def because(self, text: str) -> Reason:
        return Reason(f"{self.reason.text}: {text}" if self.reason.text else text, self.reason.where)

    def fix(self, layouts: Layout | Iterable[Layout], reason: Reason | str) -> None:
        """Hold every leaf of a layout, or of several, at its size."""
        if isinstance(reason, str):
            reason = self.because(reason)
        for layout in [layouts] if isinstance(layouts, Leaf | Product | Join) else layouts:
            for leaf in list(leaves(layout)):
                if leaf.reason is None:
                    leaf.reason = reason

    def tie_sizes(self, a: Layout, b: Layout, text: str) -> None:
        """Demand that two layouts keep equal sizes without being the same dimension."""
        self.equal_sizes.append((a, b, self.because(text)))

    def unify(self, a: Layout, b: Layout) -> None:
        """Make two layouts of equal size the same dimension."""
        a, b = resolve(a), resolve(b)
        if same(a, b):
            return
        if a.size != b.size:
            self.fix((a, b), f"sizes {a.size} and {b.size} meet")
            return
        if a.size == 0:
            self.fix((a, b), "an empty dimension has nothing to grow from")
            return
        if isinstance(a, Leaf) or isinstance(b, Leaf):
            self._bind(a, b) if isinstance(a, Leaf) else self._bind(b, a)  # type: ignore[arg-type]
        elif type(a) is type(b):
            self._align(a, b)
        else:
            factored, pieces = (a, b) if isinstance(a, Product) else (b, a)
            for left, right in zip(self.split(factored, [p.size for p in pieces.parts]), pieces.parts, strict=True):
                self.unify(left, right)

    def _bind(self, leaf: Leaf, layout: Layout) -> None:
        if isinstance(layout, Leaf):
            keep, drop = (leaf, layout) if leaf.serial < layout.serial else (layout, leaf)
            keep.reason = keep.reason or drop.reason
            drop.bound = keep
            return
        inside = list(leaves(layout))
        if leaf in inside:  # sizes are equal: all that is beside it multiplies by one or adds nothing
            for inner in inside:
                if inner is not leaf or inside.count(leaf) > 1:
                    self.fix(inner, "a factor of size one cannot grow")
            return
        if leaf.reason is not None:
            self.fix(layout, leaf.reason)
        leaf.bound = layout

    def _align(self, a: Product | Join, b: Product | Join) -> None:
        """Tie two products, or two concatenations, piece by piece, the larger piece cut to the size of the other."""
        factors = isinstance(a, Product)
        left, right = list(a.parts), list(b.parts)
        while left and right:
            x, y = resolve(left.pop(0)), resolve(right.pop(0))
            if x.size == y.size:
                self.unify(x, y)
                continue
            if x.size < y.size:
                left, right, x, y = right, left, y, x
            if factors and (y.size == 0 or x.size % y.size):
                self.fix((a, b), f"{a.size} is factored in two ways that do not fit")
                return
            cut = self.factor(x, [y.size, x.size // y.size]) if factors else self.split(x, [y.size, x.size - y.size])
            self.unify(cut[0], y)
            left.insert(0, cut[1])
        text = "a factor of size one cannot grow" if factors else "an empty part has nothing to grow from"
        self.fix((*left, *right), text)

    def split(self, layout: Layout, sizes: Sequence[int]) -> list[Layout]:
        """Cut a layout into consecutive pieces of the given sizes."""
        layout = resolve(layout)
        if isinstance(layout, Leaf) or len(sizes) == 1 or is_fixed(layout):
            return _taken_apart(layout, sizes, join)
        if isinstance(layout, Join):
            return self._split_join(layout, sizes)
        head, rest = layout.parts[0], product(list(layout.parts[1:]))
        if any(size % rest.size for size in sizes):
            self.fix(layout, f"{layout.size} is cut at {list(sizes)[:4]}, across its factor of {rest.size}")
            return self.split(layout, sizes)
        counts = [size // rest.size for size in sizes]
        if 1 in counts:
            self.fix(head, f"taken apart into {counts[:6]}")
        return [resolve(product([piece, rest])) for piece in self.split(head, counts)]

    def _split_join(self, layout: Join, sizes: Sequence[int]) -> list[Layout]:
        rest = list(layout.parts)
        pieces: list[Layout] = []
        for size in sizes:
            piece: list[Layout] = []
            missing = size
            while missing:
                part = rest.pop(0)
                if part.size > missing:
                    part, tail = self.split(part, [missing, part.size - missing])
                    rest.insert(0, tail)
                piece.append(part)
                missing -= part.size
            pieces.append(join(piece) if piece else self.constant(0))
        return pieces

    def factor(self, layout: Layout, sizes: Sequence[int]) -> list[Layout]:
        """Take a layout apart into row-major factors of the given sizes; it is the last where all of them are one."""
        layout = resolve(layout)
        if 1 in sizes and len(sizes) > 1:
            rest = [size for size in sizes if size != 1]
            if not rest:
                return [*map(self.constant, sizes[1:]), layout]
            larger = iter(self.factor(layout, rest))
            return [self.constant(1) if size == 1 else next(larger) for size in sizes]
        if isinstance(layout, Leaf) or len(sizes) == 1 or is_fixed(layout):
            return _taken_apart(layout, sizes, product)
        return self._factor_join(layout, sizes) if isinstance(layout, Join) else self._factor_product(layout, sizes)

    def _factor_join(self, layout: Join, sizes: Sequence[int]) -> list[Layout]:
        inner = math.prod(sizes[1:])
        if any(part.size % inner for part in layout.parts):
            self.fix(layout, f"concatenated parts of {[p.size for p in layout.parts][:4]} are factored by {inner}")
            return self.factor(layout, sizes)
        rows = [self.factor(part, [part.size // inner, *sizes[1:]]) for part in layout.parts]
        for row in rows[1:]:
            for factor, first in zip(row[1:], rows[0][1:], strict=True):
                self.unify(factor, first)
        for row in rows:
            if row[0].size == 1:
                self.fix(row[0], "taken apart one at a time")
        return [join([resolve(row[0]) for row in rows]), *rows[0][1:]]

    def _factor_product(self, layout: Product, sizes: Sequence[int]) -> list[Layout]:
        rest = list(layout.parts)
        factors: list[Layout] = []
        for size in sizes:
            factor: list[Layout] = []
            missing = size
            while missing > 1:
                head = resolve(rest.pop(0)) if rest else None
                if head is None or max(head.size, missing) % min(head.size, missing):
                    self.fix(layout, f"{layout.size} is factored as {list(sizes)}, across its factors")
                    return self.factor(layout, sizes)
                if head.size > missing:
                    head, tail = self.factor(head, [missing, head.size // missing])
                    rest.insert(0, tail)
                factor.append(head)
                missing //= head.size
            factors.append(product(factor) if factor else self.constant(1))
        self.fix(rest, "a factor of size one cannot grow")
        return factors

    def broadcast(self, layouts: Sequence[Layout]) -> Layout:
        """The layout of one dimension after broadcasting; a size of one stretches to the others."""
        widest = next((resolve(layout) for layout in layouts if layout.size != 1), resolve(layouts[0]))
        for layout in layouts:
            if layout.size == widest.size:
                self.unify(widest, layout)
            else:
                self.fix(layout, "a dimension of size one is broadcast")
        return resolve(widest)

    def reshape(self, dimensions: Sequence[Layout], sizes: Sequence[int]) -> list[Layout]:
        """Row-major reshape of whole dimensions into new sizes, matching the smallest groups that agree."""
        if math.prod(d.size for d in dimensions) == 0:
            self.fix(dimensions, "an empty tensor is reshaped")
            return [self.constant(size) for size in sizes]
        before, after = [resolve(d) for d in dimensions], list(sizes)
        result: list[Layout] = []
        while before or after:
            group = [before.pop(0)] if before else []
            apart = not group or group[0].size != 1
            wanted = [after.pop(0)] if after and (apart or after[0] == 1) else []
            while (have := math.prod(d.size for d in group)) != (want := math.prod(wanted)):
                if have < want:
                    group.append(before.pop(0))
                else:
                    wanted.append(after.pop(0))
            result.extend(self._regroup(group, wanted))
        return result

    def _regroup(self, group: list[Layout], wanted: list[int]) -> list[Layout]:
        if not wanted:
            self.fix(group, "a dimension of size one is dropped")
            return []
        if not group:
            return [self.constant(1) for _ in wanted]
        if len(wanted) == 1:
            return [resolve(product(group))]
        return self.factor(product(group), wanted)


def _taken_apart(layout: Layout, sizes: Sequence[int], term: Callable[[list[Layout]], Layout]) -> list[Layout]:
    """What has no parts of its own as terms of these sizes: a leaf, all that is fixed, and what stays whole."""
    if len(sizes) == 1:
        return [layout]
    if isinstance(layout, Leaf) and not layout.fixed:
        pieces: list[Layout] = [Leaf(size) for size in sizes]
        layout.bound = term(pieces)
        return pieces
    reason = next(leaves(layout)).reason
    return [Leaf(size, reason=reason) for size in sizes]
