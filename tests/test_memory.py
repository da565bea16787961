"""What growing holds on to: nothing of what it was given, whether or not garbage is collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace

import fxgrow
from fxgrow.proof.claims import HeldValues
from tests.models import lively
from tests.pairing import slow

MODELS = ("test_resnet", *map(slow, ("test_vit", "test_vit2", "vit_tiny_patch16_224", "levit_128s")))
"""Plain, with a function that stays whole, and with shapes that are unpacked."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("name", MODELS)
def test_the_original_is_gone_once_its_owner_lets_go(name: str) -> None:
    model = timm.create_model(name)
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    grown = fxgrow.grow(model, 1.25)
    del model
    assert [parameter for parameter in parameters if parameter() is not None] == []
    assert isinstance(grown, nn.Module)


class Standardised(nn.Module):
    """Weights that are worked out from weights, by pieces that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        pieces = [piece - piece.mean(1, keepdim=True) for piece in self.enter.weight.chunk(2)]
        weight = torch.cat(pieces) / self.enter.weight.reshape(1, -1).square().mean().sqrt()
        return self.leave(torch.relu(x @ weight.t()))


@pytest.mark.usefixtures("no_collection")
def test_a_proof_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    references: list[weakref.ref[Tensor]] = []
    noted = HeldValues.__init__

    def note(self: HeldValues, old: Tensor, new: Tensor, *rest: object, **named: object) -> None:
        noted(self, old, new, *rest, **named)  # type: ignore[arg-type]
        references.extend(map(weakref.ref, (old, new)))

    model = lively(Standardised())
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.empty(4, 64, device="meta"), verify=False)
    monkeypatch.setattr(HeldValues, "__init__", note)
    certificate = fxgrow.certify(grown, model)
    assert references
    del certificate
    assert [tensor for tensor in references if tensor() is not None] == []


def test_functions_that_stay_whole_stay_so_when_a_grown_model_is_traced_again() -> None:
    grown = fxgrow.grow(timm.create_model("test_vit"), 1.25, verify=False, form="graph")
    names = type(grown).forward.__globals__
    wrapped = [name for place, name in _symbolic_trace._wrapped_fns_to_patch if place == id(names)]
    assert "timm_layers_pos_embed_resample_abs_pos_embed" in wrapped
