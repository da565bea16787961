"""More input channels: behind the old ones, with any values; which axes they are, and where none are to be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxgrow
from fxgrow.errors import AmountError, PlanError
from fxgrow.planning.plan import Channels, Plan
from tests.capture.assembled import EXACT, normal
from tests.models import lively
from tests.pairing import in_turn

IMAGES, MORE = normal(2, 3, 96, 96), 10 * normal(2, 2, 96, 96)
WAYS: list[dict[str, Any]] = [
    {"in_chans": "+2"},
    {"in_chans": 5, "width": 1.5, "init": "mirror", "classes": "+5"},
    {"in_chans": 5, "width": 1.5, "depth": 1.5, "init": "replicate"},
    {"in_chans": "=5", "width": 1.5, "parameterization": "variance-transfer"},
]
MODELS = ("test_resnet", "test_vit", "test_nfnet", "test_convnext")


def timm_model(name: str) -> Any:
    torch.manual_seed(0)
    options = {"img_size": 96} if name == "test_vit" else {}
    return lively(timm.create_model(name, num_classes=7, **options)).double().eval()


def assert_more_channels(model: nn.Module, grown: nn.Module) -> None:
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED", fxgrow.report(grown).certificate
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    for training in (False, True):
        before = model.train(training)(IMAGES).detach()
        for more in (MORE, torch.zeros_like(MORE)):
            after = grown.train(training)(torch.cat([IMAGES, more], 1)).detach()
            torch.testing.assert_close(after[:, :7], before, rtol=EXACT, atol=EXACT)


CASES = list(zip(MODELS, WAYS, strict=True))


@pytest.mark.parametrize(("case", "form"), in_turn(CASES, ("graph", "auto"), CASES[:1]))
def test_whatever_new_channels_hold_outputs_stay(case: tuple[str, dict[str, Any]], form: str) -> None:
    name, way = case
    model = timm_model(name)
    grown: Any = fxgrow.grow(model, example_inputs=IMAGES, form=form, **way)
    assert_more_channels(model, grown)
    assert fxgrow.report(grown).plan.channels == Channels(3, 5, ((0, 0, 1),))
    if form == "auto":
        assert type(grown) is type(model)
        first = next(m for m in grown.modules() if isinstance(m, nn.Conv2d))
        assert (first.weight.shape[1], first.in_channels, first.out_channels) == (5, 5, first.weight.shape[0])


def test_new_channels_learn_from_the_first_step() -> None:
    grown: Any = fxgrow.grow(timm_model("test_resnet"), in_chans="+2", example_inputs=IMAGES)
    grown.train()(torch.cat([IMAGES, MORE], 1)).square().sum().backward()
    gradient = grown.conv1[0].weight.grad if isinstance(grown.conv1, nn.Sequential) else grown.conv1.weight.grad
    assert gradient[:, 3:].abs().amax((0, 2, 3)).min() > 0


def test_it_grows_again_is_kept_in_files_and_in_plans(tmp_path: Path) -> None:
    model = timm_model("test_resnet")
    grown = fxgrow.grow(model, in_chans="+2", example_inputs=IMAGES)
    wider = fxgrow.grow(grown, width=1.5)  # example inputs have five channels by now
    again = fxgrow.grow(wider, in_chans="+1", verify=False)
    assert fxgrow.report(again).plan.channels == Channels(5, 6, ((0, 0, 1),))
    assert str(fxgrow.certify(again, model).verdict) == "PROVED"
    fxgrow.save(wider, tmp_path / "wider.safetensors")
    x = torch.cat([IMAGES, MORE], 1)
    assert torch.equal(fxgrow.load(tmp_path / "wider.safetensors", model).eval()(x), wider.eval()(x))
    plan = fxgrow.plan(model, in_chans="+2", example_inputs=IMAGES)
    assert Plan.from_json(plan.to_json()) == plan
    assert torch.equal(plan.apply(model).eval()(x), grown.eval()(x))
    assert_more_channels(model, wider)


def test_a_proof_finds_weights_that_read_new_channels() -> None:
    model = timm_model("test_resnet")
    grown: Any = fxgrow.grow(model, in_chans="+2", example_inputs=IMAGES)
    reader = next(m for m in grown.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        reader.weight[0, 4, 0, 0] = 1e-3
    certificate = fxgrow.certify(grown, model)
    assert (
        str(certificate.verdict) == "UNKNOWN" and "row [0, 0, 0] makes 0.001 at column 4" in certificate.weakest.detail
    )


class Pair(nn.Module):
    """Two images through one network, and numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.beside, self.leave = nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, left: Tensor, *, right: Tensor, beside: Tensor | None = None) -> Tensor:
        h = torch.cat([self.features(left), self.features(right)], 1)
        return self.leave(h if beside is None else h + self.beside(beside).repeat(1, 2))


def test_every_input_that_the_layer_reads_gets_them() -> None:
    model = lively(Pair()).double()
    left, right, more = normal(2, 3, 8, 8), normal(2, 3, 8, 8), normal(2, 1, 8, 8)
    grown = fxgrow.grow(model, in_chans=4, example_inputs={"left": left, "right": right})
    assert fxgrow.report(grown).plan.channels == Channels(3, 4, (("left", 0, 1), ("right", 0, 1)))
    after = grown(torch.cat([left, more], 1), right=torch.cat([right, -more], 1))
    torch.testing.assert_close(after, model(left, right=right), rtol=EXACT, atol=EXACT)
    inputs = {"left": left, "right": right, "beside": normal(2, 4)}
    with pytest.raises(PlanError, match="layers read 3 and 4 of them"):
        fxgrow.grow(model, in_chans=4, example_inputs=inputs)


def test_positions_are_no_channels() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(1, 5, 6))
            self.layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:  # x: [batch, 5, 6]
            return self.layer(x + self.positions).mean(1)

    with pytest.raises(PlanError, match="input channels"):  # the residual stream is put out
        fxgrow.grow(lively(Tokens()).double(), in_chans="+2", example_inputs=normal(2, 5, 6))
    model = lively(nn.Sequential(nn.Linear(6, 8), Tokens2())).double()
    grown = fxgrow.grow(model, in_chans="+2", example_inputs=normal(2, 5, 6))
    assert fxgrow.report(grown).plan.channels == Channels(6, 8, ((0, 0, 2),))


class Tokens2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions, self.attend = nn.Parameter(torch.randn(1, 5, 8)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:  # x: [batch, 5, 8]
        x = x + self.positions
        return (self.attend(x) @ x.transpose(1, 2)).softmax(-1) @ x


@pytest.mark.parametrize("asked", [3, 2, "+0", 1.5, True, "many"])
def test_what_is_no_number_of_channels(asked: Any) -> None:
    with pytest.raises(AmountError):
        fxgrow.plan(timm_model("test_resnet"), in_chans=asked, example_inputs=IMAGES)


@pytest.mark.parametrize("side", [2, 3])
def test_channels_of_a_flattened_image_are_its_first_axis(side: int) -> None:
    model = lively(nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, 8), nn.ReLU(), nn.Linear(8, 2))).double()
    x, more = normal(2, 3, side, side), normal(2, 2, side, side)
    grown = fxgrow.grow(model, 1.5, in_chans="+2", example_inputs=x)
    assert fxgrow.report(grown).plan.channels == Channels(3, 5, ((0, 0, 1),))
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(torch.cat([x, more], 1)), model(x), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("size", [3, 4])
def test_a_table_that_is_read_whole_has_no_channels(size: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(PlanError, match="layers read its axes 1 and 2"):
        fxgrow.plan(model, in_chans="+1", example_inputs=normal(2, 3, size))


def test_where_no_layer_reads_the_input() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    with pytest.raises(PlanError, match="no layer with weights reads them"):
        fxgrow.plan(model, in_chans="+1", example_inputs=torch.zeros(2, 3, dtype=torch.long))


class Sequence(nn.Module):
    """A recurrent layer that reads the input first, or a cell, step by step."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.first = kind(6, 8, **options)
        self.last = nn.Linear(options.get("proj_size", 8), 3)

    def forward(self, x: Tensor) -> Tensor:  # x: [batch, time, 6]
        state: Any = None
        for step in x.unbind(1) if isinstance(self.first, nn.RNNCellBase) else ():
            state = self.first(step, state)
        y = self.first(x)[0] if state is None else state[0] if isinstance(state, tuple) else state
        return self.last(y)  # type: ignore[no-any-return]


READERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Sequence(nn.LSTM, num_layers=2),
    "GRU": lambda: Sequence(nn.GRU),
    "GRUCell": lambda: Sequence(nn.GRUCell),
    "LSTMCell": lambda: Sequence(nn.LSTMCell),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, 3)).eval(),
}


@pytest.mark.parametrize("width", [None, 2.0])
@pytest.mark.parametrize("name", READERS)
def test_recurrent_and_parametrized_layers_read_channels_too(name: str, width: float | None) -> None:
    torch.manual_seed(0)
    model = READERS[name]().double()
    x, more = normal(2, 5, 6), normal(2, 5, 2)
    grown: Any = fxgrow.grow(model, width, in_chans="+2", example_inputs=x)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    after = grown.eval()(torch.cat([x, more], -1))
    torch.testing.assert_close(after, model.eval()(x), rtol=EXACT, atol=EXACT)


def test_layers_that_cannot_read_more_are_named() -> None:
    projecting = Sequence(nn.LSTM, proj_size=4)
    with pytest.raises(PlanError, match=r"recurrent layers with a projection have no rule \(at first\)"):
        fxgrow.plan(projecting, in_chans="+1", example_inputs=torch.zeros(2, 5, 6))
    orthogonal = nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 8)), nn.Linear(8, 3))
    with pytest.raises(PlanError, match=r"_Orthogonal computes every entry .* \(at 0.parametrizations.weight\)"):
        fxgrow.plan(orthogonal, in_chans="+1", example_inputs=torch.zeros(2, 6))


def test_normalisation_of_the_input_ties_its_channels() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x - self.mean).mean((2, 3))

    model = lively(Normalised()).double()
    grown = fxgrow.grow(model, in_chans=4, example_inputs=normal(2, 3, 8, 8))
    assert grown.mean.shape == (1, 4, 1, 1)
    x, more = normal(2, 3, 8, 8), normal(2, 1, 8, 8)
    torch.testing.assert_close(grown(torch.cat([x, more], 1)), model(x), rtol=EXACT, atol=EXACT)


@pytest.mark.slow
def test_optical_flow_reads_two_images() -> None:
    model = lively(torchvision.models.optical_flow.raft_small()).double().eval()
    grown = fxgrow.grow(model, in_chans="+1", verify=False)
    assert fxgrow.report(grown).plan.channels == Channels(3, 4, ((0, 0, 1), (1, 0, 1)))
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
