"""Models without a head, whose output is a stream that grows: read out where timm's own methods end."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from fxgrow.proof.certificate import Verdict
from tests.models import Branched
from tests.pairing import few


@pytest.mark.parametrize("name", few(("test_resnet", "test_vit"), "test_resnet"))
def test_the_head_gives_what_the_forward_does(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    grown = fxgrow.grow(model, 1.5).eval()
    assert isinstance(grown, type(model))
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(grown.forward_head(grown.forward_features(x)), grown(x))
        torch.testing.assert_close(grown(x), model(x), rtol=1e-4, atol=1e-5)
    grown.reset_classifier(7)
    assert grown(x).shape == (2, 7)


class Features(nn.Module):
    """Gives one stream, or by an argument all of them, as DINOv2 does in training; or another, or one more branch."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, everything: bool = False, pooled: bool = False, twice: bool = False) -> Any:
        tokens = self.enter(x)
        tokens = tokens + self.down(self.up(tokens).relu())
        if twice:
            tokens = tokens + self.down(self.up(tokens).tanh())
        if everything:
            return {"first": tokens[:, 0], "others": tokens[:, 1:]}
        return tokens.mean(1) if pooled else tokens[:, 0]


def test_other_calls_of_a_model_that_is_read_out() -> None:
    torch.manual_seed(0)
    model, x = Features().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, width=1.5, example_inputs=x)
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert fxgrow.report(grown).plan.calls == ("everything=True",)
    assert {name: value.shape[-1] for name, value in grown(x, everything=True).items()} == {"first": 12, "others": 12}
    for other in ("pooled", "twice"):
        torch.testing.assert_close(grown(x, **{other: True}), model(x, **{other: True}))


class Stages(nn.Module):
    """By an argument gives what each stage made, at places that more blocks would move."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Branched(8, 16) for _ in range(2))
        self.scales = {0: 1.0, 1: 2.0}

    def forward(self, x: Tensor, everything: bool = False) -> Any:
        x, between = self.enter(x), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if everything:
                between.append(self.scales[number] * x)
        return between if everything else self.head(x)


def test_another_call_that_gives_streams_is_refused_where_the_copy_cannot_take_it() -> None:
    torch.manual_seed(0)
    model, x = Stages().double(), torch.randn(2, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, width=1.5, depth=2, example_inputs=x)
    assert type(grown) is not Stages and isinstance(grown, Stages)
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    with pytest.raises(SettledError, match="everything is True"):
        grown(x, everything=True)


class Backbone(nn.Module):
    """Without a head, in timm's way; its width has a name that nothing reads, and one from which heads are made."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = self.embed_dim = 8
        self.enter, self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head: nn.Module = nn.Identity()

    def reset_classifier(self, classes: int) -> None:
        self.head = nn.Linear(self.embed_dim, classes)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return x + self.down(self.up(x).relu())

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_width_that_nothing_makes_layers_of_is_that_of_the_output() -> None:
    x = torch.randn(2, 4)
    grown: Any = fxgrow.grow(Backbone(), 1.5, example_inputs=x)
    again: Any = fxgrow.grow(grown, 2, example_inputs=x)
    for model, units in ((grown, 12), (again, 24)):
        assert (model.num_features, model.embed_dim, model.forward_features(x).shape[1]) == (8, units, units)
        assert nn.Linear(model.num_features, 3)(model(x)).shape == (2, 3)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)


def test_it_reads_through_tensors_that_are_no_parameters() -> None:
    grown = fxgrow.grow(Features(), 2, example_inputs=torch.randn(2, 3, 4), verify=False)
    assert "readout" in dict(grown.named_parameters())
    tensors = {name: tensor.detach() for name, tensor in grown.named_parameters()}
    x = torch.randn(2, 3, 4)
    assert torch.equal(torch.func.functional_call(grown, tensors, (x,)), grown(x))
    gradients = torch.func.grad(lambda tensors: torch.func.functional_call(grown, tensors, (x,)).sum())(tensors)
    assert gradients["readout"].abs().sum() > 0
