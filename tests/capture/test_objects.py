"""Objects of a user's own as what a forward is called with and gives: their tensors are inputs and outputs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError, SettledError
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import normal


class Masked:
    """Images side by side, and which of their pixels there are."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask = tensors, mask

    def decompose(self) -> tuple[Tensor, Tensor]:
        return self.tensors, self.mask


@dataclasses.dataclass
class Batch:
    x: Tensor
    weight: Tensor | None = None
    name: str = "batch"


@dataclasses.dataclass(frozen=True)
class Scored:
    scores: Tensor
    extra: dict[str, Any]


class Between(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)


class OfMasked(Between):
    def forward(self, images: Masked) -> Tensor:
        x, mask = images.decompose()
        return self.leave(self.enter(x).relu() * mask[..., None])  # type: ignore[no-any-return]


class OfBatches(Between):
    """Reads what a batch may have, and puts its scores into one."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 8) if gated else None

    def forward(self, batch: Batch) -> Scored:
        h = self.enter(batch.x).relu()
        if batch.weight is not None:
            h = h * (batch.weight if self.gate is None else self.gate(batch.weight).sigmoid())
        return Scored(self.leave(h), {"sizes": {"samples": h.shape[0]}, "name": batch.name})


class OfNamespaces(Between):
    def forward(self, state: SimpleNamespace) -> SimpleNamespace:
        state.y = self.leave(self.enter(state.x).relu())
        return state


X = normal(4, 5, 6)
CALLS = {
    "masked": (OfMasked, lambda: Masked(X.clone(), (X[..., 0] > 0).double()), lambda out: out),
    "dataclass": (OfBatches, lambda: Batch(X.clone()), lambda out: out.scores),
    "namespace": (OfNamespaces, lambda: SimpleNamespace(x=X.clone()), lambda out: out.y),
}


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("call", CALLS)
def test_tensors_in_objects_are_inputs_and_outputs(call: str, form: str) -> None:
    kind, made, read = CALLS[call]
    model: nn.Module = kind().double()
    grown = fxgrow.grow(model, 2, example_inputs=(made(),), form=form)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for each in (grown, fxgrow.grow(grown, 1.5, form=form)):
        assert each.get_parameter("enter.weight").shape[0] > 8
        before, after = model(made()), each(made())
        assert type(before) is type(after)
        torch.testing.assert_close(read(after), read(before), rtol=1e-12, atol=1e-12)
        read(after).sum().backward()


def test_numbers_in_what_is_given_stay_numbers() -> None:
    model = OfBatches().double()
    grown = fxgrow.grow(model, 2, example_inputs=(Batch(X),), form="graph")
    assert grown(Batch(X)).extra == {"sizes": {"samples": 4}, "name": "batch"}


@pytest.mark.parametrize("gated", [False, True])
def test_what_an_object_may_hold_besides_is_another_course(
    gated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = OfBatches(gated).double()
    weight = normal(4, 5, 6) if gated else normal(4, 5, 1)
    grown = fxgrow.grow(model, 2, example_inputs=(Batch(X),))
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    monkeypatch.setattr("fxgrow.capture.inputs._CLASSES", {})  # as in another process
    loaded = fxgrow.load(tmp_path / "grown.safetensors", OfBatches(gated).double())
    for each in (grown, loaded):
        for batch in (Batch(X), Batch(X, weight)):
            torch.testing.assert_close(each(batch).scores, model(batch).scores, rtol=1e-12, atol=1e-12)


def test_a_graph_refuses_what_it_was_not_captured_with() -> None:
    grown = fxgrow.grow(OfBatches().double(), 2, example_inputs=(Batch(X),), form="graph")
    with pytest.raises(SettledError, match=r"batch\.weight was None when the model was captured"):
        grown(Batch(X, normal(4, 5, 1)))


def test_a_plan_names_no_class_that_was_not_there() -> None:
    plan = json.loads(fxgrow.plan(OfBatches().double(), 2, example_inputs=(Batch(X),)).to_json())
    text = json.dumps(plan).replace(f"{Batch.__module__}.Batch", "subprocess.Popen")
    with pytest.raises(CaptureError, match=r"an input was a subprocess\.Popen, which is not kept"):
        fxgrow.Plan.from_json(text).apply(OfBatches().double())
