"""Functions of space that treat every channel alike: pooling, padding, resizing, windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fxgrow.modules.containers import has_fractions
from fxgrow.proof.claims import Claim, Refuted, Unproved, carried, merge_axes, one_number, split_axis, unchanged
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules.movement import first, joined
from fxgrow.proof.rules.pointwise import combined
from fxgrow.rules.complexes import Pairs
from fxgrow.rules.patterns import spelled
from fxgrow.rules.reduction import Across
from fxgrow.rules.spatial import CHANNELS, AffineGrid, Pad, Spatial, Unpooled, pads_with_zeros


def channelwise(law: Spatial, use: Use) -> Any:
    """The same function of all axes that only one pattern of a law names, for every position on the others."""
    x, value = _only_operand(use, ()), use.value[0] if isinstance(use.value, tuple) else use.value
    patterns = zip(law.patterns(x.rank), (x.rank, value.ndim), strict=True)
    before, after = (spelled(pattern, rank) for pattern, rank in patterns)
    sizes = {names[0]: size for names, size in zip(after, value.shape, strict=True) if len(names) == 1}
    for axis, names in reversed([*enumerate(before)]):
        if len(names) > 1:
            each = x.old[axis] // sizes[names[0]]
            if x.new[axis] % each:
                raise Unproved("a unit has a part of what is made into it")
            x = split_axis(x, axis, (sizes[names[0]], each), (x.new[axis] // each, each))
    own, made = ([name for names in spelt for name in names] for spelt in (before, after))
    use.fixed(x, [k for k, name in enumerate(own) if name not in made], "an axis that it is taken over")
    known = dict(zip(own, x.old, strict=True))
    for names, size in zip(after, value.shape, strict=True):
        known |= {name: size // math.prod(known.get(n, 1) for n in names) for name in names if name not in known}
    axes = [own.index(name) if name in own else None for name in made]
    result = carried(x, axes, [known[name] for name in made], law.kind == "linear")
    for axis, names in enumerate(after):
        result = merge_axes(result, axis) if len(names) > 1 else result
    return _outputs(use.value, result, range(result.rank), law.kind)


def unpooled(law: Unpooled, use: Use) -> Any:
    """Entries put where indices say that stand beside them, channel by channel."""
    place = law.size_place(use.new_module)
    use.same_module()
    use.same_numbers({place[1]}, place[:1])
    size = plain(use.argument(*place))
    if size.old is not None and size.old[-law.rank :] != size.new[-law.rank :]:
        raise Refuted(f"the size to reach is {list(size.new)}, it was {list(size.old)}")
    x, indices = (use.equal(claim) for claim in use.claims())
    lead = x.rank - law.rank
    use.fixed(x, range(lead, x.rank), "an axis that it is taken over")
    rest = [*range(lead), *[None] * law.rank]
    each = [carried(claim, rest, [*claim.old[:lead], *[1] * law.rank]) for claim in (x, indices)]
    return _outputs(use.value, combined(use, each, "zero", [[0]]), rest, "zero")


def affine_grid(law: AffineGrid, use: Use) -> Claim:
    """Of the size of an image all but the channels count."""
    size = plain(use.argument(1, "size"))
    for k, (before, after) in enumerate(zip(size.old, size.new, strict=True)):
        if before != after and k != CHANNELS:
            raise Refuted(f"the size of the image is {list(size.new)}, it was {list(size.old)}")
    use.unchanged(use.claims(), "a transformation")
    return unchanged(use.value.shape)


def padded(law: Pad, use: Use) -> Any:
    module = use.new_module
    pad = plain(use.argument(1, "pad")) if module is None else use.setting(0, "padding")
    axes = [-1 - k for k in range(len(pad.new) // 2) if any(pad.new[2 * k : 2 * k + 2])]
    grows = not pad.same or any(use.claim().maps[axis] is not None for axis in axes)
    if grows and module is None and pads_with_zeros(lambda *setting: use.setting(*setting).new):
        return _between_zeros(use, pad)
    use.same_settings()
    x = _only_operand(use, axes)
    rest = [None if k - x.rank in axes else k for k in range(x.rank)]
    return _outputs(use.value, x, rest, law.kind, use.setting(3, "value").new in (None, 0))


def _between_zeros(use: Use, pad: Both) -> Claim:
    """Entries between zeros, of which there may be more than there were."""
    use.rule = "moves entries"
    x = use.equal(use.claim())
    if len(pad.old) != len(pad.new) or any(b < a or a < 0 for a, b in zip(pad.old, pad.new, strict=True)):
        raise Unproved(f"{use.name} leaves entries out, or writes fewer zeros")
    for axis in range(len(pad.new) // 2):
        zeros = (_zeros_beside(x, x.rank - 1 - axis, pad.old[k], pad.new[k]) for k in (2 * axis, 2 * axis + 1))
        before, after = zeros
        x = joined([claim for claim in (before, x, after) if claim.new[x.rank - 1 - axis]], x.rank - 1 - axis)
    return x


def _zeros_beside(x: Claim, axis: int, before: int, after: int) -> Claim:
    """So many zeros along an axis, beside a tensor."""
    old, new = ([*shape[:axis], size, *shape[axis + 1 :]] for shape, size in ((x.old, before), (x.new, after)))
    return one_number(old, new, [*x.maps[:axis], first(before, after), *x.maps[axis + 1 :]], True)


def across(law: Across, use: Use) -> Any:
    """A function of all entries on some axes of tensors that face each other on all others, entry by entry."""
    claims, index = use.claims(), use.given(2, "index")
    mixed, kind = law.axes(use.new_module, use.given, claims[0].rank), law.kind_of(use.given)
    if mixed is None:
        raise no_rule(use)
    facing = [claim for claim in claims if claim.rank == claims[0].rank]
    own = {k for k in range(claims[0].rank) if k in mixed or len({claim.old[k] for claim in facing}) > 1}
    rest = [None if k in own else k for k in range(claims[0].rank)]
    use.unchanged((claim for claim in claims if claim.rank != claims[0].rank), "an operand")
    each = [carried(_fixed_over(use, claim, own), rest, [1] * claim.rank) for claim in facing]
    if any(claim is not index for claim in claims if claim.rank != claims[0].rank):
        kind = "other"  # a number as a tensor is written, and nobody knows which
    sources = [k for k, claim in enumerate(facing) if claim is not index]
    combination = combined(use, each, kind, [sources] if kind != "other" else ())
    return _outputs(use.value, combination, rest, kind)


def _only_operand(use: Use, mixed: Iterable[int]) -> Claim:
    """As `_fixed_over` of the first operand, beside others that do not grow."""
    claims = use.claims()
    use.unchanged(claims[1:], "an operand")
    return _fixed_over(use, claims[0], mixed)


def _fixed_over(use: Use, claim: Claim, mixed: Iterable[int]) -> Claim:
    """The operand of a function of the axes `mixed`, none of which grows."""
    x = use.equal(claim)
    use.fixed(x, mixed, "an axis that it is taken over")
    return x


def _outputs(value: Any, x: Claim, axes: Sequence[int | None], kind: str, keeps_zero: bool = True) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_outputs(item, x, axes, kind, keeps_zero) for item in value)
    if not isinstance(value, Tensor) or value.ndim != len(axes):
        raise Unproved("the number of axes changes")
    if any(value.shape[k] != x.old[k] for k in axes if k is not None):
        raise Unproved("an axis that should pass through changes its size")
    result = carried(x, axes, value.shape, means=kind == "linear")
    keeps_zero = keeps_zero and has_fractions(value)  # where the largest entry is is no zero
    return result if keeps_zero else replace(result, zero=None)


def paired(law: Pairs, use: Use) -> Claim:
    """Real and imaginary part of every entry, side by side on a last axis; `inverse`: back to complex numbers."""
    x = _fixed_over(use, use.claim(), [-1] if law.inverse else [])
    parts: Claim = _outputs(use.value, x, [*range(x.rank - 1)] if law.inverse else [*range(x.rank), None], "linear")
    return parts
