"""What the values of a tensor say where they are known: old entries checked, zeros, copies and means among new ones."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fxgrow.modules.containers import has_fractions
from fxgrow.proof.claims import Claim, HeldValues, Map, Refuted, at_old, earliest, is_new, spare, unchanged
from fxgrow.proof.values import DERIVED_ULPS, ULPS, at_index, differing, exact, first


def check_old_entries(held: HeldValues, maps: tuple[Map, ...], old: tuple[int, ...], factor: float = 1.0) -> str:
    """Check that old entries of a tensor are the original's, times a factor that rounds; what was checked, in words.

    Raises
    ------
    Refuted: an old entry is not what it was.
    """
    kept = at_old(held.new, maps, old)
    wanted = held.old if factor == 1.0 else exact(held.old) * factor
    if kept.shape != wanted.shape:
        raise Refuted(
            f"{held.name} is of shape {list(held.new.shape)}, which is not a growth of {list(held.old.shape)}"
        )
    stored = held.exact and factor == 1.0 and not held.rounded
    bound = 0.0 if stored else (ULPS if held.exact else DERIVED_ULPS) * held.precision
    wrong = differing(kept, wanted, bound, largest=not held.exact)
    if wrong.any():
        place = first(wrong)
        raise Refuted(
            f"{held.name}: old entry {list(place)} is {at_index(kept, place):.9g}, "
            f"it should be {at_index(wanted, place):.9g}"
        )
    times = f" x {factor:.6g}" if factor != 1.0 else ""
    return f"old entries of {held.name} are the original's{times}" + ("" if stored else " (few ulp)")


def without_values(claim: Claim) -> Claim:
    """A claim of values as one of old entries, which are to be checked, and of what is seen of new ones."""
    if claim.held is None:
        return claim
    return unchanged(claim.new) if claim.constant else Claim(claim.old, claim.new, claim.maps, *facts_of(claim))


REPEATING = frozenset({"pair", "copy", "opposite", "share"})
"""Fills that leave equal rows behind."""


def facts_of(claim: Claim) -> tuple[Tensor | None, dict[int, Tensor], dict[int, Tensor]]:
    """What is known of the new part of a tensor of known values: looked up in the values."""
    assert claim.held is not None
    if all(m is None for m in claim.maps):
        return None, {}, {}
    value, fills = claim.held.new, claim.held.fills
    new = is_new(claim)
    nothing = value == 0
    if not claim.held.exact and has_fractions(value) and value.numel():  # worked out, so that nothing may be rounded
        sizes = value.abs()
        nothing = sizes <= DERIVED_ULPS * claim.held.precision * sizes.where(sizes.isfinite(), 0.0).amax()
    zero = spare(nothing & new.to(value.device))
    copies: dict[int, Tensor] = {}
    means: dict[int, Tensor] = {}
    for axis, position in enumerate(claim.maps):
        if position is not None and fills & REPEATING:
            copies[axis] = repeated(value, axis)
        if position is not None and "mean" in fills:
            means[axis] = mean_positions(value, axis, position, claim.held.precision)
    return None if zero is None else zero.cpu(), copies, means


def repeated(value: Tensor, axis: int) -> Tensor:
    """Position -> the first position along an axis with the same entries, bit for bit. Shape `[positions]`."""
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    rows = value.detach().movedim(axis, 0).reshape(value.shape[axis], -1)
    count = rows.shape[0]
    if rows.shape[1] == 0:
        return torch.arange(count)
    keys = rows.double()
    order = torch.argsort((keys * _mixer(rows.shape[1]).to(keys.device)).sum(1), stable=True)
    ordered = rows[order]
    starts = torch.ones(count, dtype=torch.bool, device=rows.device)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(1)  # equal rows have equal sums, and so are neighbours
    source = torch.empty(count, dtype=torch.long)
    source[order.cpu()] = starts.cumsum(0).cpu() - 1
    return earliest(source)


@functools.lru_cache(maxsize=64)
def _mixer(size: int) -> Tensor:
    """Weights that tell rows apart by their sums."""
    generator = torch.Generator().manual_seed(0)
    return torch.empty(size, dtype=torch.float64).uniform_(0.5, 1.5, generator=generator)


def mean_positions(value: Tensor, axis: int, position: Tensor, precision: float) -> Tensor:
    """Which new positions along an axis hold the mean of the old ones, up to rounding. Shape `[positions]`."""
    old, new = (position >= 0).nonzero().flatten(), (position < 0).nonzero().flatten()
    result = torch.zeros(len(position), dtype=torch.bool)
    if not len(old) or not len(new) or not has_fractions(value):
        return result
    before, added = (exact(value.index_select(axis, units.to(value.device))) for units in (old, new))
    mean, scale = before.mean(axis, keepdim=True), before.abs().amax(axis, keepdim=True)
    bound = ULPS * precision * scale
    near = (added - mean).abs() <= bound
    for other in range(value.ndim):
        if other != axis:
            near = near.all(other, keepdim=True)
    result[new] = near.flatten().cpu()
    return result
