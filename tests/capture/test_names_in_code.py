"""Values that code compares an argument with under another name: they are tried as those of the argument."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

import fxgrow
from tests.capture.assembled import EXACT, normal
from tests.models import lively


class Told(nn.Module):
    """Does something else if it is told so, and calls what it is told by another name."""

    kind: Any = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, kind: Any = None) -> Tensor:
        chosen = kind or self.kind
        return self.finished(x, chosen == "centred")

    def finished(self, x: Tensor, centred: Any) -> Tensor:
        x = self.read(x).relu()
        return self.head(x - x.mean(-1, keepdim=True) if centred else x)  # type: ignore[no-any-return]


class Counted(Told):
    kind = 1

    def forward(self, x: Tensor, kind: Any = 1) -> Tensor:
        number = float(kind)
        return self.finished(x, number > 2.5)


class Unpacked(Told):
    kind = ("plain", "first")

    def forward(self, x: Tensor, kind: Any = ("plain", "first")) -> Tensor:
        first, *_ = kind
        return self.finished(x, first == "centred")


class Together(Told):
    def forward(self, x: Tensor, kind: Any = "plain") -> Tensor:
        chosen, _ = kind.lower(), len(x)
        return self.finished(x, chosen == "centred")


class OfItself(Told):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        kind = self.kind
        return self.finished(x, kind == "centred")


OTHER = {Told: "centred", Counted: 3, Unpacked: ("centred", "first"), Together: "centred", OfItself: None}


@pytest.mark.parametrize("kind", OTHER)
def test_values_are_tried_that_code_compares_another_name_with(kind: type[Told]) -> None:
    model, x = lively(kind().double()), normal(3, 4)
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    other = () if OTHER[kind] is None else (OTHER[kind],)
    if not other:
        grown.kind = model.kind = "centred"  # type: ignore[assignment]
    assert float((grown(x, *other) - model(x, *other)).abs().max()) < EXACT


class OfSettings(Told):
    def __init__(self) -> None:
        super().__init__()
        self.settings = SimpleNamespace(kind="plain")

    def forward(self, x: Tensor, kind: Any = None) -> Tensor:
        settings = self.settings
        if kind is None:
            kind = settings.kind
        return self.finished(x, kind == "centred")


def test_settings_are_tried_that_code_reads_under_another_name() -> None:
    model, x = lively(OfSettings().double()), normal(3, 4)
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    given = grown(x, "centred"), model(x, "centred")
    grown.settings = model.settings = SimpleNamespace(kind="centred")  # type: ignore[assignment]
    for after, before in (given, (grown(x), model(x))):
        assert float((after - before).abs().max()) < EXACT
