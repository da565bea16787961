"""Models that were compiled in place (`module.compile()`): what runs one module never runs a copy of it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.guarded_norms import GuardedLayerNorm
from fxgrow.measure.verification import relative_error
from tests.models import lively

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def compiled() -> nn.Module:
    """With a block, and all of it, compiled."""
    body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1))
    ends = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
    model = lively(nn.Sequential(ends[0], body, ends[1])).double().eval()
    body.compile(backend="eager")
    model.compile(backend="eager")
    return model


def is_compiled(model: nn.Module) -> bool:
    return any(part._compiled_call_impl is not None for part in model.modules())


@pytest.mark.parametrize("form", ["module", "graph"])
def test_it_grows_and_is_to_be_compiled_anew(form: str) -> None:
    model = compiled()
    grown = fxgrow.grow(model, 1.5, example_inputs=IMAGES, form=form)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert is_compiled(model) and not is_compiled(grown)
    assert relative_error(grown(IMAGES), model(IMAGES)) < 1e-10
    grown.compile(backend="eager")
    again = fxgrow.grow(grown, 1.5)
    assert str(fxgrow.certify(again, grown).verdict) == "PROVED"
    assert relative_error(again.eval()(IMAGES), model(IMAGES)) < 1e-10


@pytest.mark.parametrize("form", ["module", "graph"])
def test_copies_of_a_grown_model_run_their_own_weights(form: str) -> None:
    grown = fxgrow.grow(compiled(), 1.5, example_inputs=IMAGES, form=form, verify=False).eval()
    grown.compile(backend="eager")
    expected = grown(IMAGES)
    file = io.BytesIO()
    torch.save(grown, file)
    file.seek(0)
    for twin in (copy.deepcopy(grown), torch.load(file, weights_only=False)):
        assert torch.equal(twin(IMAGES), expected)
        with torch.no_grad():
            twin.get_parameter("2.bias").zero_()
        assert not torch.equal(twin(IMAGES), expected)


class Normed(nn.Module):
    """Calls a norm that is no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(nn.functional.layer_norm(self.enter(x), (self.enter.out_features,)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["module", "graph"])
def test_what_norms_over_old_units_is_traced_and_refuses_to_be_scripted(form: Any) -> None:
    x = torch.randn(2, 3)
    grown = fxgrow.grow(Normed(), 1.5, example_inputs=x, form=form)
    with pytest.raises(FxgrowError, match=r"torch\.jit\.script cannot read the code"):
        torch.jit.script(grown)
    torch.testing.assert_close(torch.jit.trace(grown, x)(x), grown(x))
    with pytest.raises(FxgrowError, match="GuardedLayerNorm"):
        torch.jit.script(nn.Sequential(GuardedLayerNorm(6)))


def test_what_growth_leaves_as_it_was_is_scripted() -> None:
    x = torch.randn(2, 3)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
    multiplying: dict[str, Any] = {"form": "graph", "parameterization": "variance-transfer"}
    for options in ({}, {"form": "graph"}, multiplying):
        grown = fxgrow.grow(model, 1.5, example_inputs=x, **options)
        torch.testing.assert_close(torch.jit.script(grown)(x), grown(x))
