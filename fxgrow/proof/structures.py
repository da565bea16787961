"""Claims about whole structures, such as shapes and numbers, and claims in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxgrow.modules.containers import has_fractions
from fxgrow.proof.claims import Claim, is_new, unchanged
from fxgrow.proof.comparing import Both
from fxgrow.proof.node_pair import claims_in


def picks(claim: Claim) -> bool:
    """Whether a tensor is of whole numbers whose values are known, by which entries can be picked."""
    return claim.held is not None and not has_fractions(claim.held.new)


def stripped(item: Any, zero: bool) -> Any:
    """A structure whose tensors are claimed to have old entries as they were: for finding out where they go.

    zero: whether new entries are claimed to be zero.
    """
    if isinstance(item, Claim):
        new = is_new(item) if zero else None
        return Claim(item.old, item.new, item.maps, new, held=item.held if picks(item) else None)
    if isinstance(item, dict):
        return {key: stripped(value, zero) for key, value in item.items()}
    if isinstance(item, (tuple, list)):
        return type(item)([stripped(value, zero) for value in item])
    return item


def all_unchanged(value: Any, nonnegative: bool = False) -> Any:
    if isinstance(value, Tensor):
        return unchanged(value.shape, nonnegative)
    if isinstance(value, dict):
        return {key: all_unchanged(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(all_unchanged(item) for item in value)
    return Both(value, value)


def shaped(claims: Any, value: Any) -> Any:
    """Meta tensors of the shapes in the grown model."""
    if isinstance(claims, Claim):
        return torch.empty(claims.new, dtype=value.dtype, device="meta")
    if isinstance(claims, dict):
        return {key: shaped(item, value[key]) for key, item in claims.items()}
    if isinstance(claims, Both):
        return claims.new
    return tuple(shaped(item, part) for item, part in zip(claims, value, strict=True))


def described(claims: Any) -> str:
    """A claim in words."""
    if isinstance(claims, Claim):
        return _described(claims)
    descriptions = list(dict.fromkeys(_described(claim) for claim in claims_in(claims)))
    return "; ".join(descriptions[:3]) if descriptions else "as it was"


def _described(claim: Claim) -> str:
    if all(m is None for m in claim.maps):
        return "the original"
    grown = [
        f"axis {axis}: {claim.old[axis]} of {claim.new[axis]} units old"
        for axis, position in enumerate(claim.maps)
        if position is not None
    ]
    new = is_new(claim)
    facts = []
    if claim.zero is not None:
        facts.append("Zero" if bool((claim.zero | ~new).all()) else "partly Zero")
    if claim.means:
        facts.append("Mean")
    if claim.copies:
        facts.append("Copy")
    return f"old part the original, {', '.join(grown)}, new part {' and '.join(facts) or 'Free'}"
