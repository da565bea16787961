"""Growth in the user's own class: what it is, keeps and refuses; and when it has to be a graph."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from einops.layers import torch as einops_layers
from timm.utils.model import reparameterize_model
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.errors import PlanError
from tests.capture.assembled import EXACT, normal
from tests.models import lively
from tests.pairing import few, in_turn

IMAGES = normal(2, 3, 96, 96)


def timm_model(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return lively(timm.create_model(name, num_classes=7, **options)).double().eval()


NAMES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet"]


@pytest.fixture(scope="module", params=few(NAMES, "test_resnet"))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    options = {"img_size": 96} if "vit" in request.param else {}
    model = timm_model(request.param, **options)
    return model, fxgrow.grow(model, 1.5, depth=1.5, example_inputs=IMAGES).eval()


def test_the_class_the_code_and_the_proof(pair: tuple[nn.Module, nn.Module]) -> None:
    model, grown = pair
    assert type(grown) is type(model)
    assert fxgrow.report(grown).plan.form == "module"
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def test_methods_of_the_class_work(pair: tuple[nn.Module, nn.Module]) -> None:
    _, grown = pair
    features = grown.forward_features(IMAGES)
    torch.testing.assert_close(grown.forward_head(features), grown(IMAGES), rtol=EXACT, atol=EXACT)
    assert timm.data.resolve_model_data_config(grown) == timm.data.resolve_model_data_config(pair[0])
    assert len(grown.group_matcher()) == len(pair[0].group_matcher())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_the_same_model(pair: tuple[nn.Module, nn.Module], copied: Any) -> None:
    twin = copied(pair[1])
    assert type(twin) is type(pair[0])
    assert torch.equal(twin(IMAGES), pair[1](IMAGES))
    assert [tuple(p.shape) for p in twin.parameters()] == [tuple(p.shape) for p in pair[1].parameters()]


def test_it_grows_on(pair: tuple[nn.Module, nn.Module]) -> None:
    again = fxgrow.grow(pair[1], 1.5, example_inputs=IMAGES).eval()
    assert type(again) is type(pair[0])
    torch.testing.assert_close(again(IMAGES), pair[0](IMAGES), rtol=1e-10, atol=1e-10)
    assert str(fxgrow.certify(again, pair[0]).verdict) == "PROVED"


@pytest.mark.slow
def test_a_deeper_resnet_has_the_names_of_the_native_one() -> None:
    model = timm.create_model("resnet18")
    grown = fxgrow.grow(model, depth={"layer1": "=3", "layer2": "=4", "layer3": "=6", "layer4": "=3"}, verify=False)
    native = timm.create_model("resnet34")
    assert grown.state_dict().keys() == native.state_dict().keys()
    native.load_state_dict(grown.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(native.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())

    def get_extra_state(self) -> Any:
        return {"seen": 3}

    def set_extra_state(self, state: Any) -> None: ...


def test_hooks_marks_and_extra_state_come_along() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Block(), nn.Linear(8, 3))
    seen: list[str] = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    model[0].weight._no_weight_decay = True
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6))
    seen.clear()
    grown(torch.randn(2, 6))
    assert seen == ["Block"]
    assert grown.get_parameter("0.weight")._no_weight_decay
    assert "1._extra_state" in grown.state_dict()


class Scale(nn.Parameter):
    """A parameter of a class of its own."""


@pytest.mark.parametrize("form", ["module", "graph"])
def test_classes_of_parameters_and_marks_of_buffers_come_along(form: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[1].weight = Scale(torch.ones(8))
    model[1].weight.group = "scales"  # type: ignore[union-attr]
    model[1].running_mean.shared = False  # type: ignore[union-attr]
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6), form=form)
    weight, mean = grown.get_parameter("1.weight"), grown.get_buffer("1.running_mean")
    assert type(weight) is Scale and weight.shape == (16,) and weight.is_leaf and weight.requires_grad
    assert weight.group == "scales" and mean.shared is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_hooks_on_gradients_come_along(form: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    seen: list[tuple[int, ...]] = []
    model[0].weight.register_hook(lambda gradient: gradient * 0)
    model[2].weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(tuple(parameter.shape)))
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6), form=form)
    seen.clear()
    grown(torch.randn(2, 6)).sum().backward()
    assert seen == [(3, 16)] and not grown.get_parameter("0.weight").grad.any()


def test_the_memory_format_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 3, 8, 8))
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in grown.parameters() if p.ndim == 4)


def test_guards_are_subclasses_of_what_stands_there() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.norm, self.head = nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8), nn.Linear(8, 2)
            self.enter = nn.Conv1d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.mix(self.enter(x)).transpose(1, 2)))

    model = Normed().double()
    x = normal(2, 3, 5)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert type(grown) is Normed
    assert isinstance(grown.norm, nn.LayerNorm)
    assert grown.norm.state_dict().keys() == model.norm.state_dict().keys()
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).view(-1, 2, 4).relu().view(-1, 8))


def test_a_size_in_the_code_becomes_another_in_a_subclass() -> None:
    model = Written().double()
    x = normal(4, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Written)
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


class Halved(nn.Module):
    """Reads one size for what grows and for what an output fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 4
        self.enter, self.out = nn.Linear(6, 8), nn.Linear(8, 8)
        self.value = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        first, second = x.split((self.size, 8 - self.size), 1)
        value = self.value(first).view(-1, self.size).relu()
        return x, self.out(torch.cat((value, second), 1))


def test_one_attribute_for_numbers_that_part() -> None:
    torch.manual_seed(0)
    model, x = lively(Halved()).double(), normal(4, 6)
    grown: Any = fxgrow.grow(model, {"value": 2}, example_inputs=x)
    assert isinstance(grown, Halved) and grown.value.out_features == 8
    for network in (grown, pickle.loads(pickle.dumps(grown)), fxgrow.grow(grown, {"value": 1.5}, example_inputs=x)):
        for output, expected in zip(network(x), model(x), strict=True):
            torch.testing.assert_close(output, expected, rtol=EXACT, atol=EXACT)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Cut(nn.Module):
    """Cuts at a number that is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, kept: int = 8) -> torch.Tensor:
        return self.b(self.a(x).tanh()[:, :kept])  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_a_size_that_is_an_argument_becomes_another(form: str) -> None:
    model, x = Cut().double(), normal(3, 4)
    grown: Any = fxgrow.grow(model, width=2, example_inputs=(x, 8), form=form)
    assert len(grown.a.weight) == 16 and str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(x, 8), model(x, 8), rtol=EXACT, atol=EXACT)


def test_what_was_edited_is_edited_again() -> None:
    """Each growth goes on from the calls as the one before left them; the copies are read back whole."""

    model = Written().double()
    x = normal(4, 6)
    grown: nn.Module = model
    for width, size in ((2, 16), (1.5, 24), (1.25, 30)):
        grown = pickle.loads(pickle.dumps(fxgrow.grow(grown, width, example_inputs=x)))
        assert isinstance(grown, Written)
        assert type(grown).__name__ == "EditedWritten"
        assert grown.leave.in_features == size
        torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def test_an_edited_model_whose_output_is_a_stream() -> None:
    class WrittenStream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            return x + self.out(self.into(x).view(-1, 2, 4).relu().view(-1, 8))

    globals()["WrittenStream"], WrittenStream.__qualname__ = WrittenStream, "WrittenStream"
    model = lively(WrittenStream()).double()
    x = normal(4, 6)
    grown: nn.Module = model
    for width in (2, 1.5):
        grown = pickle.loads(pickle.dumps(fxgrow.grow(grown, width, example_inputs=x)))
        assert isinstance(grown, WrittenStream)
        torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)
    assert grown.get_parameter("readout").shape == (8, 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit2", "test_convnext2", "swinv2_tiny_window8_256"])
def test_models_that_grew_grow_on_in_their_class(name: str) -> None:
    small = {"embed_dim": 16, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "window_size": 4, "img_size": 64}
    options: dict[str, Any] = small if "swin" in name else {"img_size": 96} if "vit" in name else {}
    images = normal(2, 3, 64, 64) if "swin" in name else IMAGES
    model = timm_model(name, **options)
    grown = model
    for _ in range(2):
        grown = fxgrow.grow(grown, 1.5, depth=1.5, example_inputs=images, verify=False).eval()
        assert type(grown) is type(model)
        torch.testing.assert_close(grown(images), model(images), rtol=1e-10, atol=1e-10)


def test_config_objects_follow_and_the_original_keeps_its_own() -> None:
    class ViewConfig:
        def __init__(self) -> None:
            self.heads, self.dims = 2, {"inner": 8}

    class Configured(nn.Module):
        def __init__(self, config: ViewConfig) -> None:
            super().__init__()
            self.config = config
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.enter(x).unflatten(-1, (self.config.heads, self.config.dims["inner"] // self.config.heads))
            return self.leave(h.relu().reshape(-1, self.config.dims["inner"]))

    config = ViewConfig()
    model = Configured(config).double()
    x = normal(4, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert type(grown) is Configured
    assert grown.config.dims["inner"] == 16
    assert (config.heads, config.dims) == (2, {"inner": 8})
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


def test_forms_that_are_asked_for() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 6)
    assert isinstance(fxgrow.grow(model, 2, example_inputs=x, form="graph"), fx.GraphModule)
    assert type(fxgrow.grow(model, 2, example_inputs=x, form="module")) is nn.Sequential
    traced = torch.fx.symbolic_trace(model)
    with pytest.raises(PlanError, match=r"^the class of the model cannot hold the growth: it is a graph already"):
        fxgrow.grow(traced, 2, example_inputs=x, form="module")
    with pytest.raises(fxgrow.FxgrowError, match=r"form='tree' is not a form: use one of auto, module, graph"):
        fxgrow.plan(model, 2, example_inputs=x, form="tree")


def test_what_the_class_cannot_hold_stays_where_it_is_asked_for() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.into = nn.Linear(6, 8), nn.Linear(8, 16)
            self.back, self.leave = nn.Linear(16, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            if x.shape[1] != 8:
                raise ValueError("eight channels are needed")
            return self.leave(self.back(self.into(x).relu()) + x)

    model = lively(Checked()).double()
    x = normal(4, 6)
    plan = fxgrow.plan(model, 2, example_inputs=x)
    assert (plan.form, plan.obstacle and plan.obstacle.node) == ("graph", "into")
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    plan = fxgrow.plan(model, 2, example_inputs=x, form="module")
    assert (plan.form, plan.obstacle) == ("module", None)
    assert [(group.where[0], group.old, group.new) for group in plan.groups] == [("into.weight[0]", 16, 32)]
    (held,) = plan.held
    assert "enter.weight[0]" in held.where
    assert held.reason.startswith("Checked cannot hold its growth: the class computes something else: ")
    assert "eight channels are needed" in held.reason
    grown = fxgrow.grow(model, 2, example_inputs=x, form="module")
    assert type(grown) is Checked
    assert fxgrow.report(grown).plan.groups == plan.groups
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)
    with pytest.raises(PlanError, match=r"^nothing in the model would grow; .*Checked cannot hold its growth"):
        fxgrow.grow(model, {"enter": 2}, example_inputs=x, form="module")


def test_the_plan_says_what_comes_back() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plan = fxgrow.plan(model, 2, example_inputs=torch.randn(2, 6))
    assert plan.form == "module"
    assert "comes back as Sequential, its own class" in str(plan)
    assert fxgrow.Plan.from_json(plan.to_json()) == plan


def test_a_module_that_was_changed_after_growth_is_not_proved() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6))
    grown[1] = nn.Tanh()
    assert str(fxgrow.certify(grown, model).verdict) != "PROVED"


@pytest.mark.parametrize("head", [nn.Linear(16, 5), nn.Linear(16, 4, bias=False), nn.Identity()], ids=str)
def test_a_file_keeps_a_head_that_was_put_in_by_hand(head: nn.Module, tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 6))
    grown[2] = head
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    rows = torch.randn(3, 6)
    assert torch.equal(loaded(rows), grown(rows))
    assert str(loaded) == str(grown)
    assert fxgrow.births(loaded) == fxgrow.births(grown)
    assert str(fxgrow.certify(loaded).verdict) == "UNKNOWN"


@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_file_keeps_the_classes_that_a_model_was_reset_to(form: str, tmp_path: Any) -> None:
    grown: Any = fxgrow.grow(timm.create_model("test_resnet"), 1.5, verify=False, form=form).eval()
    if form == "module":
        grown.reset_classifier(7)
    else:
        grown.fc = nn.Linear(grown.fc.in_features, 7)
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_resnet")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors")
    assert torch.equal(loaded(IMAGES.float()), grown(IMAGES.float()))
    assert all(parameter.data_ptr() % 64 == 0 for parameter in loaded.parameters())
    assert form == "graph" or loaded.num_classes == 7


HEADS = {
    "reset": None,
    "dropout": lambda size: nn.Sequential(nn.Dropout(0.3), nn.Linear(size, 5)),
    "mlp": lambda size: nn.Sequential(nn.Linear(size, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5)),
    "nested": lambda size: nn.Sequential(nn.LayerNorm(size, eps=1e-3), nn.Sequential(nn.Tanh(), nn.Linear(size, 5))),
}


@pytest.mark.parametrize(("head", "name"), in_turn(HEADS, ("mobilenetv3_small_050", "test_convnext"), ("reset",)))
def test_a_file_keeps_heads_of_several_layers_and_of_timms(name: str, head: str, tmp_path: Any) -> None:
    grown: Any = fxgrow.grow(timm.create_model(name), 1.5, verify=False)
    classifier, make = grown.get_classifier(), HEADS[head]
    if make is None:
        grown.reset_classifier(5)
    else:
        path = next(path for path, part in grown.named_modules() if part is classifier)
        owner, _, leaf = path.rpartition(".")
        setattr(grown.get_submodule(owner), leaf, make(classifier.in_features))
    grown.eval()
    fxgrow.save(grown, tmp_path / "grown.safetensors", base=f"timm/{name}")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors")
    assert str(loaded) == str(grown)
    assert torch.equal(loaded(IMAGES.float()), grown(IMAGES.float()))
    assert fxgrow.births(loaded) == fxgrow.births(grown)


@pytest.mark.slow
def test_a_file_keeps_a_head_in_place_of_a_part_with_others(tmp_path: Any) -> None:
    grown: Any = fxgrow.grow(timm.create_model("test_convnext"), 1.5, verify=False)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(grown.num_features, 3))
    grown.head = pooled
    assert type(grown.head) is nn.Sequential
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_convnext")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors")
    assert str(loaded.head) == str(pooled)
    features = torch.randn(2, grown.num_features, 3, 3)
    assert torch.equal(loaded.head(features), pooled(features))


def test_a_file_is_refused_where_it_could_not_be_read(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    grown: Any = fxgrow.grow(model, {"0": 2}, example_inputs=torch.randn(2, 6))
    grown[2] = nn.Bilinear(16, 16, 5)
    with pytest.raises(fxgrow.FxgrowError, match=r"^it is Bilinear now and was Linear when .* \(at 2\)"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")
    grown[2] = nn.Sequential(nn.Linear(16, 16), nn.MultiheadAttention(16, 2))
    with pytest.raises(fxgrow.FxgrowError, match=r"^it is a MultiheadAttention inside .* \(at 2.1\)"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")
    grown[2] = nn.Linear(16, 5, bias=False)
    again = fxgrow.grow(grown, {"0": "+2"})
    assert fxgrow.births(again)["2.weight"].counts() == {1: 80, 2: 10}
    fxgrow.save(again, tmp_path / "grown.safetensors")
    rows = torch.randn(3, 6)
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(rows), again(rows))
    grown[2] = Unknown()
    again = fxgrow.grow(grown, {"0": "+2"})
    with pytest.raises(
        fxgrow.FxgrowError, match=r"^before it grew again, it is Unknown now and was Linear .* \(at 2\)"
    ):
        fxgrow.save(again, tmp_path / "grown.safetensors")


class Unknown(nn.Module):
    """A head of the user's own class, which no file names."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x)
        return out


@pytest.mark.slow
@pytest.mark.parametrize("form", ("module", "graph"))
def test_a_file_keeps_heads_that_were_put_in_between_growths(form: str, tmp_path: Any) -> None:
    """Transfer, grow, transfer and grow, with files in between: each loads from its name alone."""
    file = tmp_path / "grown.safetensors"
    grown: Any = fxgrow.grow(lively(timm.create_model("test_resnet")).float(), 1.5, verify=False, form=form)
    grown.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(grown.fc.in_features, 7))
    for how in ({"width": 1.5}, {"depth": "+1", "classes": "+2"}):
        grown = fxgrow.grow(grown, form=form, example_inputs=IMAGES.float(), **how)
        assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
        fxgrow.save(grown, file, base="timm/test_resnet")
        loaded: Any = fxgrow.load(file)
        assert torch.equal(loaded.eval()(IMAGES.float()), grown.eval()(IMAGES.float()))
        assert str(loaded) == str(grown)
        assert fxgrow.births(loaded) == fxgrow.births(grown)
        assert fxgrow.report(loaded) == fxgrow.report(grown)
        grown = loaded
        if form == "module":
            grown.reset_classifier(4, global_pool="max")
        else:
            grown.fc = nn.Linear(
                grown.fc.in_features if hasattr(grown.fc, "in_features") else grown.fc[1].in_features, 4
            )
    fxgrow.save(grown, file, base="timm/test_resnet")
    assert torch.equal(fxgrow.load(file)(IMAGES.float()), grown(IMAGES.float()))


def test_a_file_keeps_attributes_and_modes_of_parts_with_parameters(tmp_path: Any) -> None:
    """None of them shows in a name or in a size, and without them the loaded model computes something else."""
    grown: Any = fxgrow.grow(lively(timm.create_model("test_vit")).float(), 1.5, verify=False).eval()
    plain = grown(VIT_IMAGES)
    grown.global_pool, grown.norm.eps = "avg", 0.1
    grown.patch_embed.proj.stride = (8, 8)
    grown.set_grad_checkpointing()
    grown.train()
    grown.blocks[0].eval()
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_vit")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors")
    modes = [[part.training for part in model.modules()] for model in (loaded, grown)]
    assert modes[0] == modes[1] and len(set(modes[0])) == 2
    assert loaded.grad_checkpointing and loaded.patch_embed.proj.stride == (8, 8)
    loaded.patch_embed.proj.stride = grown.patch_embed.proj.stride = (16, 16)
    assert torch.equal(loaded.eval()(VIT_IMAGES), grown.eval()(VIT_IMAGES))
    assert not torch.equal(grown(VIT_IMAGES), plain)


VIT_IMAGES = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(2))


def test_what_was_edited_by_hand_and_no_file_can_say_is_refused(tmp_path: Any) -> None:
    class Acting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.act = nn.Linear(6, 8), nn.Linear(8, 3), torch.relu

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(self.act(self.enter(x)))
            return out

    grown: Any = fxgrow.grow(Acting(), 2, example_inputs=ROWS)
    grown.act = nn.functional.gelu
    with pytest.raises(fxgrow.FxgrowError, match=r"^act is .*gelu.* now and was .*relu when the model grew"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")
    grown = fxgrow.grow(bare_model(), {"0": 2}, example_inputs=ROWS, form="graph")
    next(node for node in grown.graph.nodes if node.target == "1").target = "3.1"
    grown.recompile()
    with pytest.raises(fxgrow.FxgrowError, match=r"^the graph both is [0-9a-f]+ now and was"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")
    mixed: Any = fxgrow.grow(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)),
        {"0": 2},
        example_inputs=IMAGES.float(),
    )
    mixed[1] = nn.GroupNorm(4, 16)  # parameters of the same names and sizes
    fxgrow.save(mixed, tmp_path / "grown.safetensors")
    original = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", original)(IMAGES.float()), mixed(IMAGES.float()))


@pytest.mark.parametrize("name", few(NAMES[:4], "test_efficientnet"))
def test_attributes_that_other_methods_read_follow(name: str) -> None:
    options = {"img_size": 96} if "vit" in name else {}
    model = timm_model(name, **options)
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=IMAGES, verify=False).eval()
    features = grown.forward_features(IMAGES)
    assert grown.num_features in features.shape
    assert grown.num_features == 3 * model.num_features // 2
    grown.reset_classifier(5)
    assert grown.double()(IMAGES).shape == (2, 5)
    for info in grown.feature_info:
        assert info["num_chs"] != next(i for i in model.feature_info if i["module"] == info["module"])["num_chs"]


def test_multipliers_are_layers_and_can_be_folded() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = normal(4, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x, parameterization="variance-transfer")
    assert isinstance(grown[2], nn.Linear)
    assert "multiplied by" in str(grown)
    again = pickle.loads(pickle.dumps(fxgrow.grow(grown, 2, example_inputs=x)))
    folded = fxgrow.fold(grown)
    assert type(folded[2]) is nn.Linear
    for other in (grown, again, folded):
        torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-10)
    assert str(fxgrow.certify(folded, model).verdict) == "PROVED"


class Scaled(nn.Linear):
    """A layer of a user's own, which calls the function."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias) * 1.5


class TwoWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.one, self.two = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        return self.leave(nn.functional.linear(h, self.one).tanh() + nn.functional.linear(h, weight=self.two).relu())


@pytest.mark.parametrize("form", ["a layer", "two weights of one factor"])
def test_calls_of_a_forward_are_multiplied_and_can_be_folded(form: str) -> None:
    layers = nn.Linear(6, 8), nn.ReLU(), Scaled(8, 8), nn.ReLU(), nn.Linear(8, 3)
    model: nn.Module = (nn.Sequential(*layers) if form == "a layer" else TwoWeights()).double()
    x = normal(4, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x, parameterization="variance-transfer")
    again = fxgrow.grow(grown, 1.5, example_inputs=x, parameterization="variance-transfer")
    folded = fxgrow.fold(again)
    assert str(again).count("multiply of linear") == (1 if form == "a layer" else 2)
    assert "mult" not in str(folded)
    assert str(fxgrow.certify(folded, model).verdict) == "PROVED"
    for other in (grown, again, folded):
        assert isinstance(other, type(model))
        torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-10)


def test_sizes_that_a_forward_compares_with_attributes_follow() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels = 8
            self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.enter(x).relu()
            assert h.shape[1] == self.channels
            return self.leave(h)

    model = Checked().double()
    x = normal(2, 3, 4, 4)
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=x)
    assert type(grown) is Checked
    assert grown.channels == 12
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


def test_what_comes_out_of_a_layer_stays_though_as_much_went_in() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels = self.out_channels = 8
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Layer())
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 3, 4, 4))
    for layer in (grown[2], grown[2].conv):
        assert (layer.in_channels, layer.out_channels) == (16, 8)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


class Chosen(nn.Module):
    """A block that chose its forward when it was built."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        self.forward = self.forward_mixed

    def forward_mixed(self, x: Tensor) -> Tensor:
        return x + self.mix(x.relu())


def test_a_new_block_runs_its_own_forward_where_blocks_choose_it() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(Chosen(), Chosen()), nn.Linear(8, 3)).double()
    x = normal(4, 6)
    grown = fxgrow.grow(model, depth=2, example_inputs=x)
    assert fxgrow.report(grown).plan.form == "module"
    assert all(block.forward.__self__ is block for block in grown.modules() if isinstance(block, Chosen))
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


class Getter(nn.Sequential):
    """Blocks of which some are given on, by their names."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.returned = {"1": "low", "2": "high"}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for name, block in self.named_children():
            x = block(x)
            if name in self.returned:
                features[self.returned[name]] = x
        return features


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.low, self.high = Getter(nn.Linear(6, 8), Block(), Block()), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return self.low(features["low"]), self.high(features["high"])


def test_names_of_blocks_that_are_given_on_follow() -> None:
    model, x = Reader().double(), normal(4, 6)
    grown = fxgrow.grow(model, 1.5, depth=2, example_inputs=x)
    assert type(grown) is Reader
    assert grown.backbone.returned == {"2": "low", "4": "high"}
    assert model.backbone.returned == {"1": "low", "2": "high"}
    for output, expected in zip(grown(x), model(x), strict=True):
        torch.testing.assert_close(output, expected, rtol=EXACT, atol=EXACT)


def test_a_width_that_is_inside_a_part_follows() -> None:
    """The features before the last layer of a head, which neither go into it nor come out of it."""
    model = timm_model("test_mambaout")
    grown = fxgrow.grow(model, 1.5, example_inputs=IMAGES)
    grown.reset_classifier(5)
    assert grown.double()(IMAGES).shape == (2, 5)
    assert grown.head_hidden_size == grown.head.fc.in_features


def test_numbers_that_a_function_kept_whole_is_given_follow() -> None:
    """torchvision's window attention is one node; the number of heads that it is given comes from an attribute."""
    torch.manual_seed(0)
    settings = {"patch_size": [4, 4], "embed_dim": 12, "depths": [2], "num_heads": [3], "window_size": [4, 4]}
    model = lively(torchvision.models.SwinTransformer(**settings, num_classes=5)).eval()  # type: ignore[arg-type]
    x = normal(2, 3, 32, 32)
    grown = fxgrow.grow(model, 1.7, example_inputs=x)
    assert type(grown) is type(model)
    assert grown.get_submodule("features.1.0.attn").num_heads == 5
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


@pytest.mark.slow
def test_sizes_that_a_layer_compares_are_those_of_the_last_new_block() -> None:
    """A DPN concatenates what each block makes, and the norm behind them asserts how much that is."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"k_sec": (1, 3, 1, 1), "inc_sec": (4, 4, 4, 4), "k_r": 8, "num_init_features": 8}
    model = lively(timm.models.dpn.DPN(groups=2, small=True, num_classes=3, **sizes)).double().eval()
    grown: Any = fxgrow.grow(model, 1.5, depth=1.5, example_inputs=normal(2, 3, 64, 64))
    assert type(grown) is type(model)
    norms = [part for part in grown.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [len(norm.weight) for norm in norms]
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


class ByThree(nn.Module):
    """Numbers of its own in the forward, and another course for three samples and more."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu().view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
        return self.leave(h if len(x) < 3 else h.tanh())


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_numbers_are_tried_on_more_samples_where_the_graph_takes_them(form: str) -> None:
    model = ByThree().double()
    grown = fxgrow.grow(model, 1.5, example_inputs=normal(2, 6), form=form)
    torch.testing.assert_close(grown(normal(2, 6)), model(normal(2, 6)), rtol=EXACT, atol=EXACT)
    if type(grown) is not ByThree and isinstance(grown, fx.GraphModule):
        with pytest.raises(fxgrow.FxgrowError, match="another course"):
            grown(normal(3, 6))
    else:
        torch.testing.assert_close(grown(normal(3, 6)), model(normal(3, 6)), rtol=EXACT, atol=EXACT)


def bare_model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Sequential(nn.Linear(8, 3), nn.Softmax(1)))


ROWS = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


PUT_IN = [
    *(("1", nn.GELU("tanh")), ("1", nn.LeakyReLU(0.3)), ("3.1", nn.Identity()), ("3", nn.Flatten(0))),
    ("2", nn.Tanh()),
]


@pytest.mark.parametrize(("case", "form"), in_turn(PUT_IN, ("module", "graph")), ids=str)
def test_a_file_keeps_parts_without_parameters_put_in_by_hand(
    case: tuple[str, nn.Module], form: str, tmp_path: Any
) -> None:
    path, part = case
    model = bare_model()
    grown = fxgrow.grow(model, {"0": 2}, example_inputs=ROWS, form=form).eval()
    plain = grown(ROWS)
    owner, _, name = path.rpartition(".")
    setattr(grown.get_submodule(owner), name, part.eval())
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    if (form, path) != ("graph", "3"):  # a graph calls no container
        assert not torch.equal(grown(ROWS), plain)
        assert torch.equal(loaded(ROWS), grown(ROWS))
    assert str(loaded) == str(grown)
    fxgrow.save(loaded, tmp_path / "again.safetensors")
    assert str(fxgrow.load(tmp_path / "again.safetensors", model)) == str(grown)


def test_a_file_keeps_another_slope_and_another_probability(tmp_path: Any) -> None:
    model = bare_model()
    model[1] = nn.LeakyReLU(0.1)
    grown: Any = fxgrow.grow(model, {"0": 2}, example_inputs=ROWS).eval()
    grown[1].negative_slope, grown[2].p = 0.5, 0.7
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert torch.equal(loaded(ROWS), grown(ROWS))
    assert loaded[2].p == 0.7


class Cubed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x**3


def test_parts_without_parameters_that_no_file_can_name_are_refused(tmp_path: Any) -> None:
    model = bare_model()
    for path, part, said in (
        ("1", Cubed(), "it is Cubed now and was ReLU when the model grew.* torch.nn .*at 1"),
        ("1", nn.Sequential(Cubed()), "it is a Cubed inside what was put in by hand.*at 1.0"),
        ("3", nn.Sequential(nn.Linear(16, 3), Cubed()), "it is Cubed now and was Softmax when the model grew.*at 3.1"),
    ):
        grown: Any = fxgrow.grow(model, {"0": 2}, example_inputs=ROWS)
        grown[int(path)] = part
        with pytest.raises(fxgrow.FxgrowError, match=f"^{said}"):
            fxgrow.save(grown, tmp_path / "grown.safetensors")
        assert not (tmp_path / "grown.safetensors").exists()
    grown = fxgrow.grow(model, {"0": 2}, example_inputs=ROWS)
    grown[1] = nn.GELU()
    again: Any = fxgrow.grow(grown, {"0": 1.5}).eval()
    fxgrow.save(again, tmp_path / "grown.safetensors")
    assert torch.equal(fxgrow.load(tmp_path / "grown.safetensors", model)(ROWS), again(ROWS))
    grown[1] = Cubed()
    again = fxgrow.grow(grown, {"0": 1.5})
    with pytest.raises(fxgrow.FxgrowError, match=r"^before it grew again, it is Cubed now and was ReLU.*\(at 1\)"):
        fxgrow.save(again, tmp_path / "grown.safetensors")


class Branches(nn.Module):
    """Two branches of their own widths, which a list holds and a method reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = [8, 12]
        self.enter = nn.ModuleList(nn.Linear(6, size) for size in self.embed_dim)
        self.reset(3)

    def reset(self, classes: int) -> None:
        self.head = nn.ModuleList(nn.Linear(size, classes) for size in self.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(enter(x).relu()) for enter, head in zip(self.enter, self.head, strict=True)]).mean(0)


def test_lists_of_widths_follow_entry_by_entry() -> None:
    model = Branches()
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 6))
    assert (grown.embed_dim, model.embed_dim) == ([12, 18], [8, 12])
    grown.reset(5)
    assert grown(torch.randn(2, 6)).shape == (2, 5)


class Split(nn.Module):
    """Halves of what comes in, by an attribute, through layers whose own width is as many."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 8
        self.paths = nn.ModuleList(nn.Linear(4, 8) for _ in range(2))
        self.leave = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.in_channels // 2, 1)
        return self.leave(sum(path(part) for path, part in zip(self.paths, parts, strict=True)).relu())  # type: ignore[union-attr]


def test_what_goes_into_a_part_stays_though_its_layers_grow() -> None:
    model = nn.Sequential(Split(), nn.Tanh(), Split()).double()
    grown = fxgrow.grow(model, {"*.leave": 1, "*": 2}, example_inputs=normal(3, 8))
    assert grown[2].in_channels == 8 and grown[2].paths[0].out_features == 16
    torch.testing.assert_close(grown(normal(3, 8)), model(normal(3, 8)), rtol=EXACT, atol=EXACT)


def test_blocks_can_be_fused_into_one_convolution_after_growth() -> None:
    """timm's blocks of several branches read sizes from attributes when they become one convolution."""
    model = timm_model("fastvit_t8")
    grown = fxgrow.grow(model, 1.5, verify=False).eval()
    fused = reparameterize_model(grown)(IMAGES)
    torch.testing.assert_close(fused, model(IMAGES), rtol=1e-10, atol=1e-12)


class OneHead(nn.Module):
    """Torch's attention with one head, whose scale stays that of the units it had."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(h + self.attend(h, h, h, need_weights=False)[0])  # type: ignore[no-any-return]


def test_one_head_keeps_its_scale_wherever_it_goes(tmp_path: Path) -> None:
    model, x = lively(OneHead()).double(), normal(2, 5, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, OneHead) and grown.attend.head_dim == 32
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    again = fxgrow.grow(grown, 1.5, example_inputs=x)
    assert isinstance(again, OneHead) and again.attend.head_dim == 48
    for other in (grown, loaded, again, pickle.loads(pickle.dumps(grown)), copy.deepcopy(again)):
        torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-12)


class Attending(nn.Module):
    """Torch's own layers of transformers, and attention over tokens of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.across = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.across(self.encode(self.enter(x)), x, x)[0])  # type: ignore[no-any-return]


def test_attention_of_torch_multiplies_what_its_rescaled_weights_read(tmp_path: Path) -> None:
    model, x = lively(Attending()).double(), normal(2, 5, 6)
    how: Any = {"parameterization": "variance-transfer", "init": "mirror", "example_inputs": x}
    grown = fxgrow.grow(model, 1.5, **how)
    assert isinstance(grown, Attending)
    assert grown.encode.self_attn.in_proj_factor == pytest.approx(1.5**0.5)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    again = fxgrow.grow(grown, 1.5, **how)
    folded = fxgrow.fold(again)
    assert isinstance(again, Attending) and isinstance(folded, Attending)
    assert not any(name.endswith("_factor") for part in folded.modules() for name in vars(part))
    for other in (grown, loaded, again, folded, pickle.loads(pickle.dumps(again))):
        torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-12)
    for other in (again, folded):
        assert str(fxgrow.certify(other, model).verdict) == "PROVED"


class Transformed(nn.Module):
    """As PointNet's transforms: tables made of literals are viewed before and between the calls that growth changes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.last = nn.Linear(6, 8), nn.Linear(8, 9), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.eye(3, dtype=torch.float64).view(1, 9)
        h = self.enter(x).view(-1, 5, 8).amax(1)
        table = table.view(1, 9).repeat(len(x), 1)
        self.seen = h.view(-1).shape  # which nothing reads
        h = (self.leave(h.view(-1, 8)) + table).view(-1, 3, 3)
        return self.last(self.enter(x).view(-1, 8)).view(-1, 5, 3) @ h  # type: ignore[no-any-return]


def test_calls_on_literals_do_not_shift_the_calls_that_are_others() -> None:
    model, x = lively(nn.Sequential(Transformed(), nn.Identity())).double(), normal(2, 5, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x, form="module")
    assert grown[0].enter.out_features == 16
    torch.testing.assert_close(grown(x), model(x), rtol=1e-10, atol=1e-12)


class Segments(nn.Module):
    """einops' layers, which say their own state, and are made anew from it."""

    def __init__(self) -> None:
        super().__init__()
        self.apart = einops_layers.Rearrange("b n (s c) -> b s (n c)", s=4)
        self.enter, self.mix, self.leave = nn.Linear(6, 8), nn.Linear(10, 10), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.mix(self.apart(self.enter(x)))).flatten(1))  # type: ignore[no-any-return]


def test_layers_that_say_their_own_state_are_copied_and_pickled() -> None:
    model, x = lively(Segments()).double(), normal(2, 5, 6)
    grown = fxgrow.grow(model, 2, example_inputs=x, form="module")
    for other in (grown, copy.deepcopy(grown), pickle.loads(pickle.dumps(grown))):
        torch.testing.assert_close(other(x), model(x), rtol=1e-10, atol=1e-12)
        assert str(other.apart) == str(grown.apart)


class NormedAndReshaped(nn.Module):
    """A norm and a shape whose sizes its forward has as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(self.enter(x).sigmoid(), (8,), self.weight, self.bias)
        return self.leave(h.reshape(-1, 2, 4).flatten(1))


def test_numbers_of_a_call_that_is_guarded_besides() -> None:
    model, x = lively(NormedAndReshaped()).double(), normal(4, 6)
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    assert isinstance(grown, NormedAndReshaped) and grown.enter.out_features == 12
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


class AroundMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).sigmoid()
        return self.leave(h - h.mean(1, keepdim=True))


def test_calls_in_a_graph_inside_are_changed_in_a_graph_which_copies_keep() -> None:
    model, x = nn.Sequential(torch.fx.symbolic_trace(lively(AroundMean()).double())), normal(4, 6)
    plan = fxgrow.plan(model, 1.5, example_inputs=x)
    assert plan.obstacle is not None
    assert plan.obstacle.what == "AroundMean is a graph, whose forward is generated: it cannot make this call another"
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    for each in (grown, copy.deepcopy(grown), pickle.loads(pickle.dumps(grown))):
        torch.testing.assert_close(each(x), model(x), rtol=EXACT, atol=EXACT)
