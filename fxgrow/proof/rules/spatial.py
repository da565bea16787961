"""Functions of space that treat every channel alike: pooling, padding, resizing, windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fxgrow.proof.claims import (
    Claim,
    Refuted,
    Unproved,
    carried,
    merge_axes,
    one_number,
    split_axis,
    unchanged,
)
from fxgrow.proof.node_pair import Both, Use, no_rule, plain
from fxgrow.proof.rules.movement import first, joined, moved
from fxgrow.proof.rules.pointwise import combined
from fxgrow.rules.calls import is_inexact
from fxgrow.rules.complexes import Pairs
from fxgrow.rules.reduction import Across
from fxgrow.rules.spatial import (
    CHANNELS,
    AffineGrid,
    Pad,
    Rearranged,
    Regions,
    Spatial,
    Unfold,
    Unpooled,
    pads_with_zeros,
)


def space(law: Spatial, use: Use) -> Any:
    rank = use.claims()[0].rank if use.claims() else 0
    return _channelwise(use, range(rank - (law.rank or rank - 2), rank), law.kind)


def regions(law: Regions, use: Use) -> Any:
    """Cells of boxes, channel by channel; `by_cell`: a channel has one for every cell."""
    x = _first_alone(use, (0, 2, 3))
    if law.by_cell:
        kept = use.value.shape[1]
        each = x.old[1] // kept
        if x.new[1] % each:
            raise Unproved("a channel has a part of its cells")
        x = split_axis(x, 1, (kept, each), (x.new[1] // each, each))
        if x.maps[2] is not None:
            raise Unproved("cells have grown")
    return _outputs(use.value, x, [None, 1, None, None], law.kind)


def unpooled(law: Unpooled, use: Use) -> Any:
    """Entries put where indices say that stand beside them, channel by channel."""
    use.rule = "the same for every channel"
    place = law.size_place(use.new_module)
    use.same_module()
    use.same_numbers({place[1]}, place[:1])
    size = plain(use.argument(*place))
    if size.old is not None and size.old[-law.rank :] != size.new[-law.rank :]:
        raise Refuted(f"the size to reach is {list(size.new)}, it was {list(size.old)}")
    x, indices = (use.equal(claim) for claim in use.claims())
    lead = x.rank - law.rank
    if any(x.maps[axis] is not None for axis in range(lead, x.rank)):
        raise Unproved(f"{use.name} is taken over an axis that grows")
    rest = [*range(lead), *[None] * law.rank]
    alone = [carried(claim, rest, [*claim.old[:lead], *[1] * law.rank]) for claim in (x, indices)]
    return _outputs(use.value, combined(use, alone, "zero", [[0]]), rest, "zero")


def affine_grid(law: AffineGrid, use: Use) -> Claim:
    """Of the size of an image all but the channels count."""
    use.rule = "points of a grid"
    use.same_numbers({"size"}, (1,))
    size = plain(use.argument(1, "size"))
    for k, (before, after) in enumerate(zip(size.old, size.new, strict=True)):
        if before != after and k != CHANNELS:
            raise Refuted(f"the size of the image is {list(size.new)}, it was {list(size.old)}")
    if any(not use.equal(claim).same for claim in use.claims()):
        raise Unproved("a transformation has grown")
    return unchanged(use.value.shape)


def rearranged(law: Rearranged, use: Use) -> Any:
    rank = use.claims()[0].rank if use.claims() else 1
    if law.times > 1 or getattr(use.value, "ndim", rank) != rank:
        return moved(law, use)
    return _channelwise(use, range(rank - 1), law.kind)


def padded(law: Pad, use: Use) -> Any:
    module = use.new_module
    pad = plain(use.argument(1, "pad")) if module is None else use.setting(0, "padding")
    axes = [-1 - k for k in range(len(pad.new) // 2) if any(pad.new[2 * k : 2 * k + 2])]
    grows = not pad.same or any(use.claim().maps[axis] is not None for axis in axes)
    if grows and module is None and pads_with_zeros(lambda *setting: use.setting(*setting).new):
        return _between_zeros(use, pad)
    return _channelwise(use, axes, law.kind, use.setting(3, "value").new in (None, 0))


def _between_zeros(use: Use, pad: Both) -> Claim:
    """Entries between zeros, of which there may be more than there were."""
    use.rule = "moves entries"
    use.same_numbers({"pad"}, (1,))
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


def _channelwise(use: Use, mixed: Sequence[int], kind: str, keeps_zero: bool = True) -> Any:
    """The same function of the axes `mixed`, for every position on the others; "linear" keeps means there."""
    x = _first_alone(use, mixed)
    own = {axis % x.rank for axis in mixed}
    return _outputs(use.value, x, [None if k in own else k for k in range(x.rank)], kind, keeps_zero)


def across(law: Across, use: Use) -> Any:
    """A function of all entries on some axes of tensors that face each other on all others, entry by entry."""
    claims, index = use.claims(), use.given(2, "index")
    mixed, kind = law.axes(use.new_module, use.given, claims[0].rank), law.kind_of(use.given)
    if mixed is None:
        raise no_rule(use)
    facing = [claim for claim in claims if claim.rank == claims[0].rank]
    own = {k for k in range(claims[0].rank) if k in mixed or len({claim.old[k] for claim in facing}) > 1}
    rest = [None if k in own else k for k in range(claims[0].rank)]
    if not all(use.equal(claim).same for claim in claims if claim.rank != claims[0].rank):
        raise Unproved(f"an operand of {use.name} has grown")
    alone = [carried(_alone(use, claim, own), rest, [1] * claim.rank) for claim in facing]
    if any(claim is not index for claim in claims if claim.rank != claims[0].rank):
        kind = "other"  # a number as a tensor is written, and nobody knows which
    sources = [k for k, claim in enumerate(facing) if claim is not index]
    combination = combined(use, alone, kind, [sources] if kind != "other" else ())
    return _outputs(use.value, combination, rest, kind)


def _first_alone(use: Use, mixed: Iterable[int]) -> Claim:
    """As `_alone` of the first operand, beside others that do not grow."""
    claims = use.claims()
    if any(not use.equal(other).same for other in claims[1:]):
        raise Unproved(f"an operand of {use.name} has grown")
    return _alone(use, claims[0], mixed)


def _alone(use: Use, claim: Claim, mixed: Iterable[int]) -> Claim:
    """The operand of a function of the axes `mixed`, none of which grows, with the same arguments in both models."""
    use.rule = "the same for every channel"
    use.same_settings()
    x = use.equal(claim)
    if any(x.maps[axis] is not None for axis in mixed):
        raise Unproved(f"{use.name} is taken over an axis that grows")
    return x


def _outputs(value: Any, x: Claim, axes: Sequence[int | None], kind: str, keeps_zero: bool = True) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_outputs(item, x, axes, kind, keeps_zero) for item in value)
    if not isinstance(value, Tensor) or value.ndim != len(axes):
        raise Unproved("the number of axes changes")
    if any(value.shape[k] != x.old[k] for k in axes if k is not None):
        raise Unproved("an axis that should pass through changes its size")
    result = carried(x, axes, value.shape, means=kind == "linear")
    keeps_zero = keeps_zero and is_inexact(value)  # where the largest entry is is no zero
    return result if keeps_zero else replace(result, zero=None)


def paired(law: Pairs, use: Use) -> Claim:
    """Real and imaginary part of every entry, side by side on a last axis; `inverse`: back to complex numbers."""
    x = _alone(use, use.claim(), [-1] if law.inverse else [])
    parts: Claim = _outputs(use.value, x, [*range(x.rank - 1)] if law.inverse else [*range(x.rank), None], "linear")
    return parts


def windowed(law: Unfold, use: Use) -> Claim:
    """Windows of every channel, side by side along the axis of the channels; `inverse`: added up into space."""
    x, shape = _alone(use, use.claim(), (-1,) if law.inverse else (-2, -1)), tuple(use.value.shape)
    axis = x.rank - (2 if law.inverse else 3)
    if not law.inverse:
        return merge_axes(_over(x, axis, (shape[axis] // x.old[axis], shape[-1])), axis)
    kernel = x.old[axis] // shape[axis]
    if x.new[axis] % kernel:
        raise Unproved("a channel has a part of a window")
    apart = split_axis(x, axis, (shape[axis], kernel), (x.new[axis] // kernel, kernel))
    if apart.maps[axis + 1] is not None:
        raise Unproved("windows have grown")
    return _over(apart, axis, (shape[-2], shape[-1]))


def _over(x: Claim, axis: int, sizes: tuple[int, int]) -> Claim:
    """What is known of x on its axes up to `axis`, over two axes of these sizes in the place of its last two."""
    return carried(x, [*range(axis + 1), None, None], (*x.old[: axis + 1], *sizes), means=False)
