"""Tensors that depend on neither inputs nor parameters (coordinates, masks): worked out once, for both models.

An index that a forward computes from `arange` says where entries go; a proof has to know its values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxgrow.proof.claims import Claim, HeldValues, Refuted
from fxgrow.proof.node_pair import Use, claims_in
from fxgrow.proof.rules.movement import arranged
from fxgrow.rules.calls import run
from fxgrow.rules.registry import law_of_call

_MAKERS = (
    *(torch.arange, torch.linspace, torch.full, torch.zeros, torch.ones, torch.eye, torch.tensor),
    *(torch.meshgrid, torch.functional.meshgrid, torch.nn.functional.one_hot),
)


def constant(use: Use) -> Any:
    """The claim of an op that is given numbers and constants alone, with its values; None for any other op.

    An op that draws random numbers has no such values.
    """
    claims = use.claims()
    if use.new_module is not None or not all(claim.constant for claim in claims):
        return None
    known = use.new.target in _MAKERS or (claims and law_of_call(use.new, None) is not None)
    if not known or not _same_numbers(use):
        return None
    use.rule = "computed from numbers"

    def stored(claim: Claim) -> Tensor:
        assert claim.held is not None
        return claim.held.new.clone() if use.writes else claim.held.new

    args, kwargs = arranged(use, stored, old=False)
    before = torch.get_rng_state()
    value = run(use.new, None, args, kwargs)
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        return None
    return _held(use, value) if value is not None else None


def as_it_was(claim: Claim) -> bool:
    """Whether a tensor is in the grown model what it is in the original, known values or not."""
    return claim.same or claim.constant


def shares_storage(first: Any, second: Any) -> bool:
    """Whether values that were worked out are seen in both: writing to one would change the other."""
    places = [
        {claim.held.new.untyped_storage().data_ptr() for claim in claims_in(value) if claim.constant and claim.held}
        for value in (first, second)
    ]
    return bool(places[0] & places[1])


def _same_numbers(use: Use) -> bool:
    try:
        use.same_numbers()
    except Refuted:
        return False
    return True


def _held(use: Use, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_held(use, item) for item in value)
    size = tuple(value.shape)
    return Claim(size, size, (None,) * value.ndim, held=HeldValues(value, value, use.new.name))
