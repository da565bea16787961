"""Patterns over named axes, such as "... (g i) *s": what the names stand for where an op is used."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fxgrow.axes.layout import Layout, Reason, product
from fxgrow.rules.op import Op, Tensor

Names = tuple[str, ...]
"""What an axis is called; by several names if it is the product of as many axes."""


def tokens(pattern: str) -> list[Names]:
    """Parse a pattern.

    >>> tokens("... (g i) *s")
    [('...',), ('g', 'i'), ('*s',)]
    """
    return [tuple((group or name).split()) for group, name in re.findall(r"\(([^)]*)\)|(\S+)", pattern)]


def spelled(pattern: str, rank: int, space: int = 0) -> list[Names]:
    """What each axis of a tensor is called. A starred name stands for `space` axes, "..." for all that are left.

    >>> spelled("... (g i) *s", 5, 2)
    [('...1',), ('...0',), ('g', 'i'), ('*s0',), ('*s1',)]
    """
    parsed = tokens(pattern)
    stars = sum(names[0][0] == "*" for names in parsed)
    spare = rank - (len(parsed) - stars - 1) - stars * space
    axes: list[Names] = []
    for names in parsed:
        if names == ("...",):
            axes += [(f"...{k}",) for k in reversed(range(spare))]  # counted from the last, as they are broadcast
        else:
            axes += [(f"{names[0]}{k}",) for k in range(space)] if names[0][0] == "*" else [names]
    return axes


def named_axes(patterns: Sequence[str], ranks: Sequence[int]) -> tuple[list[list[Names]], int]:
    """What the axes of operands of these ranks are called, and how many axes of space a kernel has."""
    kernels = [
        rank - len(tokens(pattern)) + 1
        for pattern, rank in zip(patterns, ranks, strict=True)
        if "*" in pattern and "..." not in pattern
    ]
    space = kernels[0] if kernels else 0
    return [spelled(pattern, rank, space) for pattern, rank in zip(patterns, ranks, strict=True)], space


@dataclass
class Binding:
    """What the names of a pattern stand for in one use of the op.

    axes: what the axes of each operand are called. summed: the names that the output does not have, but for those of
    space. lands: for each operand, the axes that go whole into the output, each with the output's axis.
    """

    axes: list[list[Names]]
    space: int
    names: dict[str, Layout] = field(default_factory=dict)
    summed: list[str] = field(default_factory=list)
    lands: list[dict[int, int]] = field(default_factory=list)

    def layout(self, names: Names) -> Layout:
        return product([self.names[name] for name in names]) if len(names) > 1 else self.names[names[0]]

    def places(self, operand: int, name: str) -> list[int]:
        """The axes of an operand that have a name."""
        return [axis for axis, names in enumerate(self.axes[operand]) if name in names]

    def output(
        self, op: Op, operands: list[Tensor], pattern: str, shape: Sequence[int], free: Sequence[bool] = ()
    ) -> Tensor:
        """What the op makes, of that shape; `free`: space that a kernel leaves alone."""
        made = spelled(pattern, len(shape), self.space)
        for names, size in zip(made, shape, strict=True):
            known = math.prod(self.names[name].size for name in names if name in self.names)
            for name in names:
                if name[0] == "*" and any(free[int(name[2:]) :][:1]):
                    self.names[name] = self.names[f"*s{name[2:]}"]
                elif name not in self.names:  # an axis of the op's own, such as space that a kernel slid over
                    self.names[name] = op.unifier.constant(size // known)
        kept_names = {name for names in made for name in names}
        self.summed = [name for name in self.names if name not in kept_names and name[0] not in ".*"]
        for operand, own in zip(operands, self.axes, strict=True):
            both = itertools.product(enumerate(own), enumerate(made))
            shared = [(axis, place) for (axis, names), (place, others) in both if set(names) & set(others)]
            self.lands.append({axis: place for axis, place in shared if operand.shape[axis] == shape[place]})
        return op.result([self.layout(names) for names in made])

    def starred(self, star: str) -> list[Layout]:
        """What a starred name stands for."""
        return [layout for name, layout in self.names.items() if name.startswith(star)]


def bind(
    op: Op, operands: list[Tensor], patterns: Sequence[str], sizes: dict[str, int], free: Sequence[bool] = ()
) -> Binding:
    """Match operands against patterns, tying the axes that share a name; `free`: space that a kernel leaves alone."""
    named, space = named_axes(patterns, [t.rank for t in operands])
    binding = Binding(named, space)
    for k in sorted(range(len(operands)), key=lambda k: "..." in patterns[k]):
        for axis, names in enumerate(named[k]):
            _tie(op, binding.names, names, operands[k].axis(axis), sizes)
    for k, layout in enumerate(binding.starred("*s")):
        if not any(free[k : k + 1]):
            op.unifier.fix(layout, Reason("a kernel slides over it", op.place))
    op.unifier.fix(binding.starred("*k"), Reason("a kernel dimension", quiet=True))
    return binding


def _tie(op: Op, known: dict[str, Layout], names: Names, layout: Layout, sizes: dict[str, int]) -> None:
    parts = [layout]
    if len(names) > 1:
        counts = {n: sizes.get(n) or (known[n].size if n in known else 0) for n in names}
        missing = next((n for n in names if not counts[n]), None)
        if missing is not None:
            counts[missing] = layout.size // math.prod(count for count in counts.values() if count)
        parts = op.unifier.factor(layout, [counts[n] for n in names])
    for name, part in zip(names, parts, strict=True):
        if name not in known:
            known[name] = part
        elif name.startswith("..."):
            known[name] = op.unifier.broadcast([known[name], part])
        else:
            op.unifier.unify(known[name], part)
