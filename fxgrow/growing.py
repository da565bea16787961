"""`plan` and `grow`: what users call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from fxgrow.amounts import Amounts
from fxgrow.capture import Captured, GrownGraphModule, capture, copies
from fxgrow.errors import AmountError, FxgrowError, PlanError
from fxgrow.history import ATTRIBUTE, Step, extended, history_of, with_certificate, with_verification
from fxgrow.planning.knowledge import Way
from fxgrow.planning.plan import Plan
from fxgrow.planning.planner import make_plan
from fxgrow.proof.certifying import proved
from fxgrow.proof.fingerprint import fingerprint
from fxgrow.proof.verification import verify as verify_same
from fxgrow.transforms.width import named_tensors, widen

Width = float | int | str | Mapping[str, float | int | str]


def plan(
    model: nn.Module,
    width: Width | None = None,
    *,
    example_inputs: Any = None,
    init: str = "zero",
    round_to: int = 1,
) -> Plan:
    """What `grow` would do to a model, and why not more; no weights are read, so meta models work.

    Parameters are those of `grow`.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> fxgrow.plan(model, width=1.5, example_inputs=torch.randn(1, 4)).totals.parameters_after
    86
    """
    return _planned(model, width, example_inputs, init, round_to)[1]


def _planned(
    model: nn.Module, width: Width | None, example_inputs: Any, init: str, round_to: int
) -> tuple[Captured, Plan]:
    amounts = _checked(width, init, round_to)
    captured = capture(model, example_inputs)
    amounts.check_all_used([name for name, _ in model.named_modules() if name])
    return captured, make_plan(captured, model_name(model), amounts, init, round_to)


def _checked(width: Width | None, init: str, round_to: int) -> Amounts:
    if width is None:
        raise AmountError("no amount to grow by was given", remedy="pass width=1.5, or a mapping of module paths")
    names = [way.value for way in Way]
    if init not in names:
        raise AmountError(f"init={init!r} is not a way to start new units", remedy=f"use one of {', '.join(names)}")
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise AmountError(
            f"round_to={round_to!r} is not a whole number of units", remedy="use 1, or a multiple such as 8"
        )
    return Amounts.parse(width)


def model_name(model: nn.Module) -> str:
    """The class name of a model, as users know it."""
    history = history_of(model)
    return history.steps[-1].plan.model if history is not None else type(model).__name__


def grow(
    model: nn.Module,
    width: Width | None = None,
    *,
    example_inputs: Any = None,
    init: str = "zero",
    round_to: int = 1,
    seed: int = 0,
    verify: bool = True,
) -> fx.GraphModule:
    """Grow a trained model: wider, the same function, ready to train on.

    Parameters
    ----------
    model: any module that torch.fx can capture; it is not touched.
    width: a factor (1.5), an amount ("+32", "=96"), or a mapping from module paths or globs to amounts.
    example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments; only shapes and dtypes
        count. Needed where they cannot be derived from the model.
    init: "zero" (new units unread at first), "mirror" (equal pairs read with opposite signs, as in the
        paper), "replicate" (copies of old units that share their outgoing weights, as in Net2Net).
    round_to: make new sizes multiples of this.
    seed: of the new entries; the same seed gives the same bytes.
    verify: prove that the function is the same (`report(grown).certificate`), and run original and grown model
        on random inputs in float64, eval and train, and compare.

    Raises
    ------
    FxgrowError: of a kind that says what was wrong, where in the model, and what to do.

    Source: Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using
    Variance Transfer and Learning Rate Adaptation", NeurIPS 2023; Chen, Goodfellow, Shlens, "Net2Net", 2016.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> grown.get_submodule("0")
    Linear(in_features=4, out_features=16, bias=True)
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise AmountError(f"seed={seed!r} is not a whole number from 0 to 2**63 - 1", remedy="pass one, such as 0")
    captured, planned = _planned(model, width, example_inputs, init, round_to)
    if not planned.groups:
        raise _nothing_grows(planned)
    return apply_plan(model, captured, planned, seed, verify)


def _nothing_grows(planned: Plan) -> PlanError:
    reasons = list(dict.fromkeys(f"{held.where[0]}: {held.reason}" for held in planned.held))
    if reasons:
        text, remedy = f"nothing in the model would grow; {'; '.join(reasons[:3])}", "see fxgrow.plan for all reasons"
    else:
        text = "nothing in the model would grow"
        remedy = "pass a model with a dimension between its inputs and its outputs, which themselves never grow"
    return PlanError(text, where=planned.model, remedy=remedy)


def apply_plan(model: nn.Module, captured: Captured, planned: Plan, seed: int, verify: bool) -> fx.GraphModule:
    """Carry out a plan on the model it was made for."""
    inputs = captured.inputs
    history = extended(model, Step(planned, seed))
    before = replace(captured, graphs=copies(captured.graphs))  # surgery edits the graphs themselves
    grown = widen(captured, planned, model, seed=f"{seed}, stage {history.stage}")
    setattr(grown, ATTRIBUTE, history)
    if verify and not any(tensor.is_meta for tensor in named_tensors(model).values()):
        verification = verify_same(model, grown, inputs, seed)
        assert isinstance(grown, GrownGraphModule)
        certificate = proved(before, model, grown, [planned]).tested(str(verification))
        history = with_certificate(with_verification(history, verification), certificate, fingerprint(grown))
        setattr(grown, ATTRIBUTE, history)
    return grown


def report(grown: nn.Module) -> Step:
    """The last growth of a module: its plan, its seed, its certificate and what verification found."""
    history = history_of(grown)
    if history is None:
        raise FxgrowError(
            f"{type(grown).__name__} was not grown by fxgrow",
            remedy="pass a module that fxgrow.grow or fxgrow.load returned",
        )
    return history.steps[-1]
