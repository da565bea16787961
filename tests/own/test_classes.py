"""More classes: outputs behind the old ones, which stay; what they start as, and where there are none to be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError, PlanError
from tests.capture.assembled import EXACT, normal
from tests.models import lively
from tests.pairing import few, in_turn

IMAGES = normal(2, 3, 96, 96)
WAYS: list[dict[str, Any]] = [
    {"classes": "+5"},
    {"classes": 12, "class_init": "mean", "width": 1.5},
    {"classes": "+5", "class_init": "random", "width": 1.5, "depth": 1.5, "init": "mirror"},
    {"classes": 12, "width": 1.5, "init": "replicate", "parameterization": "variance-transfer"},
]


def timm_model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return lively(timm.create_model(name, num_classes=7, **options)).double().eval()


def assert_more_classes(model: nn.Module, grown: nn.Module, start: str) -> None:
    report = fxgrow.report(grown)
    assert str(report.certificate.verdict) == "PROVED", report.certificate
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    for training in (False, True):
        before, after = (network.train(training)(IMAGES).detach() for network in (model, grown))
        assert after.shape == (2, 12)
        torch.testing.assert_close(after[:, :7], before, rtol=EXACT, atol=EXACT)
        if start == "zero":
            assert not after[:, 7:].any()
        elif start == "mean":
            torch.testing.assert_close(after[:, 7], before.mean(1), rtol=EXACT, atol=EXACT)
        else:
            assert after[:, 7:].std() > 0


@pytest.mark.parametrize(
    ("way", "form"),
    in_turn(WAYS, ("auto", "graph"), (WAYS[0], WAYS[3])),
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
def test_old_logits_stay_and_new_ones_start_as_asked(way: dict[str, Any], form: str) -> None:
    model = timm_model("test_resnet")
    grown = fxgrow.grow(model, example_inputs=IMAGES, form=form, **way)
    assert_more_classes(model, grown, way.get("class_init", "zero"))
    if form == "auto":
        assert type(grown) is type(model)
        assert grown.num_classes == grown.get_classifier().out_features == 12
        assert model.num_classes == 7


@pytest.mark.parametrize("name", few(("test_vit", "test_convnext", "test_efficientnet"), "test_efficientnet"))
def test_heads_of_other_kinds(name: str) -> None:
    model = timm_model(name, **({"img_size": 96} if "vit" in name else {}))
    assert_more_classes(model, fxgrow.grow(model, 1.5, example_inputs=IMAGES, classes="+5"), "zero")


def test_pairs_of_heads_grow_together() -> None:
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm_model("deit_tiny_distilled_patch16_224", **options)
    model.set_distilled_training(True)
    x = normal(2, 3, 32, 32)
    grown = fxgrow.grow(model, 1.5, example_inputs=x, classes="+5")
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert [layer.out_features for layer in grown.get_classifier()] == [12, 12]
    torch.testing.assert_close(grown.eval()(x)[:, :7], model.eval()(x), rtol=EXACT, atol=EXACT)
    for output, expected in zip(grown.train()(x), model.train()(x), strict=True):
        torch.testing.assert_close(output[:, :7], expected, rtol=EXACT, atol=EXACT)


def test_maps_of_classes_grow() -> None:
    torch.manual_seed(0)
    model = lively(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=5)
    ).eval()
    x = normal(2, 3, 64, 64)
    grown = fxgrow.grow(model, example_inputs=x, classes=8)
    assert grown(x)["out"].shape == (2, 8, 64, 64)
    torch.testing.assert_close(grown(x)["out"][:, :5], model(x)["out"], rtol=EXACT, atol=EXACT)


def test_new_classes_learn_and_grow_on(tmp_path: Path) -> None:
    model = timm_model("test_resnet")
    grown = fxgrow.grow(model, example_inputs=IMAGES, classes="+1")
    before = grown.get_parameter("fc.weight").detach().clone()
    optimizer = torch.optim.SGD(grown.parameters(), 0.1)
    nn.functional.cross_entropy(grown(IMAGES), torch.tensor([7, 7])).backward()
    optimizer.step()
    assert (grown.get_parameter("fc.weight") - before)[7].abs().max() > 0
    again = fxgrow.grow(grown, 1.5, example_inputs=IMAGES, classes="+4")
    assert again.num_classes == 12
    torch.testing.assert_close(again.eval()(IMAGES)[:, :8], grown.eval()(IMAGES), rtol=EXACT, atol=EXACT)
    assert again.get_parameter("fc.weight").shape[0] == 12
    fxgrow.save(again, tmp_path / "grown.safetensors", base="timm/test_resnet", base_kwargs={"num_classes": 7})
    loaded = fxgrow.load(tmp_path / "grown.safetensors").double().eval()
    torch.testing.assert_close(loaded(IMAGES), again(IMAGES), rtol=EXACT, atol=EXACT)


def test_a_plan_carries_the_classes() -> None:
    model = timm_model("test_resnet")
    plan = fxgrow.plan(model, 1.5, example_inputs=IMAGES, classes="+5", class_init="random")
    read = fxgrow.Plan.from_json(plan.to_json())
    assert read == plan
    applied, grown = (
        read.apply(model, seed=3),
        fxgrow.grow(model, 1.5, example_inputs=IMAGES, classes="+5", class_init="random", seed=3),
    )
    assert all(torch.equal(a, b) for a, b in zip(applied.parameters(), grown.parameters(), strict=True))


def test_a_faulty_new_head_is_not_proved() -> None:
    model = timm_model("test_resnet")
    grown = fxgrow.grow(model, example_inputs=IMAGES, classes="+5")
    with torch.no_grad():
        grown.get_parameter("fc.weight").copy_(grown.get_parameter("fc.weight").roll(1, 0))
    assert str(fxgrow.certify(grown, model).verdict) == "REFUTED"


class Scored(nn.Module):
    """A classifier that puts out something else than its logits."""

    def __init__(self, score: Any) -> None:
        super().__init__()
        self.first, self.last, self.score = nn.Linear(6, 8), nn.Linear(8, 4), score

    def forward(self, x: Tensor) -> Any:
        return self.score(self.last(self.first(x).relu()))


def test_what_comes_after_the_logits_may_stand_in_the_way() -> None:
    x = normal(3, 6)
    with pytest.raises(PlanError, match="it is not clear what its classes are"):
        fxgrow.grow(Scored(nn.Softmax(-1)).double(), example_inputs=x, classes="+2")
    with pytest.raises(PlanError, match="class_init"):
        fxgrow.grow(Scored(nn.Sigmoid()).double(), example_inputs=x, classes="+2")
    model = Scored(nn.Sigmoid()).double()
    grown = fxgrow.grow(model, example_inputs=x, classes="+2", class_init="random")
    torch.testing.assert_close(grown(x)[:, :4], model(x), rtol=EXACT, atol=EXACT)


def test_classes_that_are_none() -> None:
    x = normal(3, 6)
    with pytest.raises(PlanError, match="it is not clear what its classes are"):
        fxgrow.grow(Scored(lambda y: y.sum(-1)).double(), 2, example_inputs=x, classes="+2")
    with pytest.raises(AmountError, match="classes=4 of 4 are 4"):
        fxgrow.grow(Scored(nn.Identity()).double(), example_inputs=x, classes=4)
    for wrong in ({"classes": 2.5}, {"classes": "+1", "class_init": "one"}, {"classes": True}):
        with pytest.raises(AmountError):
            fxgrow.grow(Scored(nn.Identity()).double(), example_inputs=x, **wrong)


class Language(nn.Module):
    """A language model, whose table of words may be its head as well."""

    def __init__(self, words: int = 7, width: int = 8, places: int = 5, tied: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.mix, self.head = nn.Linear(width, width), nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1]))
        return self.head(self.mix(self.words(x) + places).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", ["auto", "graph"])
def test_words_come_behind_the_old_ones(tied: bool, form: str, tmp_path: Path) -> None:
    model, x = lively(Language(tied=tied)).double(), torch.randint(0, 7, (2, 4))
    grown = fxgrow.grow(model, 1.5, classes=12, init="mirror", class_init="mean", form=form, example_inputs=x)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert (grown.words.weight is grown.head.weight) == tied
    assert grown.words.num_embeddings == len(grown.words.weight) == (12 if tied else 7)
    assert torch.equal(grown.words.weight[:7, :8], model.words.weight)
    torch.testing.assert_close(grown(x)[..., :7], model(x), rtol=EXACT, atol=EXACT)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(x), grown(x))
    assert grown(torch.full((1, 4), len(grown.words.weight) - 1)).isfinite().all()


@pytest.mark.parametrize("tied", [True, False])
def test_tables_of_a_target_have_more_entries(tied: bool) -> None:
    model, x = lively(Language(tied=tied)).double(), torch.randint(0, 7, (2, 4))
    grown = fxgrow.grow(model, like=Language(12, 16, 9, tied), classes=12, example_inputs=x)
    assert isinstance(grown, Language) and str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert [len(table.weight) for table in (grown.words, grown.places)] == [12, 9]
    torch.testing.assert_close(grown(x)[..., :7], model(x), rtol=EXACT, atol=EXACT)
    assert grown(torch.full((1, 9), 11)).shape == (1, 9, 12)


def test_tables_stay_as_long_as_they_were_otherwise() -> None:
    model = Language(tied=False)
    grown = fxgrow.grow(model, 2, classes=12, example_inputs=torch.randint(0, 7, (2, 4)))
    assert grown.words.weight.shape == (7, 16) and grown.places.weight.shape == (5, 16)


class Gray(nn.Module):
    """One channel in, one score out, and a gate of one unit between."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.inner = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.gate, self.leave = nn.Conv2d(8, 1, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(self.norm(self.enter(x)).relu()).relu()
        return self.leave((h * self.gate(h).sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("more", [{}, {"width": 1.5}, {"width": 2, "init": "mirror"}], ids=str)
def test_one_channel_and_one_score_become_several(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = lively(Gray()).double().eval(), normal(2, 1, 8, 8)
    grown = fxgrow.grow(model, example_inputs=x, classes="+2", in_chans=3, **more)
    assert type(grown) is Gray
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    colours = torch.cat([x, normal(2, 2, 8, 8)], 1)
    torch.testing.assert_close(grown(colours)[:, :1], model(x), rtol=EXACT, atol=EXACT)
    grown(colours).square().sum().backward()
    assert grown.get_parameter("enter.weight").grad[:, 1:].abs().max() > 0
    assert grown.gate.out_channels == 1
