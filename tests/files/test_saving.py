"""Saving and loading: bit-identical, without pickle, and clear about every damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import fx, nn

import fxgrow
from fxgrow.errors import FileError
from tests.models import PLAIN, Decoder, TwoInputs, lively, perceptron
from tests.pairing import few, in_turn

ROW = torch.randn(2, 5)


def assert_identical(loaded: nn.Module, grown: nn.Module) -> None:
    actual, expected = loaded.state_dict(), grown.state_dict()
    assert list(actual) == list(expected)
    assert all(actual[name].dtype == expected[name].dtype for name in actual)
    assert all(torch.equal(actual[name], expected[name]) for name in actual)
    assert loaded.training == grown.training
    assert fxgrow.births(loaded) == fxgrow.births(grown)
    assert fxgrow.report(loaded) == fxgrow.report(grown)
    flags = [{n: p.requires_grad for n, p in model.named_parameters()} for model in (loaded, grown)]
    assert flags[0] == flags[1]


SAVED = ("perceptron", "unet", "cross-attention", "channel-convolution")


@pytest.mark.parametrize("name", few(PLAIN, *SAVED))
def test_a_loaded_model_is_the_saved_one(name: str, tmp_path: Path) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    grown = fxgrow.grow(model, 1.5, example_inputs=inputs, init="mirror").eval()
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", lively(make(), seed=3))
    assert_identical(loaded, grown)
    again = [fxgrow.grow(network, 2, seed=5).state_dict() for network in (loaded, grown)]
    assert all(torch.equal(again[0][key], again[1][key]) for key in again[1])


def test_two_growths_flags_and_low_precision_survive(tmp_path: Path) -> None:
    model = lively(TwoInputs()).to(torch.bfloat16)
    model.get_parameter("joint.bias").requires_grad_(False)
    inputs = tuple(t.to(torch.bfloat16) for t in PLAIN["two-inputs"][1])
    once = fxgrow.grow(model, 1.5, example_inputs=inputs)
    grown = fxgrow.grow(once, {"joint": "+4"}, init="replicate")
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert_identical(loaded, grown)
    assert {birth for counts in fxgrow.births(loaded).values() for birth in counts.counts()} == {0, 1, 2}


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    grown = fxgrow.grow(lively(Decoder()), 2, example_inputs=torch.zeros(1, 12, dtype=torch.long))
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    with safe_open(tmp_path / "grown.safetensors", "pt") as file:
        assert len({"head.weight", "embed.weight"} & set(file.keys())) == 1
    loaded = fxgrow.load(tmp_path / "grown.safetensors", Decoder())
    assert loaded.get_submodule("head").weight is loaded.get_submodule("embed").weight


def test_the_original_comes_from_the_catalogue_where_the_file_names_it(tmp_path: Path) -> None:
    grown = fxgrow.grow(timm.create_model("test_resnet"), 1.5)
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_resnet")
    loaded = fxgrow.load(tmp_path / "grown.safetensors")
    assert_identical(loaded, grown)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(loaded.eval()(x), grown.eval()(x))


def test_the_model_given_to_load_is_not_touched(tmp_path: Path) -> None:
    model = lively(perceptron())
    fxgrow.save(fxgrow.grow(model, 2, example_inputs=ROW), tmp_path / "grown.safetensors")
    original = lively(perceptron(), seed=9)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    fxgrow.load(tmp_path / "grown.safetensors", original)
    assert all(torch.equal(before[name], tensor) for name, tensor in original.state_dict().items())


def test_weights_that_are_not_contiguous(tmp_path: Path) -> None:
    grown = fxgrow.grow(lively(perceptron()), 2, example_inputs=ROW)
    weight = grown.get_parameter("0.weight")
    weight.data = weight.data.t().contiguous().t()
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert_identical(fxgrow.load(tmp_path / "grown.safetensors", perceptron()), grown)


# -- what cannot be saved ----------------------------------------------------------------------------------


class Spectral(nn.Module):
    """Mixes frequencies by complex weights, as Fourier neural operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)
        self.mix = nn.Parameter(torch.randn(8, 8, 3, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frequencies = torch.fft.rfft(self.enter(x), dim=1)
        mixed = torch.einsum("bki,iok->bko", frequencies, self.mix)
        return self.leave(torch.fft.irfft(mixed, n=x.shape[1], dim=1).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Spectral().to(dtype.to_real())
    model.mix.data = model.mix.data.to(dtype)
    x = torch.randn(2, 4, 3, dtype=dtype.to_real())
    grown = fxgrow.grow(model, 2, example_inputs=x)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert loaded.get_parameter("mix").dtype is dtype and loaded.get_parameter("mix").shape == (16, 16, 3)
    assert torch.equal(loaded(x), grown(x))


def test_only_grown_models_with_data_are_saved(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        fxgrow.save(perceptron(), tmp_path / "x")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "Sequential was not grown by fxgrow: save what fxgrow.grow returned, or use torch.save"
    )
    with pytest.raises(FileError, match=r"wrapped in DataParallel: pass model\.module"):
        fxgrow.save(nn.DataParallel(fxgrow.grow(perceptron(), 2, example_inputs=ROW)), tmp_path / "x")
    with torch.device("meta"):
        grown = fxgrow.grow(perceptron(), 2, example_inputs=ROW)
    with pytest.raises(FileError) as caught:
        fxgrow.save(grown, tmp_path / "x")
    assert str(caught.value) == "the model is on the meta device and holds no data: grow a model with weights"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["missing/x", ""])
def test_places_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    grown = fxgrow.grow(perceptron(), 2, example_inputs=ROW)
    with pytest.raises(FileError) as caught:
        fxgrow.save(grown, tmp_path / place)
    texts = {
        "missing/x": f"the folder does not exist (at {tmp_path / 'missing'}): make it first",
        "": f"there is a folder of that name (at {tmp_path}): give the file a name",
    }
    assert str(caught.value) == texts[place]


# -- what cannot be loaded ---------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "grown.safetensors"
    fxgrow.save(fxgrow.grow(lively(perceptron()), 2, example_inputs=ROW), path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The file with its header and tensors changed."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["fxgrow"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, metadata={"fxgrow": json.dumps(header)})
    return path


def refusal(path: Path, model: nn.Module | None) -> str:
    with pytest.raises(FileError) as caught:
        fxgrow.load(path, model)
    return str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no", perceptron()) == f"there is no such file (at {tmp_path / 'no'}): check the path"
    assert refusal(tmp_path, perceptron()) == (
        f"the folder holds 0 files that could be meant (at {tmp_path}): pass a safetensors file, or the index of shards"
    )


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file(length: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    assert refusal(saved, perceptron()).startswith("the file is not readable as safetensors: ")


def test_a_file_of_something_else(saved: Path) -> None:
    saved.write_bytes(bytes(range(256)) * 8)
    assert refusal(saved, perceptron()).startswith("the file is not readable as safetensors: ")
    save_file({"x": torch.ones(1)}, saved)
    assert refusal(saved, perceptron()) == (
        f"the file holds tensors but no fxgrow metadata (at {saved}): pass a file that fxgrow.save wrote"
    )
    save_file({"x": torch.ones(1)}, saved, metadata={"fxgrow": "{"})
    assert refusal(saved, perceptron()).startswith("the metadata is damaged: ")


def test_another_format(saved: Path) -> None:
    rewritten(saved, lambda header, tensors: header.update(format=99))
    assert refusal(saved, perceptron()) == (
        f"the file is of another format (at {saved}): this fxgrow {fxgrow.__version__} reads format 1"
    )


@pytest.mark.parametrize(
    ("field", "damage"), in_turn(("steps", "births", "tied", "frozen", "training"), ("nonsense", "missing"))
)
def test_damaged_metadata(field: str, damage: str, saved: Path) -> None:
    def spoil(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        if damage == "missing":
            del header[field]
        else:
            header[field] = 7 if field != "training" else None

    rewritten(saved, spoil)
    if (field, damage) == ("training", "nonsense"):
        assert fxgrow.load(saved, perceptron()).training is False
    else:
        assert refusal(saved, perceptron()).startswith("the metadata is damaged: ")


def test_a_damaged_plan(saved: Path) -> None:
    def spoil(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        header["steps"][0]["plan"]["tensors"][0]["axes"] = "none"

    rewritten(saved, spoil)
    assert refusal(saved, perceptron()).startswith("the metadata is damaged: the text is not a plan")


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 8), nn.Sigmoid(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Conv2d(5, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)),
        nn.Identity(),
    ],
    ids=["wider", "fewer layers", "convolutions", "nothing"],
)
def test_a_file_of_another_model(model: nn.Module, saved: Path) -> None:
    assert refusal(saved, model).startswith("the file belongs to another model: ")


def test_tensors_that_are_missing_or_of_another_shape(saved: Path) -> None:
    content = saved.read_bytes()
    rewritten(saved, lambda header, tensors: tensors.pop("0.bias"))
    assert refusal(saved, perceptron()) == (
        "the file and the model do not have the same tensors (missing ['0.bias'], unexpected []) "
        f"(at {saved}): pass the model it was grown from"
    )
    saved.write_bytes(content)
    rewritten(saved, lambda header, tensors: tensors.update({"0.bias": torch.zeros(3)}))
    assert refusal(saved, perceptron()) == (
        f"0.bias has shape [3] in the file and [16] in the model (at {saved}): pass the model it was grown from"
    )


def test_a_file_never_names_code_to_run(saved: Path) -> None:
    assert refusal(saved, None) == (
        f"the file does not say where its original (Sequential) comes from (at {saved}): "
        "pass the original model as the second argument"
    )
    rewritten(saved, lambda header, tensors: header.update(base="os:getcwd"))
    assert refusal(saved, None) == (
        "the file names 'os:getcwd' as its original, which is not a model of timm or torchvision "
        f"(at {saved}): pass the original model as the second argument"
    )


@pytest.mark.parametrize(("form", "kind"), [("auto", nn.Sequential), ("graph", fx.GraphModule)])
def test_what_load_returns_has_the_form_that_was_saved(form: str, kind: type, tmp_path: Path) -> None:
    fxgrow.save(
        fxgrow.grow(perceptron(), 2, example_inputs=torch.empty(1, 5), form=form), tmp_path / "grown.safetensors"
    )
    assert isinstance(fxgrow.load(tmp_path / "grown.safetensors", perceptron()), kind)


def test_arguments_of_the_constructor_are_kept(tmp_path: Path) -> None:
    options = {"num_classes": 10, "img_size": (64, 96), "global_pool": "avg", "qkv_bias": False, "depth": 2}
    model = lively(timm.create_model("test_vit", **options)).float()
    grown = fxgrow.grow(model, 1.5, 1.5, verify=False).eval()
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_vit", base_kwargs=options)
    loaded = fxgrow.load(tmp_path / "grown.safetensors").eval()
    images = torch.randn(2, 3, 64, 96)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(images), grown(images))
    again = fxgrow.grow(loaded, 4 / 3, verify=False)  # what grew twice still says what it was at first
    fxgrow.save(again, tmp_path / "again.safetensors", base="timm/test_vit", base_kwargs=options)
    assert fxgrow.births(fxgrow.load(tmp_path / "again.safetensors")) == fxgrow.births(again)


@pytest.mark.parametrize(
    ("base", "options", "text"),
    [
        ("timm/test_resnet", None, "fc.weight was [10, 96] in the original and is [1000, 96] there"),
        ("timm/test_resnet", {"num_classes": 10, "nonsense": 3}, "it cannot be built with these arguments"),
        ("timm/test_vit", {"num_classes": 10}, "conv1.0.weight was"),
        ("timm/test_resnet", {"act_layer": torch.nn.GELU}, "no data that a file can keep"),
        ("timm/test_resnet", {"num_classes": 10, "pretrained": True}, "leave it out"),
        (None, {"num_classes": 10}, 'pass base="timm/NAME" as well'),
        ("nothing", {}, "base='nothing' names no model: pass a name of the catalogue"),
        (3, {}, "base=3 names no model: pass a name of the catalogue"),
    ],
)
def test_a_file_that_could_not_be_read_is_not_written(tmp_path: Path, base: Any, options: Any, text: str) -> None:
    grown = fxgrow.grow(timm.create_model("test_resnet", num_classes=10), 1.5, verify=False)
    with pytest.raises(FileError) as raised:
        fxgrow.save(grown, tmp_path / "grown.safetensors", base=base, base_kwargs=options)
    assert text in str(raised.value)
    assert not list(tmp_path.iterdir())


class Placed(nn.Module):
    """Positions of one size, which are interpolated for images of any other."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 2)
        self.positions = nn.Parameter(torch.randn(1, 6, 2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches, positions = self.enter(x), self.positions
        if patches.shape[-2:] != positions.shape[-2:]:
            positions = nn.functional.interpolate(positions, size=patches.shape[-2:], mode="bilinear")
        return self.leave(torch.tanh(patches + positions).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_model_that_takes_another_course_on_another_size(tmp_path: Path) -> None:
    model = lively(Placed())
    grown = fxgrow.grow(fxgrow.grow(model, 2, example_inputs=torch.randn(2, 3, 8, 8)), 1.5)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert_identical(loaded, grown)
    for side in (8, 16):
        x = torch.randn(2, 3, side, side).double()
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-10, atol=0)


def doubled(module: nn.Module, given: Any, result: torch.Tensor) -> torch.Tensor:
    return 2 * result


def raised(module: nn.Module, given: Any) -> Any:
    return (given[0] + 1,)


def looking(module: nn.Module, given: Any, result: torch.Tensor) -> None:
    module.__dict__["seen"] = tuple(result.shape)


def with_hooks(*, computing: bool, looking_on: bool = True) -> nn.Module:
    model = perceptron()
    if computing:
        model[0].register_forward_hook(doubled)
        model[2].register_forward_pre_hook(raised)
    if looking_on:
        model[1].register_forward_hook(looking)
    return model


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.filterwarnings("ignore:the grown model is a graph")
def test_a_file_loads_only_into_a_model_with_the_hooks_that_compute(form: str, tmp_path: Path) -> None:
    grown = fxgrow.grow(with_hooks(computing=True), 2, example_inputs=ROW, form=form)
    assert fxgrow.report(grown).plan.hooks == (("0", "doubled"), ("2", "raised"))
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    with pytest.raises(FileError, match=r"the hook doubled, which computes something, is missing \(at 0\): put it on"):
        fxgrow.load(tmp_path / "grown.safetensors", with_hooks(computing=False))
    loaded = fxgrow.load(tmp_path / "grown.safetensors", with_hooks(computing=True, looking_on=False))
    assert torch.equal(loaded(ROW), grown(ROW))


def test_hooks_around_the_whole_and_hooks_taken_off_are_named(tmp_path: Path) -> None:
    model = with_hooks(computing=True)
    model.register_forward_hook(doubled)
    grown = fxgrow.grow(model, 2, example_inputs=ROW)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    with pytest.warns(UserWarning, match="Sequential has no hook doubled around the whole"):
        fxgrow.load(tmp_path / "grown.safetensors", with_hooks(computing=True))
    grown.get_submodule("0")._forward_hooks.clear()
    with pytest.warns(UserWarning, match="does not keep that the hook doubled of 0 is gone"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")


def test_a_head_changed_before_growth_is_no_reason_to_look_for_arguments_only(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet")
    model.fc = nn.Linear(model.fc.in_features, 7)
    grown = fxgrow.grow(model, 1.5, verify=False)
    message = r"fc\.weight was \[7, 96\] in the original .* changed by hand before it grew, leave base= out and pass"
    with pytest.raises(FileError, match=message):
        fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_resnet")
