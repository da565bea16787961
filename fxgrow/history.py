"""What a grown module knows of its own past: the growths it went through, and who was born when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import fx, nn

from fxgrow.births import Birth, Births, grown_births, original_births
from fxgrow.errors import FxgrowError
from fxgrow.planning.plan import Plan

if TYPE_CHECKING:
    from fxgrow.proof.verification import Verification

ATTRIBUTE = "_fxgrow"


@dataclass(frozen=True)
class Step:
    """One growth: its plan, the seed of its new entries, and what verification found (None: not run)."""

    plan: Plan
    seed: int
    verification: Verification | None = None


@dataclass(frozen=True)
class History:
    """All growths of a module, in order, and the birth stages of its tensors."""

    steps: tuple[Step, ...]
    births: dict[str, Birth]

    @property
    def stage(self) -> int:
        """The number of growths so far."""
        return len(self.steps)


def history_of(model: nn.Module) -> History | None:
    """The history a module carries, if fxgrow made it."""
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, History) else None


def births(grown: fx.GraphModule) -> Births:
    """When each element of each parameter was born.

    Raises
    ------
    FxgrowError: the module was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 2))
    >>> fxgrow.births(grown)["0.bias"].axes
    ((0, 0, 0, 1, 1, 1),)
    """
    history = history_of(grown)
    if history is None:
        raise FxgrowError(
            f"{type(grown).__name__} carries no births",
            remedy="pass a module that fxgrow.grow or fxgrow.load returned",
        )
    return Births(history.births)


def extended(model: nn.Module, step: Step) -> History:
    """The history of `model` after one more growth."""
    before = history_of(model)
    born = before.births if before is not None else original_births(model)
    steps = (*before.steps, step) if before is not None else (step,)
    return History(steps, grown_births(born, step.plan, len(steps)))


def in_order(history: History, grown: nn.Module) -> History:
    """The history with births in the order of the grown module's parameters."""
    return replace(history, births={name: history.births[name] for name, _ in grown.named_parameters()})


def with_verification(history: History, verification: Verification) -> History:
    """The history with the outcome of verifying its last step."""
    return replace(history, steps=(*history.steps[:-1], replace(history.steps[-1], verification=verification)))
