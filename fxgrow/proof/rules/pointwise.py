"""Functions of each entry by itself: equal entries stay equal; f(0) = 0 is tried out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.containers import flat_tensors
from fxgrow.proof.claims import Claim, Map, Unproved, both_copies, carried, is_new, one_number
from fxgrow.proof.comparing import plain
from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules.movement import arranged, halves
from fxgrow.rules.calls import draws_apart, keeps_zero, run
from fxgrow.rules.complexes import ComplexPart, is_part
from fxgrow.rules.intervals import is_rectifier
from fxgrow.rules.law import Terms
from fxgrow.rules.pointwise import GatedUnit, ParametricRelu, Pointwise, keeps_means
from fxgrow.rules.shape import axis_of


def pointwise(law: Pointwise, use: Use) -> Claim:
    kind = law.kind if isinstance(law.kind, str) else "other"
    return elementwise(use, kind, lambda count: Terms(*law.split(count)).silencing())


def elementwise(use: Use, kind: str, silencing: Callable[[int], list[list[int]]] | None = None) -> Claim:
    """One output entry is f of the operands' entries at its place, operands broadcast against each other.

    kind: "linear", "add", "multiply", "divide": how f treats means; anything else: it destroys them.
    silencing: of so many operands, which have to be zero together for f to be: alternatives; None: all of them.
    """
    use.rule = "pointwise"
    claims = [use.equal(claim) for claim in use.claims()]
    if kind == "divide" and not (use.args and isinstance(use.args[0], Claim)):
        kind = "other"  # number / tensor
    everything = [list(range(len(claims)))]
    zeros = silencing(len(claims)) if silencing is not None else everything
    made = combined(use, claims, kind, zeros if zeros != everything or _vanishes(use) else ())
    return Claim(made.old, made.new, made.maps, made.zero) if draws_apart(use.name) else made


def parametric_relu(law: ParametricRelu, use: Use) -> Claim:
    x, slope = use.equal(use.claim()), use.parameter("weight")
    assert slope is not None
    slope = use.equal(slope)
    if slope.new[0] != 1:
        slope = carried(slope, [0 if axis == 1 else None for axis in range(x.rank)], [1] * x.rank)
    return replace(combined(use, [x, slope], "other"), zero=x.zero)  # max(0, 0) + a min(0, 0) = 0


def gated_unit(law: GatedUnit, use: Use) -> Claim:
    x = use.equal(use.claim())
    axis = axis_of(use.setting(1, "dim", -1).new, x.rank)
    if x.old[axis] % 2 or x.new[axis] % 2:
        raise Unproved("an axis of odd size has no halves")
    return combined(use, halves(x, axis), "other", [[0]])


def complex_part(law: ComplexPart, use: Use) -> Claim:
    if use.new.target is getattr and not is_part(plain(use.argument(1, "name")).new):
        raise no_rule(use)
    return combined(use, [use.equal(use.claim())], "linear", [[0]])


def combined(use: Use, claims: Sequence[Claim], kind: str, zeros: Sequence[Sequence[int]] = ()) -> Claim:
    """The claim about f of some tensors, broadcast; zeros: which have to be zero together for f to be: alternatives."""
    rank = max(claim.rank for claim in claims)
    old: list[int] = []
    new: list[int] = []
    maps: list[Map] = []
    copies: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}
    for axis in range(rank):
        facing = [(c, axis - rank + c.rank) for c in claims if axis - rank + c.rank >= 0]
        wide = [(c, k) for c, k in facing if (c.old[k], c.new[k]) != (1, 1)]
        if any(c.old[k] == 1 or c.new[k] == 1 for c, k in wide) and len(facing) > 1:
            raise Unproved("a dimension of size one grows and meets another tensor")
        chosen = wide or facing
        first, place = chosen[0]
        old.append(first.old[place])
        new.append(first.new[place])
        sizes = {(c.old[k], c.new[k]) for c, k in chosen}
        if len(sizes) > 1:
            raise Unproved(f"sizes {sorted(sizes)} meet on axis {axis}")
        maps.append(use.agreeing_maps((c.maps[k] for c, k in chosen), (c.new[k] for c, k in chosen), f"axis {axis}"))
        if any(c.repeats(k) for c, k in chosen):
            common = first.equal_along(place)
            for c, k in chosen[1:]:
                common = both_copies(common, c.equal_along(k))
            copies[axis] = common
        if keeps_means(kind, [k for k, c in enumerate(claims) if any(c is chosen_claim for chosen_claim, _ in chosen)]):
            means_here = [c.means[k] for c, k in chosen if k in c.means]
            if len(means_here) == len(chosen):
                means[axis] = torch.stack(means_here).all(0)
    zero = _zero(claims, kind, zeros, rank)
    nonnegative = is_rectifier(use.kind) or (
        kind in ("add", "multiply") and "sub" not in use.name and all(c.nonnegative for c in claims) and len(claims) > 1
    )
    if all(claim.uniform for claim in claims):
        return one_number(old, new, maps, bool(zero is not None and zero.all()))
    return Claim(tuple(old), tuple(new), tuple(maps), zero, copies, means, None, nonnegative)


def _zero(claims: Sequence[Claim], kind: str, zeros: Sequence[Sequence[int]], rank: int) -> Tensor | None:
    masks = [c.zeros().reshape((1,) * (rank - c.rank) + tuple(c.zeros().shape)) for c in claims]
    if kind == "divide" and len(claims) > 1:
        return masks[0] & ~(is_new(claims[1]) if not claims[1].uniform else masks[1])  # zero over zero is no number
    ways = [functools.reduce(torch.logical_and, [masks[k] for k in way]) for way in zeros]
    return functools.reduce(torch.logical_or, ways) if ways else None


def _vanishes(use: Use) -> bool:
    """Whether the op makes zero of zeros, tried out on one entry, in float64 or complex128."""
    if not any(claim.zero is not None for claim in use.claims()) and not any(c.held for c in use.claims()):
        return False  # nobody asks
    operands = flat_tensors([node.meta.get("value") for node in use.old.all_input_nodes])
    dtype = torch.complex128 if any(operand.is_complex() for operand in operands) else torch.float64

    def outcome(zeros: Iterator[float]) -> Any:
        one_entry = arranged(use, lambda claim: torch.full((1,) * claim.rank, next(zeros), dtype=dtype), old=False)
        with torch.random.fork_rng(devices=[]):
            return run(use.new, use.new_module, *one_entry)

    return keeps_zero(len(use.claims()), outcome)  # not: of integers, of booleans, or of more than one entry
