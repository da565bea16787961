"""What is proved of outputs and assumed of inputs: they are the original's, and new classes or channels come after."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxgrow.modules.containers import each_tensor
from fxgrow.proof.claims import Claim, Refuted, unchanged
from fxgrow.proof.node_pair import Use, claims_in, numbers_in
from fxgrow.proof.structures import all_unchanged
from fxgrow.rules.calls import position_of


@dataclass(frozen=True)
class Ends:
    """What a model puts out and reads, before and after, where more of it was asked for; the old come first.

    classes: of outputs. channels: of inputs. places: where those are: the argument (its position, or its name), which
    of the tensors in it, and which axis.
    """

    classes: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None
    places: tuple[tuple[int | str, int, int], ...] = ()

    @property
    def in_words(self) -> str:
        """What comes behind, for a claim on the outputs."""
        classes = ", new classes come behind" if self.classes is not None else ""
        return classes + (", whatever new input channels hold" if self.channels is not None else "")

    def input_claims(self, node: fx.Node) -> Any:
        """What is taken of an input: it is the original's, with any values on new channels."""
        value = node.meta["value"]
        own = (position_of(node), node.target)
        axes = {number: axis for argument, number, axis in self.places if argument in own}
        numbers = itertools.count()

        def claimed(tensor: torch.Tensor) -> Claim:
            claim, axis = unchanged(tensor.shape), axes.get(next(numbers))
            if axis is None or self.channels is None:
                return claim
            old, new = self.channels
            shape, position = list(claim.new), list(claim.maps)
            shape[axis], position[axis] = new, _behind(old, new)
            return Claim(claim.old, tuple(shape), tuple(position))

        return each_tensor(value, claimed) if axes else all_unchanged(value)


def check_outputs(use: Use, paired: Any, ends: Ends) -> None:
    """Raise Refuted for an output that is not the original's, or more of it than was asked for."""
    for claim in claims_in(paired):
        if not use.equal(claim).same and not (ends.classes is not None and _has_more(claim, *ends.classes)):
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
    return position is not None and torch.equal(position, _behind(old, new))


def _behind(old: int, new: int) -> torch.Tensor:
    """The map of an axis whose new positions are its last."""
    return torch.cat([torch.arange(old), torch.full((new - old,), -1)])
