"""Files keep what was done to a grown model by hand: other input sizes, other pooling, blocks that were deleted."""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FileError
from tests.models import lively
from tests.pairing import few, slow


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


def trip(grown: nn.Module, file: Path, base: str | None, model: nn.Module | None, x: Tensor) -> Any:
    """The model as its file gives it, with the same tensors, parts, births and outputs; twice over."""
    loaded: Any = grown
    for _ in range(2):
        fxgrow.save(loaded, file, base=base)
        loaded = fxgrow.load(file, model)
        assert str(loaded) == str(grown)
        state = loaded.state_dict()
        assert state.keys() == grown.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in grown.state_dict().items())
        assert torch.equal(loaded.eval()(x), grown.eval()(x))
        assert fxgrow.births(loaded) == fxgrow.births(grown)
    return loaded


def to_size(model: Any) -> None:
    model.set_input_size(img_size=96)


def to_patches(model: Any) -> None:
    model.set_input_size(patch_size=8)


def fewer_blocks(model: Any) -> None:
    del model.blocks[5:]


def one_block_less(model: Any) -> None:
    del model.blocks[1]


def pruned(model: Any) -> None:
    model.prune_intermediate_layers([2], prune_norm=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "side"),
    [(to_size, 96), (to_patches, 160), (fewer_blocks, 160), (one_block_less, 160), (pruned, 160)],
)
def test_a_vit_of_another_size_or_of_fewer_blocks(change: Callable[[Any], None], side: int, tmp_path: Path) -> None:
    model = lively(timm.create_model("test_vit")).float()
    grown = fxgrow.grow(model, width=1.5, depth="+2", verify=False)
    change(grown)
    trip(grown, tmp_path / "grown.safetensors", "timm/test_vit", None, images(side))


@pytest.mark.parametrize("sizes", [slow({"img_size": 64}), {"img_size": 64, "window_size": 8}])
def test_windows_of_another_size_have_other_tables_and_masks(sizes: dict[str, int], tmp_path: Path) -> None:
    options: Any = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "img_size": 32, "window_size": 4}
    model = lively(timm.create_model("swin_tiny_patch4_window7_224", **options)).float()
    grown: Any = fxgrow.grow(model, 1.5, verify=False)
    grown.set_input_size(**sizes)
    trip(grown, tmp_path / "grown.safetensors", None, model, images(64))


@pytest.mark.parametrize("pool", few(("catavgmax", "avgmax", "max"), "catavgmax"))
def test_heads_with_other_poolings_of_timms(pool: str, tmp_path: Path) -> None:
    grown: Any = fxgrow.grow(lively(timm.create_model("test_resnet")).float(), 1.5, verify=False)
    grown.reset_classifier(5, global_pool=pool)
    trip(grown, tmp_path / "grown.safetensors", "timm/test_resnet", None, images(64))


def test_what_was_done_between_two_growths(tmp_path: Path) -> None:
    grown: Any = fxgrow.grow(lively(timm.create_model("test_vit")).float(), depth="+2", verify=False)
    grown.set_input_size(img_size=96)
    del grown.blocks[5:]
    again = fxgrow.grow(grown, 1.5, example_inputs=images(96), verify=False)
    trip(again, tmp_path / "grown.safetensors", "timm/test_vit", None, images(96))


ORDERS = {
    "names": lambda size: OrderedDict(
        norm=nn.LayerNorm(size), fc=nn.Linear(size, 9), act=nn.GELU(), out=nn.Linear(9, 3)
    ),
    "more than ten": lambda size: OrderedDict(
        (str(place), nn.Tanh() if place % 2 else nn.Linear(size, size)) for place in range(13)
    ),
}


@pytest.mark.parametrize("layers", ORDERS.values(), ids=ORDERS)
def test_the_layers_of_a_new_head_keep_their_order(layers: Any, tmp_path: Path) -> None:
    model, rows = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4)
    grown = fxgrow.grow(model, 2, example_inputs=rows)
    grown[2] = nn.Sequential(layers(12))
    trip(grown, tmp_path / "grown.safetensors", None, model, rows)


def test_layers_that_change_places_keep_the_new_ones(tmp_path: Path) -> None:
    def build() -> Any:
        layers = nn.Sequential(OrderedDict(act=nn.ReLU(), norm=nn.LayerNorm(6, elementwise_affine=False)))
        return nn.Sequential(nn.Linear(4, 6), layers, nn.Linear(6, 2))

    rows = torch.randn(3, 4)
    grown = fxgrow.grow(build(), 2, example_inputs=rows)
    act = grown[1].act
    del grown[1].act
    grown[1].act = act
    trip(grown, tmp_path / "grown.safetensors", None, build(), rows)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.enter(x).relu())
        out = out if self.scale is None else out * self.scale
        return out if self.shift is None else out + self.shift


def test_tensors_of_another_shape_and_tensors_taken_out(tmp_path: Path) -> None:
    model, rows = Scaled(), torch.randn(3, 4)
    grown: Any = fxgrow.grow(model, 2, example_inputs=rows)
    grown.scale, grown.shift = nn.Parameter(torch.full((1,), 3.0)), torch.full((1, 2), 2.0)
    trip(grown, tmp_path / "grown.safetensors", None, model, rows)
    grown.scale, grown.shift = None, None
    trip(grown, tmp_path / "grown.safetensors", None, model, rows)
    grown.leave.bias = nn.Parameter(torch.ones(1))  # a shape that no argument of its class gives
    trip(grown, tmp_path / "grown.safetensors", None, model, rows)
    grown.other = nn.Parameter(torch.ones(3))
    with pytest.raises(FileError, match="other was not there when the model grew"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")


def test_what_a_file_could_not_build_again_is_refused_when_it_is_written(tmp_path: Path) -> None:
    grown: Any = fxgrow.grow(Scaled(), 2, example_inputs=torch.randn(3, 4))
    grown.enter.register_buffer("center", torch.zeros(4))
    with pytest.raises(FileError, match=r"enter.center was not there when the model grew.* \(at enter\)"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")


def test_a_layer_whose_weight_norm_was_taken_off_since_growth_comes_back_as_it_is(tmp_path: Path) -> None:
    def normed() -> nn.Module:
        model = Scaled()
        nn.utils.parametrizations.weight_norm(model.enter)
        return model

    grown: Any = fxgrow.grow(normed(), 2, example_inputs=torch.randn(3, 4))
    nn.utils.parametrize.remove_parametrizations(grown.enter, "weight")
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors", normed())  # torch has broken the class of the first
    assert type(loaded.enter) is nn.Linear and loaded.enter.out_features == 12
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in grown.state_dict().items())
    assert fxgrow.births(loaded) == fxgrow.births(grown)


def test_what_was_changed_before_growth_comes_back_where_the_file_names_the_original(tmp_path: Path) -> None:
    """The file names a model of the catalogue, and what grew was that with another epsilon."""
    model: Any = lively(timm.create_model("test_resnet")).float()
    model.bn1.eps = 0.5
    grown = fxgrow.grow(model, 1.5, verify=False)
    loaded = trip(grown, tmp_path / "grown.safetensors", "timm/test_resnet", None, images(64))
    assert loaded.bn1.eps == 0.5
    model = timm.create_model("test_resnet")
    model.layer1[0].act2 = nn.GELU()
    grown = fxgrow.grow(model, 1.5, verify=False)
    with pytest.raises(FileError, match=r"was GELU when it grew .*at layer1.0.act2.*leave base= out"):
        fxgrow.save(grown, tmp_path / "other.safetensors", base="timm/test_resnet")
    fxgrow.save(grown, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match=r"was GELU when it grew and is ReLU in .* \(at layer1.0.act2\)"):
        fxgrow.load(tmp_path / "other.safetensors", timm.create_model("test_resnet"))
    fxgrow.load(tmp_path / "other.safetensors", model)


class Counting(nn.Linear):
    """Keeps a number in its state dict that is no tensor and no attribute of plain data."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.seen: Any = {"calls": [0]}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def test_extra_state_is_kept_or_refused(tmp_path: Path) -> None:
    model = nn.Sequential(Counting(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].seen = {"calls": [7, (8, None)], 3: b"\x00\xff", "peak": torch.arange(3, dtype=torch.float64)}
    grown: Any = fxgrow.grow(model, 2, example_inputs=torch.randn(2, 4))
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    original = nn.Sequential(Counting(4, 6), nn.ReLU(), nn.Linear(6, 2))
    seen: Any = fxgrow.load(tmp_path / "grown.safetensors", original)[0].seen  # type: ignore[index]
    torch.testing.assert_close(seen.pop("peak"), torch.arange(3, dtype=torch.float64), rtol=0, atol=0)
    assert seen == {"calls": [7, (8, None)], 3: b"\x00\xff"}
    grown[0].seen = {"calls": {8}}
    with pytest.raises(FileError, match=r"^its extra state is no data .* holds a set.* \(at 0\)"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")


def test_births_go_with_blocks_that_move_up_as_one_before_them_is_deleted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model("test_vit", img_size=96))
    grown: Any = fxgrow.grow(model, depth={"blocks": "+2"}, verify=False)

    def born(vit: Any) -> list[int]:
        births = fxgrow.births(vit)
        return [births[f"blocks.{place}.attn.qkv.weight"].axes[0][0] for place in range(len(vit.blocks))]

    whole = born(grown)
    assert set(whole) == {0, 1}
    del grown.blocks[1]
    left = [*whole[:1], *whole[2:]]
    assert born(grown) == left
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    assert born(fxgrow.load(tmp_path / "grown.safetensors", model)) == left
    assert born(fxgrow.grow(grown, {"blocks.*.mlp.fc1": 1.5}, verify=False)) == left


class Told(nn.Module):
    """A layer whose forward decides by a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 2)
        self.options = {"slope": 1.0, "of": [1, 2], "pair": (3, 4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.enter(x).relu()) * self.options["slope"]


def test_a_dictionary_changed_since_growth_is_kept(tmp_path: Path) -> None:
    grown = fxgrow.grow(Told(), 2, example_inputs=torch.empty(1, 5), verify=False)
    grown.options["slope"] = 3.0
    grown.options["of"].append(5)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors", Told())
    assert loaded.options == {"slope": 3.0, "of": [1, 2, 5], "pair": (3, 4)}
    x = torch.randn(3, 5)
    assert torch.equal(loaded(x), grown(x))


def test_hooks_and_forwards_that_no_file_keeps_are_named(tmp_path: Path) -> None:
    model = Told()
    model.leave.register_forward_hook(lambda module, given, result: None)
    grown = fxgrow.grow(model, 2, example_inputs=torch.empty(1, 5), verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fxgrow.save(grown, tmp_path / "grown.safetensors")
    grown.enter.register_forward_pre_hook(print)
    grown.leave.forward = functools.partial(torch.nn.functional.linear, weight=grown.leave.weight)
    with pytest.warns(UserWarning, match=r"the hook print of enter, the forward linear of leave"):
        fxgrow.save(grown, tmp_path / "grown.safetensors")


def test_arguments_that_change_no_size_are_missed_when_the_file_is_written(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", act_layer="relu")
    grown = fxgrow.grow(model, 1.5, verify=False)
    with pytest.raises(FileError, match=r"was ReLU when it grew and is GELU .*base_kwargs"):
        fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_vit")
    fxgrow.save(grown, tmp_path / "grown.safetensors", base="timm/test_vit", base_kwargs={"act_layer": "relu"})
    assert type(fxgrow.load(tmp_path / "grown.safetensors").blocks[0].mlp.act) is nn.ReLU
