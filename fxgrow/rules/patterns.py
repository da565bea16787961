"""Patterns over named axes, such as "... (g i) *s": what the names stand for where an op is used."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fxgrow.axes.layout import Layout, Reason, product
from fxgrow.rules.op import Op, Tensor

Token = str | tuple[str, ...]


def tokens(pattern: str) -> list[Token]:
    """Parse "... (g i) *s" into its tokens: names, groups of names, starred names, the ellipsis.

    >>> tokens("... (g i) *s")
    ['...', ('g', 'i'), '*s']
    """
    words = re.findall(r"\(([^)]*)\)|(\S+)", pattern)
    return [tuple(group.split()) if group else name for group, name in words]


@dataclass
class Binding:
    """What the names of a pattern stand for in one use of the op."""

    names: dict[str, Layout] = field(default_factory=dict)
    stars: dict[str, list[Layout]] = field(default_factory=dict)
    ellipsis: list[Layout] = field(default_factory=list)
    free: Sequence[bool] = ()
    placed: list[dict[str, list[int]]] = field(default_factory=list)  # operand -> name -> its axes

    def layout(self, token: Token) -> Layout:
        if isinstance(token, tuple):
            return product([self.names[name] for name in token])
        return self.names[token]


def bind(
    op: Op, operands: list[Tensor], patterns: list[str], sizes: dict[str, int], free: Sequence[bool] = ()
) -> Binding:
    """Match operands against patterns, tying the axes that share a name; `free`: space that a kernel leaves alone."""
    binding = Binding(placed=[{} for _ in operands], free=free)
    order = sorted(range(len(operands)), key=lambda k: "..." in patterns[k])
    for k in order:
        _bind_one(op, operands[k], tokens(patterns[k]), binding, binding.placed[k], sizes)
    return binding


def _bind_one(
    op: Op,
    operand: Tensor,
    parsed: list[Token],
    binding: Binding,
    placed: dict[str, list[int]],
    sizes: dict[str, int],
) -> None:
    unifier = op.unifier
    spare = operand.rank - sum(1 for t in parsed if t != "..." and not (isinstance(t, str) and t[0] == "*"))
    stars = [t for t in parsed if isinstance(t, str) and t[0] == "*"]
    star_rank = len(next(iter(binding.stars.values()), [])) if binding.stars else spare
    axis = 0
    for token in parsed:
        if token == "...":
            count = spare - (star_rank if stars else 0)
            own = [operand.axis(axis + k) for k in range(count)]
            placed["..."] = list(range(axis, axis + count))
            binding.ellipsis = _broadcast(op, binding.ellipsis, own)
            axis += count
        elif isinstance(token, str) and token[0] == "*":
            own = [operand.axis(axis + k) for k in range(star_rank)]
            for k, axis_slid in enumerate(own):
                if token == "*s" and not any(binding.free[k : k + 1]):
                    unifier.fix(axis_slid, Reason("a kernel slides over it", op.place))
                elif token != "*s":
                    unifier.fix(axis_slid, Reason("a kernel dimension", quiet=True))
            binding.stars[token] = own
            axis += star_rank
        else:
            names = token if isinstance(token, tuple) else (token,)
            parts = [operand.axis(axis)]
            if len(names) > 1:
                total = operand.axis(axis).size
                known = {n: sizes.get(n) or (binding.names[n].size if n in binding.names else 0) for n in names}
                missing = [n for n in names if not known[n]]
                if missing:
                    known[missing[0]] = total // math.prod(known[n] for n in names if known[n])
                parts = unifier.factor(parts[0], [known[n] for n in names])
            for name, part in zip(names, parts, strict=True):
                if name in binding.names:
                    unifier.unify(binding.names[name], part)
                else:
                    binding.names[name] = part
                placed.setdefault(name, []).append(axis)
            axis += 1


def _broadcast(op: Op, left: list[Layout], right: list[Layout]) -> list[Layout]:
    if len(left) < len(right):
        left, right = right, left
    lead = len(left) - len(right)
    return [*left[:lead], *(op.unifier.broadcast([a, b]) for a, b in zip(left[lead:], right, strict=True))]
