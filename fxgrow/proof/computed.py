"""Tensors made of parameters and numbers only: their values are worked out, in both models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fxgrow.modules.containers import has_fractions
from fxgrow.noise import WithoutNoise
from fxgrow.proof.by_law import prove
from fxgrow.proof.claims import Claim, HeldValues, Refuted, Unproved
from fxgrow.proof.node_pair import Use
from fxgrow.proof.rules.movement import CPU, arranged
from fxgrow.proof.structures import all_unchanged, stripped
from fxgrow.proof.values import exact
from fxgrow.rules.calls import run
from fxgrow.rules.law import Law


def computed(use: Use, law: Law | None) -> Any:
    """What is claimed of such a tensor, with its values."""
    use.rule = "computed from parameters"
    held = [claim.held for claim in use.claims() if claim.held is not None]
    moves = law is not None and law.family == "shape" and all(known.exact for known in held)
    device = next((claim.held.new.device for claim in use.claims() if claim.held and not claim.constant), CPU)

    def value_of(claim: Claim, old: bool) -> Tensor:
        """In float64 or complex128 unless entries are only moved."""
        assert claim.held is not None
        value = (claim.held.old if old else claim.held.new).to(device)
        return value if moves or not has_fractions(value) else exact(value)

    values = []
    for old in (True, False):
        args, kwargs = arranged(use, functools.partial(value_of, old=old), old, device)
        if use.writes:
            args = (args[0].clone(), *args[1:])  # not the parameter itself
        with WithoutNoise():
            values.append(run(use.old if old else use.new, use.old_module if old else use.new_module, args, kwargs))
    shapes = _shapes(use, law)
    fills = frozenset().union(*(known.fills for known in held))
    finest = max(known.precision for known in held)
    rounded = any(known.rounded for known in held)
    stored = moves and all(known.exact for known in held)

    def with_values(claim: Claim, old: Tensor, new: Tensor) -> Claim:
        if tuple(old.shape) != claim.old or tuple(new.shape) != claim.new:
            raise Unproved("its shape is not what was worked out")
        kept = HeldValues(old, new, use.new.name, stored, finest, fills, rounded)
        return Claim(claim.old, claim.new, claim.maps, held=kept)

    return _each(with_values, shapes, *values)


def _each(with_values: Callable[[Claim, Tensor, Tensor], Claim], claim: Any, old: Any, new: Any) -> Any:
    if isinstance(claim, tuple):
        return tuple(_each(with_values, *three) for three in zip(claim, old, new, strict=True))
    return with_values(claim, old, new)


def _shapes(use: Use, law: Law | None) -> Any:
    """Where the old entries of a computed tensor are; that they are the old ones is checked on the values.

    Of new entries it is assumed that they are anything or, if the law does not hold then, that they are zero.
    """
    modules = (use.old_module, use.new_module) if use.old_module is not None and use.new_module is not None else None
    problem: Unproved | Refuted = Unproved("no rule")
    for zero in (False, True):
        args, kwargs = stripped(use.args, zero), stripped(use.kwargs, zero)
        try:
            if law is not None:
                return prove(law, Use(use.old, use.new, modules, args, kwargs, use.parameter_of))
        except (Unproved, Refuted) as error:
            problem = error
    first = use.claims()[0]
    if all(position is None for claim in use.claims() for position in claim.maps):
        return all_unchanged(use.value)
    if isinstance(use.value, Tensor) and tuple(use.value.shape) == first.old:
        return Claim(first.old, first.new, first.maps)
    raise Unproved(f"it cannot be said where old entries of {use.name} are: {problem}") from problem
