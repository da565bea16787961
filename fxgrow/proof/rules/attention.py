"""Attention: softmax(q k' * scale + mask) v, as torch's function and as torchvision's window attention."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fxgrow.proof.claims import Claim, Refuted, Unproved, both_copies, carried, merge_axes, split_axis
from fxgrow.proof.comparing import equal_values, plain
from fxgrow.proof.node_pair import Use
from fxgrow.proof.products import Operand, contract, linear
from fxgrow.proof.rules.pointwise import combined
from fxgrow.rules.law import Law


def attention(law: Law, use: Use) -> Claim:
    """q `[..., n, d]`, k `[..., m, d]`, v `[..., m, e]`, mask -> `[..., n, e]`."""
    q, k, v = (use.equal(use.claim(place, name)) for place, name in enumerate(("query", "key", "value")))
    mask = use.optional(3, "attn_mask")
    mask = use.equal(mask) if mask is not None else None
    scale = plain(use.argument(6, "scale"))
    before = scale.old if scale.old is not None else 1 / math.sqrt(q.old[-1])
    after = scale.new if scale.new is not None else 1 / math.sqrt(q.new[-1])
    if not equal_values(float(before), float(after)):
        raise Refuted(f"the scale of the scores is {after:.9g}, it was {before:.9g}")
    use.checked(f"the scale of the scores is {before:.6g}, as it was")
    use.fixed(k, [-2], "the number of keys")
    use.fixed(v, [-2], "the number of values")
    use.fixed(q, [-2], "the number of queries")
    for axis in range(q.rank - 2):
        k, v = _spread(k, axis, q), _spread(v, axis, q)
    lead = tuple(f"h{axis}" for axis in range(q.rank - 2))
    scores = contract(use, [Operand(q, (*lead, "n", "d")), Operand(k, (*lead, "m", "d"))], (*lead, "n", "m"))
    if mask is not None:
        scores = combined(use, [scores, mask], "other")
    use.fixed(scores, [-1], "the mask along the keys")
    weights = Claim(scores.old, scores.new, scores.maps, copies=scores.copies)
    return contract(use, [Operand(weights, (*lead, "n", "m")), Operand(v, (*lead, "m", "e"))], (*lead, "n", "e"))


def _spread(claim: Claim, axis: int, queries: Claim) -> Claim:
    """Keys or values whose heads are each read by several heads of queries: every head once for each of those."""
    heads, readers = (claim.old[axis], claim.new[axis]), (queries.old[axis], queries.new[axis])
    if heads == readers or (1, 1) in (heads, readers):
        return claim
    times = readers[0] // heads[0]
    if readers != (heads[0] * times, heads[1] * times):
        raise Unproved("queries and keys do not have heads in proportion")
    spread = carried(claim, [*range(axis + 1), None, *range(axis + 1, claim.rank)], [times] * (claim.rank + 1))
    copies = {**spread.copies, axis + 1: torch.zeros(times, dtype=torch.long)}
    return merge_axes(replace(spread, copies=copies), axis)


def window_attention(law: Law, use: Use) -> Claim:
    """torchvision's function: x `[b, h, w, c]`, qkv `[3 heads width, c]`, projection `[c, heads width]`."""
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
    use.fixed(split, [-3, -1], "the width of a head")
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
        {x.rank - 1: common},
    )
    use.fixed(x, range(x.rank - 1), "space")
    sent = merge_axes(seen, x.rank - 1)
    return linear(use, sent, leave, use.optional(10, "proj_bias"))
