"""What a user asks of a growth, checked before anything is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from torch import nn

from fxgrow.amounts import Amounts, plain_int
from fxgrow.axes.layout import Reason
from fxgrow.errors import AmountError, PlanError, check_one_of
from fxgrow.planning.depth import STARTS
from fxgrow.planning.parameterization import PARAMETERIZATIONS
from fxgrow.planning.plan import CLASS_STARTS, FORMS, Plan
from fxgrow.planning.sizes import Sizes
from fxgrow.rules.knowledge import GRADMAX, INITS
from fxgrow.training.groups import parameterization_of

LEVELS = ("quick", "full")
"""Of testing, beside True (quick) and False (none)."""

Width = float | int | str | Mapping[str, float | int | str] | Sizes


@dataclass(frozen=True)
class Wish:
    """What a user asks for."""

    width: Width | None
    depth: Width | None
    init: str
    depth_init: str
    round_to: int
    parameterization: str | None
    form: str = "auto"
    like: nn.Module | None = None
    classes: int | str | None = None
    class_init: str = "zero"
    in_chans: int | str | None = None
    held: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)
    """Nodes that growth has to leave as they are, and why."""
    held_runs: Mapping[str, str] = field(default_factory=dict)
    """Runs of blocks that have to stay as long as they are, and why."""
    late_runs: Mapping[str, str] = field(default_factory=dict)
    """Runs whose new blocks all have to come last, and why."""

    def __post_init__(self) -> None:
        for name in ("round_to", "classes", "in_chans"):
            object.__setattr__(self, name, plain_int(getattr(self, name)))


def sizes_asked(width: Width | None) -> Amounts | Sizes:
    """What `width` means."""
    if width is None:
        return Amounts(())
    return width if isinstance(width, Sizes) else Amounts.parse(width)


def check(wish: Wish) -> None:
    """Raise an AmountError for what means nothing."""
    if not isinstance(wish.like, (nn.Module, NoneType)):
        raise AmountError(f"like={wish.like!r} is no model", remedy="pass a model of the sizes that are to be reached")
    if wish.like is not None and not (wish.width is None and wish.depth is None and wish.form != "graph"):
        raise AmountError(
            "like= gives every size, and the class", remedy='leave width=, depth= and form="graph" out, or like='
        )
    _check_ends(wish)
    if all(asked is None for asked in (wish.width, wish.depth, wish.like, wish.classes, wish.in_chans)):
        raise AmountError(
            "no amount to grow by was given", remedy="pass width=1.5, depth=1.5, or a mapping of module paths"
        )
    init, depth_init, round_to = wish.init, wish.depth_init, wish.round_to
    check_one_of(FORMS, wish.form, f"form={wish.form!r} is not a form", AmountError)
    check_one_of(INITS, init, f"init={init!r} is not a way to start new units", AmountError)
    check_one_of(STARTS, depth_init, f"depth_init={depth_init!r} is not a way to start new blocks", AmountError)
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise AmountError(
            f"round_to={round_to!r} is not a whole number of units", remedy="use 1, or a multiple such as 8"
        )


def _check_ends(wish: Wish) -> None:
    for name, asked in (("classes", wish.classes), ("in_chans", wish.in_chans)):
        if asked is not None and isinstance(wish.width, Sizes):
            raise AmountError(f"{name}= does not go with the sizes of a schedule", remedy="grow by it before or after")
        if isinstance(asked, bool) or not isinstance(asked, (int, str, NoneType)):
            raise AmountError(f"{name}={asked!r} is not a number", remedy='pass 15, or "+5" for 5 more')
    what = f"class_init={wish.class_init!r} is not a way to start new classes"
    check_one_of(CLASS_STARTS, wish.class_init, what, AmountError)


def parameterization_for(model: nn.Module, wanted: str | None) -> str:
    """The parameterization that was asked for, or else the one that a model was last grown with."""
    chosen = wanted if wanted is not None else parameterization_of(model)
    check_one_of(PARAMETERIZATIONS, chosen, f"parameterization={wanted!r} is not a parameterization", AmountError)
    return chosen


def check_how(seed: int, verify: bool | str) -> None:
    """Raise an AmountError for what is no seed, or no way to verify."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise AmountError(f"seed={seed!r} is not a whole number from 0 to 2**63 - 1", remedy="pass one, such as 0")
    if not isinstance(verify, bool) and verify not in LEVELS:
        raise AmountError(f"verify={verify!r} is not a way to verify", remedy=f"use True, False, {' or '.join(LEVELS)}")


def check_loss(init: str, loss: Any) -> None:
    """Raise an AmountError where new units are to be chosen by a loss and there is none, or the other way round."""
    if init == GRADMAX and not callable(loss):
        raise AmountError(
            f"init={GRADMAX!r} chooses new units by a loss, and loss={loss!r} is no function",
            remedy="pass loss=, from a model to its loss on a batch, as lambda model: F.cross_entropy(model(x), y)",
        )
    if init != GRADMAX and loss is not None:
        raise AmountError(f"loss= has no part in init={init!r}", remedy=f"pass init={GRADMAX!r}, or leave loss out")


def grows(planned: Plan) -> bool:
    """Whether a plan changes anything."""
    return bool(planned.groups or (planned.depth and planned.depth.blocks))


def nothing_grows(planned: Plan) -> PlanError:
    """What is wrong with a wish that changes nothing."""
    reasons = list(dict.fromkeys(f"{staying.where[0]}: {staying.reason}" for staying in planned.held))
    if reasons:
        text, remedy = f"nothing in the model would grow; {'; '.join(reasons[:3])}", "see fxgrow.plan for all reasons"
    elif planned.depth is not None:
        text = "nothing in the model would grow"
        remedy = "depth needs blocks that repeat and can be identities, such as x + f(x), or an amount that adds one"
    else:
        text = "nothing in the model would grow"
        remedy = "pass a model with a dimension between its inputs and its outputs, which themselves never grow"
    return PlanError(text, where=planned.model, remedy=remedy)
