"""Growth toward a target that the user built: real models of timm and torchvision, some at smaller sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models import convnext, densenet, resnet, swin_transformer, vision_transformer
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError, FxgrowError, PlanError
from fxgrow.planning.likeness import Likeness
from tests.capture.assembled import normal
from tests.models import lively
from tests.pairing import slow

EXACT = 1e-12
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vit(width: int, depth: int, heads: int, **options: Any) -> nn.Module:
    options = {"img_size": 64, "patch_size": 16, "num_classes": 5, **options}
    return vision_transformer.VisionTransformer(embed_dim=width, depth=depth, num_heads=heads, **options)


def bottlenecks(base: int, *layers: int) -> nn.Module:
    return resnet.ResNet(resnet.Bottleneck, layers, num_classes=5, base_width=base, channels=(16, 16, 32, 32))


def swin(*depths: int, width: int = 24) -> nn.Module:
    options: Any = {"img_size": 64, "patch_size": 4, "window_size": 4, "num_heads": (width // 8, width // 4)}
    return swin_transformer.SwinTransformer(embed_dim=width, depths=depths, num_classes=5, **options)


def dense(*layers: int) -> nn.Module:
    return densenet.DenseNet(8, layers, num_classes=5)


def mobile(width: float, *repeats: int) -> nn.Module:
    setting = [
        [expansion, channels, repeats[k], 2] for k, (expansion, channels) in enumerate([(1, 16), (4, 24), (4, 32)])
    ]
    return torchvision.models.MobileNetV2(5, width, setting)


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "vit": (lambda: vit(48, 2, 3), lambda: vit(96, 3, 6)),
    "vit, head width": (lambda: vit(24, 2, 3), lambda: vit(48, 2, 3)),
    "resnet18 to 34": (lambda: timm.create_model("resnet18"), lambda: timm.create_model("resnet34")),
    "torchvision": (
        lambda: torchvision.models.resnet18(num_classes=5),
        lambda: torchvision.models.resnet34(num_classes=5),
    ),
    "wide resnet": (lambda: bottlenecks(64, 1, 2, 1, 1), lambda: bottlenecks(128, 1, 3, 1, 1)),
    "convnext": (
        lambda: convnext.ConvNeXt(depths=(1, 2, 1, 1), dims=(16, 16, 32, 32), num_classes=5),
        lambda: convnext.ConvNeXt(depths=(1, 3, 1, 1), dims=(24, 24, 40, 40), num_classes=5),
    ),
    "swin": (lambda: swin(2, 2), lambda: swin(2, 4)),
    "several runs in one container": (lambda: mobile(1.0, 1, 2, 2), lambda: mobile(1.0, 1, 4, 3)),
    "dense layers": (lambda: dense(2, 3), lambda: dense(2, 5)),
}
LONG = ("vit", "vit, head width", "resnet18 to 34", "torchvision", "wide resnet", "swin", "convnext")


@pytest.fixture(scope="module", params=[slow(name) if name in LONG else name for name in PAIRS])
def grown(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A model, a target on the meta device, and the model grown toward it."""
    torch.manual_seed(0)
    small, large = PAIRS[request.param]
    model = lively(small()).double()
    with torch.device("meta"):
        target = large()
    return model, target, fxgrow.grow(model, like=target, example_inputs=IMAGES)


def test_a_copy_of_the_target_computes_what_the_model_does(grown: tuple[nn.Module, nn.Module, nn.Module]) -> None:
    model, target, result = grown
    step = fxgrow.report(result)
    assert step.plan.form == "module"
    assert step.plan.like.target == type(target).__name__
    assert str(step.certificate.verdict) == "PROVED"
    assert str(fxgrow.certify(result, model).verdict) == "PROVED"
    assert step.verification.train_error <= EXACT
    torch.testing.assert_close(result.eval()(IMAGES), model.eval()(IMAGES), rtol=EXACT, atol=EXACT)
    shapes = [{name: tuple(t.shape) for name, t in network.state_dict().items()} for network in (result, target)]
    assert shapes[0] == shapes[1]
    unlike = {path for path, _, _ in step.plan.like.parts}
    target_parts = dict(target.named_modules())
    for path, part in result.named_modules():
        assert (type(part) is type(target_parts[path])) != (path in unlike)


def test_a_model_that_fxgrow_never_saw_takes_the_weights(
    grown: tuple[nn.Module, nn.Module, nn.Module], request: Any
) -> None:
    model, _, result = grown
    like = fxgrow.report(result).plan.like
    if like.parts:
        pytest.skip("a norm over old units is a class of its own")
    name = request.node.callspec.params["grown"]
    native = PAIRS[name][1]().double().eval()
    native.load_state_dict(result.state_dict())
    for setting in like.settings:
        setattr(native.get_submodule(setting.module), setting.attribute, setting.value)
    torch.testing.assert_close(native(IMAGES), model.eval()(IMAGES), rtol=EXACT, atol=EXACT)


def test_what_has_to_be_other_is_listed() -> None:
    model = lively(vit(48, 2, 3))
    plan = fxgrow.plan(model, like=vit(96, 2, 6), example_inputs=IMAGES)
    settings = plan.like.settings
    assert {setting.attribute for setting in settings} == {"eps"}
    assert {setting.module for setting in settings} == {
        *(f"blocks.{k}.norm{j}" for k in (0, 1) for j in (1, 2)),
        "norm",
    }
    assert {(setting.value, setting.built_with) for setting in settings} == {(5e-7, 1e-6)}
    assert "unlike the target: eps = 5e-07, not 1e-06, of blocks.0.norm1" in str(plan)
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    plain = fxgrow.plan(bottlenecks(64, 1, 1, 1, 1), like=bottlenecks(128, 1, 1, 1, 1), example_inputs=IMAGES)
    assert (plain.like.settings, plain.like.parts) == ((), ())
    assert "is a ResNet as its constructor makes it" in str(plain)


def test_norms_over_old_units_are_listed() -> None:
    small, large = (build() for build in PAIRS["convnext"])
    like = fxgrow.plan(small, like=large, example_inputs=IMAGES).like
    assert ("stages.0.blocks.0.norm", "EditedLayerNorm", "LayerNorm") in like.parts
    assert not any(path.startswith("stages.0.blocks.0.mlp") for path, _, _ in like.parts)


def test_a_sentence_says_what_norms_over_old_units_mean_for_the_result() -> None:
    small, large = (build() for build in PAIRS["convnext"])
    grown = fxgrow.grow(small, like=large, example_inputs=IMAGES.float(), verify=False)
    plan = fxgrow.report(grown).plan
    assert plan.like.norms == tuple(path for path, *_ in plan.like.parts) and len(plan.like.norms) > 3
    assert plan.like.needs == (
        f"it needs {len(plan.like.norms)} norms over old units of fxgrow's ({plan.like.norms[0]} first), so ConvNeXt "
        "does not compute what it does without fxgrow; fxgrow.settle(model, 1) puts the target's own there, and "
        "changes the function"
    )
    for text in (str(plan), str(fxgrow.report(grown))):
        assert plan.like.needs in " ".join(text.split())
    assert type(plan).from_json(plan.to_json()) == plan
    fxgrow.settle(grown, 1)
    assert "fxgrow.settle" not in str(fxgrow.report(grown))
    assert [type(part) for part in grown.modules()] == [type(part) for part in large.modules()]
    native = PAIRS["convnext"][1]().eval()
    native.load_state_dict(grown.state_dict())
    torch.testing.assert_close(native(IMAGES.float()), grown.eval()(IMAGES.float()))


def test_parts_that_fxgrow_edited_otherwise_are_summed_up_too() -> None:
    like = Likeness("Net", parts=(("pool", "EditedPool", "Pool"),))
    assert like.needs == (
        "it needs a part that fxgrow edited (pool), so Net does not compute what it does without fxgrow, and nothing "
        "puts the target's own there"
    )
    assert Likeness("Net").needs == ""


def test_settings_of_the_target_stay_where_the_function_does_not_ask() -> None:
    model, target = vit(48, 2, 3), vit(96, 2, 6)
    target.pretrained_cfg = {"input_size": (3, 64, 64), "tag": "mine"}
    result = fxgrow.grow(model, like=target, example_inputs=IMAGES.float())
    assert result.pretrained_cfg["tag"] == "mine"
    assert (result.num_features, result.embed_dim, result.blocks[0].attn.num_heads) == (96, 96, 6)
    assert all(tensor.is_meta for tensor in target.parameters()) is False
    assert result.get_parameter("cls_token") is not target.get_parameter("cls_token")


def test_it_is_saved_loaded_and_grows_on(tmp_path: Any) -> None:
    model = lively(vit(48, 2, 3)).double()
    result = fxgrow.grow(model, like=vit(96, 3, 6), example_inputs=IMAGES).eval()
    fxgrow.save(result, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", vit(48, 2, 3))
    torch.testing.assert_close(loaded(IMAGES), result(IMAGES), rtol=EXACT, atol=EXACT)
    assert fxgrow.report(loaded).plan.like == fxgrow.report(result).plan.like
    assert fxgrow.births(result)["blocks.0.mlp.fc1.bias"].counts() == {0: 192, 1: 192}
    again = fxgrow.grow(result, like=vit(192, 4, 12)).eval()
    torch.testing.assert_close(again(IMAGES), model.eval()(IMAGES), rtol=EXACT, atol=EXACT)


class Net(nn.Module):
    def __init__(self, width: int, kernel: int = 3, act: type[nn.Module] = nn.ReLU, last: Any = torch.tanh) -> None:
        super().__init__()
        self.enter, self.act = nn.Conv2d(3, width, kernel, padding=kernel // 2), act()
        self.leave, self.last = nn.Conv2d(width, 2, 1), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.leave(self.act(self.enter(x))))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (lambda: Net(4), "a dimension is 8 in the model and only 4 in the target (at enter.weight[0])"),
        (lambda: Net(16, kernel=5), "a dimension is 3 in the model and 5 in the target, but it cannot grow"),
        (lambda: Net(16, act=nn.GELU), "it is ReLU in the model and GELU in the target (at act)"),
        (lambda: Net(16, last=torch.relu), "the target computes otherwise than the grown model: tanh"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), "it is Net in the model and Sequential in the target (at Net)"),
        (lambda: Net(8), "nothing in the model would grow"),
    ],
)
def test_what_cannot_get_there_is_named(target: Any, text: str) -> None:
    with pytest.raises(FxgrowError) as raised:
        fxgrow.grow(Net(8), like=target(), example_inputs=IMAGES.float())
    assert text in str(raised.value)


FAMILIES = [
    ("resnet34", "resnet18", "it has 2 parts in the target and 3 in the model (at layer1)"),
    ("resnet18", "resnet50", "it is BasicBlock in the model and Bottleneck in the target (at layer1.0)"),
    ("efficientnet_b0", "efficientnet_b1", "no blocks of the model that could be repeated there (at blocks.0)"),
]


@pytest.mark.parametrize(("small", "large", "text"), FAMILIES)
def test_blocks_that_cannot_get_there_are_named(small: str, large: str, text: str) -> None:
    with pytest.raises(PlanError) as raised:
        fxgrow.plan(timm.create_model(small), like=timm.create_model(large))
    assert text in str(raised.value)


def regnet(width: int, *depths: int) -> nn.Module:
    parameters = torchvision.models.regnet.BlockParams(depths, [width, 2 * width], [4, 4], [1.0, 1.0], [2, 2])
    return torchvision.models.RegNet(parameters, num_classes=5)


def test_blocks_are_called_as_in_the_target_whatever_stands_before_their_number() -> None:
    model = lively(regnet(8, 1, 2)).double()
    grown: Any = fxgrow.grow(model, like=regnet(16, 1, 4), example_inputs=IMAGES)
    assert [*grown.trunk_output.block2._modules] == ["block2-0", "block2-1", "block2-2", "block2-3"]
    torch.testing.assert_close(grown.eval()(IMAGES), model.eval()(IMAGES), rtol=EXACT, atol=EXACT)


def test_blocks_that_no_run_leads_to_are_named() -> None:
    with pytest.raises(PlanError) as raised:
        fxgrow.plan(mobile(1.0, 1, 2, 2), like=mobile(1.0, 2, 2, 2), example_inputs=IMAGES)
    assert "further parts in the target are not repeated blocks of the model (at features)" in str(raised.value)


class Dropping(nn.Module):
    """Drops units by a function, which a capture gives a number that follows the mode; adds where sizes are alike."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.enter, self.middle = nn.Linear(3, widths[0]), nn.Linear(widths[0], widths[1])
        self.head, self.adds = nn.Linear(widths[1], 2), widths[0] == widths[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = nn.functional.dropout(self.middle(torch.relu(x)), 0.2, self.training)
        return self.head(x + y if self.adds else y)  # type: ignore[no-any-return]


def test_what_a_capture_adds_to_the_tree_stands_in_no_way() -> None:
    model, target = lively(Dropping(4, 6)), Dropping(8, 9)
    inputs = torch.randn(2, 3, dtype=torch.float64)
    grown = fxgrow.grow(model.double(), like=target, example_inputs=inputs)
    assert type(grown) is Dropping
    assert {n: p.shape for n, p in grown.named_parameters()} == {n: p.shape for n, p in target.named_parameters()}


class Skipping(nn.Module):
    """A block that is left out at times, as timm's and torchvision's are, or never."""

    def __init__(self, width: int, drop: nn.Module) -> None:
        super().__init__()
        self.enter, self.middle, self.head = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.head(x + self.drop(torch.relu(self.middle(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (nn.Identity(), timm.layers.DropPath(0.1)),
        (nn.Dropout(0.3), torchvision.ops.StochasticDepth(0.1, "row")),
        (timm.layers.DropPath(0.1), nn.Identity()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_other_rates_of_the_target_stand_in_no_way(here: nn.Module, there: nn.Module) -> None:
    model, target = lively(Skipping(4, here)).double(), Skipping(8, there)
    inputs = normal(5, 3)
    grown = fxgrow.grow(model, like=target, example_inputs=inputs)
    plan = fxgrow.report(grown).plan
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert str(grown.drop) == str(here)
    assert plan.like is not None
    assert plan.like.drops == (("drop", str(here), str(there)),)
    assert f"unlike the target in train mode alone: {here}, not {there}, at drop" in " ".join(str(plan).split())
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    native = Skipping(8, there).double().eval()
    native.load_state_dict(grown.state_dict())
    torch.testing.assert_close(native(inputs), model.eval()(inputs), rtol=EXACT, atol=EXACT)


class DroppingTwice(Skipping):
    def __init__(self, width: int, drop: nn.Module, again: nn.Module) -> None:
        super().__init__(width, drop)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.again(x))  # type: ignore[no-any-return]


def dropping_twice(width: int, drop: nn.Module, *, shared: bool = True) -> DroppingTwice:
    return DroppingTwice(width, drop, drop if shared else copy.deepcopy(drop))


@pytest.mark.parametrize("way", [(nn.Dropout(0.3), nn.Identity()), (nn.Identity(), nn.Dropout(0.3))], ids=str)
def test_other_rates_of_a_shared_part_stand_in_no_way(way: tuple[nn.Module, nn.Module]) -> None:
    model, target = (dropping_twice(width, drop) for width, drop in zip((4, 8), way, strict=True))
    grown = fxgrow.grow(lively(model).double(), like=target, example_inputs=normal(5, 3))
    assert str(grown.drop) == str(way[0]) and grown.again is grown.drop
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def test_parts_that_only_one_model_shares_are_named() -> None:
    shared, apart = (dropping_twice(4, nn.Dropout(0.3), shared=shared) for shared in (True, False))
    for model, target, message in (
        (shared, apart, r"the model has one Dropout there and at drop, and the target has two \(at again\): let both"),
        (apart, shared, r"the target has one Dropout there and at drop, and the model has two \(at again\): let both"),
    ):
        with pytest.raises(PlanError, match=message):
            fxgrow.plan(model, like=target, example_inputs=torch.randn(2, 3))


def test_parts_that_do_more_than_drop_are_no_rates() -> None:
    for other in (nn.ReLU(), nn.Softmax(-1), nn.Hardtanh(-3, 3), nn.Threshold(-3, 0.0)):
        with pytest.raises(PlanError, match=r"it is Identity in the model and \w+ in the target \(at drop\)"):
            fxgrow.plan(Skipping(4, nn.Identity()), like=Skipping(8, other), example_inputs=torch.randn(2, 3))


def test_an_addition_that_the_target_does_not_have_is_named() -> None:
    with pytest.raises(PlanError) as raised:
        fxgrow.plan(Dropping(4, 4), like=Dropping(8, 9), example_inputs=torch.randn(2, 3))
    assert (
        "a dimension of 4 is 8 at enter.weight[0] of the target and 9 here, but it is one dimension of the model, as "
        "the model has add of two tensors with it, which the target has not (at middle.weight[0])" in str(raised.value)
    )


@pytest.mark.parametrize("target", [5, "resnet", nn.Linear], ids=str)
def test_a_target_that_is_no_model_is_refused(target: Any) -> None:
    for call in (fxgrow.plan, fxgrow.grow):
        with pytest.raises(AmountError, match=r"^like=.* is no model: pass a model"):
            call(nn.Linear(2, 2), like=target, example_inputs=torch.randn(1, 2))


def test_a_target_goes_with_no_other_amount() -> None:
    for options in ({"width": 2}, {"depth": 2}, {"form": "graph"}):
        with pytest.raises(AmountError):
            fxgrow.plan(Net(8), like=Net(16), example_inputs=IMAGES.float(), **options)


def vit_of(width: int, depth: int, heads: int, classes: int, channels: int = 3) -> vision_transformer.VisionTransformer:
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "num_classes": classes, "in_chans": channels}
    return vision_transformer.VisionTransformer(img_size=32, patch_size=16, **sizes)


@pytest.mark.slow
def test_a_target_with_more_classes_and_channels_is_reached_where_these_are_asked_for() -> None:
    torch.manual_seed(0)
    model = lively(vit_of(48, 2, 3, 5)).double().eval()
    images = normal(2, 3, 32, 32)
    ends: dict[str, Any] = {"classes": "+2", "in_chans": 4, "class_init": "mean"}
    grown: Any = fxgrow.grow(model, like=vit_of(96, 3, 6, 7, 4), example_inputs=images, **ends).eval()
    plan = fxgrow.report(grown).plan
    assert plan.classes is not None and (plan.classes.old, plan.classes.new) == (5, 7)
    assert (grown.num_classes, grown.head.out_features, grown.patch_embed.proj.in_channels) == (7, 7, 4)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    after, before = grown(torch.cat([images, normal(2, 1, 32, 32)], 1)), model(images)
    torch.testing.assert_close(after[:, :5], before, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(after[:, 5], before.mean(1), rtol=EXACT, atol=EXACT)
    native = vit_of(96, 3, 6, 7, 4).double().eval()
    native.load_state_dict(grown.state_dict())
    for setting in plan.like.settings:
        setattr(native.get_submodule(setting.module), setting.attribute, setting.value)
    torch.testing.assert_close(native(normal(2, 4, 32, 32)), grown(normal(2, 4, 32, 32)), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(
    ("target", "ends", "text"),
    [
        (
            (96, 2, 6, 7),
            {},
            r"it is an output of the model \(at head.weight\[0\]\): pass classes=7 if these are classes",
        ),
        (
            (96, 2, 6, 7),
            {"classes": 9},
            r"9 classes were asked for, and the target has 7 \(at head.weight\[0\]\): pass cl",
        ),
        ((96, 2, 6, 5), {"classes": "+1"}, r"6 classes were asked for, and the target has 5: leave classes= out"),
        ((96, 2, 6, 5, 4), {}, r"or pass in_chans= if it reads more channels"),
        ((96, 2, 6, 5, 4), {"in_chans": 5}, r"or pass in_chans= if it reads more channels"),
    ],
)
def test_other_ends_than_those_of_the_target_are_refused(
    target: tuple[int, ...], ends: dict[str, Any], text: str
) -> None:
    with pytest.raises(PlanError, match=text):
        fxgrow.plan(vit_of(48, 2, 3, 5), like=vit_of(*target), example_inputs=normal(2, 3, 32, 32).float(), **ends)
