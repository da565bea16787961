"""Names by which a forward looks something up: in dictionaries of the file, of the forward, or of somewhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError

SPREADS = {"plain": torch.tanh, "softly": lambda h: h.softmax(-1)}


class Body(nn.Module):
    act: str

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.act = nn.Linear(8, 16), nn.Linear(16, 2), "plain"


class OfFile(Body):
    def forward(self, x: Tensor, act: str = "plain") -> Any:
        spread = SPREADS[act]
        return self.leave(spread(self.enter(x)))


class ByGet(Body):
    def forward(self, x: Tensor, act: str = "plain") -> Any:
        spread = SPREADS.get(act, torch.tanh)
        return self.leave(spread(self.enter(x)))


class OfForward(Body):
    def forward(self, x: Tensor, act: str = "plain") -> Any:
        spreads = {"plain": torch.tanh, "softly": torch.nn.functional.gelu}
        h = self.enter(x)
        return self.leave(spreads[act](h) if act == "plain" else h.softmax(-1))


class ByText(Body):
    def forward(self, x: Tensor, act: str = "plain") -> Any:
        h = self.enter(x)
        return self.leave({"to_plain": h.tanh(), "to_softly": h.softmax(-1)}[f"to_{act}"])


@pytest.mark.parametrize("kind", [OfFile, ByGet, OfForward, ByText])
def test_names_by_which_a_forward_looks_something_up_are_tried_or_refused(kind: type[Body]) -> None:
    model, x = kind().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, kind)
    torch.testing.assert_close(grown(x), model(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(SettledError, match="act is 'softly', for which the model did not grow"):
        grown(x, "softly")


class Told(Body):
    """Options in one text, in options, and a function in place of None."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        nn.init.normal_(self.norm.weight)

    def run(self, x: Tensor, normed: Any, features: Any) -> Any:
        h = self.enter(x)
        h = self.norm(h) if normed else h
        return self.leave(h.relu()), h.mean(-1) if features else None


class InText(Told):
    def forward(self, x: Tensor, told: str = "") -> Any:
        parts = told.split("+")
        return self.run(x, "normed" in parts, "features" in parts)


class InOptions(Told):
    def forward(self, x: Tensor, told: Any = {"more": {"normed": False}}) -> Any:  # noqa: B006
        return self.run(x, told["more"]["normed"], told["more"].get("features"))


class Starred(Told):
    def forward(self, x: Tensor, *told: str) -> Any:
        return self.run(x, "normed" in told, "features" in told)


class InPlaceOfNone(Told):
    def forward(self, x: Tensor, told: Any = None) -> Any:
        return self.leave((told or torch.tanh)(self.enter(x)))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (InText, "normed+features"),
        (InOptions, {"more": {"normed": True, "features": True}}),
        (Starred, "features"),
        (InPlaceOfNone, SPREADS["softly"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_forward_is_told_otherwise_than_was_tried_is_refused(kind: type[Body], told: Any) -> None:
    model, x = kind().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    with pytest.raises(SettledError, match=r"told is .*, for which the model did not grow"):
        grown(x, told)


class OfAttribute(Body):
    def forward(self, x: Tensor) -> Any:
        spread = SPREADS[self.act]
        return self.leave(spread(self.enter(x)))


class OfAttributeByText(Body):
    def forward(self, x: Tensor) -> Any:
        h = self.enter(x)
        return self.leave({"to_plain": h.tanh(), "to_softly": h.softmax(-1)}[f"to_{self.act}"])


@pytest.mark.parametrize("kind", [OfAttribute, OfAttributeByText])
def test_attributes_by_which_a_forward_looks_something_up_are_tried_or_refused(kind: type[Body]) -> None:
    model, x = kind().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    torch.testing.assert_close(grown(x), model(x), rtol=1e-10, atol=1e-10)
    grown.act = "softly"
    with pytest.raises(SettledError, match=rf"{kind.__name__}.act is 'softly'"):
        grown(x)
