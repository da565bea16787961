"""Attention: softmax(q k' * scale + mask) v, as torch's function and as torchvision's window attention."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fxgrow.proof.claims import (
    Claim,
    Map,
    Refuted,
    Unproved,
    both_copies,
    carried,
    is_new,
    merge_axes,
    spare,
    spare_copies,
    split_axis,
)
from fxgrow.proof.node_pair import Use, equal_values, plain
from fxgrow.proof.products import linear
from fxgrow.rules.law import Law


def attention(law: Law, use: Use) -> Claim:
    """q `[..., n, d]`, k `[..., m, d]`, v `[..., m, e]`, mask -> `[..., n, e]`."""
    use.rule = "attention"
    q, k, v = (use.equal(use.claim(place, name)) for place, name in enumerate(("query", "key", "value")))
    mask = use.optional(3, "attn_mask")
    mask = use.equal(mask) if mask is not None else None
    use.same_numbers(besides={"scale"}, places={6})
    scale = plain(use.argument(6, "scale"))
    before = scale.old if scale.old is not None else 1 / math.sqrt(q.old[-1])
    after = scale.new if scale.new is not None else 1 / math.sqrt(q.new[-1])
    if not equal_values(float(before), float(after)):
        raise Refuted(f"the scale of the scores is {after:.9g}, it was {before:.9g}")
    use.checked(f"the scale of the scores is {before:.6g}, as it was")
    if k.maps[-2] is not None or v.maps[-2] is not None:
        raise Unproved("the softmax is taken over an axis that grows")
    if q.maps[-2] is not None:
        raise Unproved("the queries are more than they were")
    _scores(use, q, k)
    lead = len(q.new) - 2
    maps: list[Map] = []
    copies: dict[int, torch.Tensor] = {}
    for axis in range(lead):
        maps.append(_lead_map(use, q, k, v, axis))
        if mask is not None:
            _mask_axis(use, mask, q, axis)
        copies[axis] = _lead_copies(q, k, v, mask, axis)
    if mask is not None and mask.maps[-1] is not None:
        raise Unproved("the mask has grown over the keys")
    if q.rank - 1 in v.copies:
        copies[q.rank - 1] = v.copies[q.rank - 1]
    new = (*q.new[:-1], v.new[-1])
    result = Claim((*q.old[:-1], v.old[-1]), new, (*maps, q.maps[-2], v.maps[-1]))
    zero = v.zeros_along([*range(lead), v.rank - 1])
    for axis in range(lead):
        if zero.shape[axis] > 1 and q.new[axis] != v.new[axis]:
            zero = zero.repeat_interleave(q.new[axis] // v.new[axis], axis)
    means = {v.rank - 1: v.means[v.rank - 1]} if v.rank - 1 in v.means else {}
    return replace(result, zero=spare(zero & is_new(result)), copies=spare_copies(copies), means=means)


def _scores(use: Use, q: Claim, k: Claim) -> None:
    """Queries times keys: at every new unit of the width one of them is zero, for old heads."""
    if q.maps[-1] is None and k.maps[-1] is None:
        return
    position = use.agreeing_maps((q.maps[-1], k.maps[-1]), (q.new[-1], k.new[-1]), "the width of heads")
    assert position is not None
    live = [_live(claim, (position < 0).nonzero().flatten()) for claim in (q, k)]
    meeting = live[0] & live[1] if live[0].shape == live[1].shape else live[0].any() & live[1].any()
    if bool(meeting.any()):
        raise Unproved("neither queries nor keys are known to be zero at the new units of a head")
    use.checked("queries or keys are zero at new units of the width of heads")


def _live(claim: Claim, units: torch.Tensor) -> torch.Tensor:
    """Where queries or keys of old heads may differ from zero at some units. Shape `[..., heads, units]`."""
    zero = claim.zeros_along([*range(claim.rank - 2), claim.rank - 1]).squeeze(-2)
    zero = zero.expand(*zero.shape[:-1], claim.new[-1]).index_select(-1, units)
    heads = is_new(Claim(claim.old[:-2], claim.new[:-2], claim.maps[:-2])).unsqueeze(-1)
    return ~(zero | heads).expand(*claim.new[:-2], len(units))


def _lead_map(use: Use, q: Claim, k: Claim, v: Claim, axis: int) -> Map:
    use.agreeing_maps((k.maps[axis], v.maps[axis]), (k.new[axis], v.new[axis]), "heads")
    if (q.old[axis], q.new[axis]) == (k.old[axis], k.new[axis]):
        return use.agreeing_maps((q.maps[axis], k.maps[axis]), (0, 0), "heads")
    if (k.old[axis], k.new[axis]) == (1, 1):
        return q.maps[axis]
    if q.old[axis] % k.old[axis] or q.new[axis] % k.new[axis]:
        raise Unproved("queries and keys do not have heads in proportion")
    before, after = q.old[axis] // k.old[axis], q.new[axis] // k.new[axis]
    position = q.map(axis)
    own = torch.arange(q.new[axis]) // after
    read = k.map(axis)[own]
    old = position >= 0
    if not torch.equal(torch.where(old, read, -1), torch.where(old, position // before, -1)):
        raise Unproved("an old query head reads another key head than it did")
    return q.maps[axis]


def _mask_axis(use: Use, mask: Claim, q: Claim, axis: int) -> None:
    place = axis - q.rank + mask.rank
    if place >= 0 and (mask.old[place], mask.new[place]) != (1, 1):
        use.agreeing_maps((mask.maps[place], q.maps[axis]), (mask.new[place], q.new[axis]), "the mask")


def _lead_copies(q: Claim, k: Claim, v: Claim, mask: Claim | None, axis: int) -> torch.Tensor:
    common = q.copies_of(axis)
    own = torch.arange(q.new[axis]) // max(1, q.new[axis] // max(1, k.new[axis]))  # the keys that a query reads
    for read in (k, v):
        common = both_copies(common, read.copies_of(axis)[own])
    if mask is not None:
        place = axis - q.rank + mask.rank
        if place >= 0 and mask.new[place] != 1:
            common = both_copies(common, mask.copies_of(place))
    return common


def window_attention(law: Law, use: Use) -> Claim:
    """torchvision's function: x `[b, h, w, c]`, qkv `[3 heads width, c]`, projection `[c, heads width]`."""
    use.rule = "window attention"
    use.same_numbers(besides={"num_heads"}, places={5})
    heads = plain(use.argument(5, "num_heads"))
    x, enter, leave = use.claim(0, "input"), use.claim(1, "qkv_weight"), use.claim(2, "proj_weight")
    table = use.equal(use.claim(3, "relative_position_bias"))
    before, after = leave.old[1] // heads.old, leave.new[1] // heads.new
    if x.old[-1] // heads.old != before or x.new[-1] // heads.new != after or before != after:
        raise Refuted(f"the width of a head is {x.new[-1] // heads.new}, it was {x.old[-1] // heads.old}")
    use.checked(f"the width of a head, and so the scale, is {before}, as it was")
    inner = linear(use, x, enter, use.optional(9, "qkv_bias"))
    split = split_axis(inner, inner.rank - 1, (3, inner.old[-1] // 3), (3, inner.new[-1] // 3))
    split = split_axis(split, split.rank - 1, (heads.old, before), (heads.new, after))
    if split.maps[-1] is not None or split.maps[-3] is not None:
        raise Unproved("the width of a head grows")
    head_map, common = split.maps[-2], split.copies_of(split.rank - 2)
    scales = use.optional(11, "logit_scale")
    per_head = [(table, table.rank - 3)] if table.rank >= 3 else []
    if scales is not None:
        per_head.append((use.equal(scales), 0))
    for claim, axis in per_head:
        use.agreeing_maps((claim.maps[axis], head_map), (claim.new[axis], heads.new), "heads")
        common = both_copies(common, claim.copies_of(axis))
    seen = Claim(
        (*x.old[:-1], heads.old, before),
        (*x.new[:-1], heads.new, after),
        (*x.maps[:-1], head_map, None),
        None,
        spare_copies({x.rank - 1: common}),
    )
    if any(m is not None for m in x.maps[:-1]):
        raise Unproved("space grows")
    sent = merge_axes(seen, x.rank - 1)
    return linear(use, sent, leave, use.optional(10, "proj_bias"))


def bias_table(law: Law, use: Use) -> Claim:
    """Bias `[1, heads, n, n]` looked up in a table `[entries, heads]`."""
    use.rule = "rows picked by index"
    use.same_numbers()
    claims = [use.equal(claim) for claim in use.claims()]
    table = claims[0]
    if any(not other.same for other in claims[1:]) or table.maps[0] is not None:
        raise Unproved("the index of a table has changed")
    return carried(table, [None, 1, None, None], use.value.shape)
