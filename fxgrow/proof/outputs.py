"""What is proved of the outputs: they are the original's; where classes were asked for, these come behind."""

from __future__ import annotations

from typing import Any

import torch

from fxgrow.proof.claims import Claim, Refuted
from fxgrow.proof.node_pair import Use, claims_in, numbers_in


def check_outputs(use: Use, paired: Any, classes: tuple[int, int] | None) -> None:
    """Raise Refuted for an output that is not the original's.

    classes: how many there were and are, where more were asked for; the old ones come first.
    """
    for claim in claims_in(paired):
        if not use.equal(claim).same and not (classes is not None and _has_more(claim, *classes)):
            raise Refuted(f"an output has shape {list(claim.new)}, it had {list(claim.old)}")
    for both in numbers_in(paired):
        if not both.same:
            raise Refuted(f"an output is {both.new}, it was {both.old}")


def _has_more(claim: Claim, old: int, new: int) -> bool:
    """Whether a tensor is the original's followed by new classes, on one axis."""
    grown = [axis for axis, position in enumerate(claim.maps) if position is not None]
    if len(grown) != 1 or (claim.old[grown[0]], claim.new[grown[0]]) != (old, new):
        return False
    position = claim.maps[grown[0]]
    first = torch.cat([torch.arange(old), torch.full((new - old,), -1)])
    return position is not None and torch.equal(position, first)
