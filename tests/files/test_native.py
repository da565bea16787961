"""Grown models in folders that timm loads by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files.exporting import Target
from fxgrow.files.native import _changes, _grew
from tests.models import lively
from tests.pairing import slow

WITHOUT_FXGROW = """
import sys, timm, torch
sys.modules["fxgrow"] = None
for line in sys.stdin:
    folder, images, outputs = line.rstrip().split("\\t")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.save(model(torch.load(images)), outputs)
    print("done", flush=True)
"""
"""A process that cannot import fxgrow; it starts once, and reads what to load from its input."""


@pytest.fixture(scope="module")
def stranger() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_FXGROW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def written(grown: nn.Module, folder: Path, base: str, like: str | None = None, **arguments: Any) -> dict[str, Any]:
    return Target.of(f"{folder}/").write(grown, base, arguments, like)


def loaded_without_fxgrow(stranger: subprocess.Popen[str], folder: Path, images: torch.Tensor) -> torch.Tensor:
    """What the model in a folder makes of images where there is no fxgrow."""
    images_file, outputs_file = folder.parent / "images.pt", folder.parent / "outputs.pt"
    torch.save(images, images_file)
    assert stranger.stdin is not None and stranger.stdout is not None
    print(folder, images_file, outputs_file, sep="\t", file=stranger.stdin, flush=True)
    assert stranger.stdout.readline() == "done\n"
    return torch.load(outputs_file)


@pytest.mark.parametrize(
    ("name", "growth", "arguments"),
    [
        slow(
            "test_resnet", {"depth": {"layer1": "+1"}, "classes": "+3"}, {"num_classes": 1003, "layers": [2, 1, 1, 1]}
        ),
        ("test_resnet", {"width": {"layer3": 2.0}}, {"channels": [32, 48, 96, 96]}),
        ("test_resnet", {"width": 1.5, "form": "graph"}, {"channels": [48, 72, 72, 144], "stem_width": 24}),
        slow("test_vit", {"depth": "+1", "in_chans": 4}, {"depth": 7, "in_chans": 4}),
    ],
)
def test_the_constructor_s_arguments_are_found(
    name: str, growth: dict[str, Any], arguments: dict[str, Any], tmp_path: Path, stranger: subprocess.Popen[str]
) -> None:
    model = lively(timm.create_model(name)).float()
    grown = fxgrow.grow(model, verify=False, **growth).eval()
    outcome = written(grown, tmp_path / "grown", f"timm/{name}")
    assert (
        outcome["native"]
        and outcome["files"] == ["model.safetensors", "config.json", "README.md"]
        and outcome["note"] == ""
    )
    assert outcome["model_args"] == arguments
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["architecture"] == name
    assert {key: config["model_args"][key] for key in arguments} == arguments
    images = torch.randn(2, arguments.get("in_chans", 3), 160, 160)
    outputs = loaded_without_fxgrow(stranger, tmp_path / "grown", images)
    torch.testing.assert_close(outputs, grown(images), rtol=1e-5, atol=1e-5)
    assert fxgrow.births(fxgrow.load(tmp_path / "grown" / "model.safetensors")) == fxgrow.births(grown)


def test_arguments_of_the_original_are_kept(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    grown = fxgrow.grow(model, depth={"layer1": "+1"}, verify=False)
    outcome = written(grown, tmp_path / "grown", "timm/test_resnet", num_classes=7, in_chans=1)
    assert outcome["model_args"] == {"num_classes": 7, "in_chans": 1, "layers": [2, 1, 1, 1]}


def test_a_larger_model_of_the_library_is_named(tmp_path: Path, stranger: subprocess.Popen[str]) -> None:
    model = lively(timm.create_model("resnet18.fb_swsl_ig1b_ft_in1k")).float()
    grown = fxgrow.grow(model, like=timm.create_model("resnet34"), verify=False).eval()
    outcome = written(grown, tmp_path / "grown", "timm/resnet18.fb_swsl_ig1b_ft_in1k", "timm/resnet34")
    assert (outcome["native"], outcome["architecture"], outcome["model_args"]) == (True, "resnet34", {})
    config = json.loads((tmp_path / "grown" / "config.json").read_text())["pretrained_cfg"]
    assert config["crop_pct"] == timm.get_pretrained_cfg("resnet18.fb_swsl_ig1b_ft_in1k").crop_pct  # of the weights
    images = torch.randn(1, 3, 64, 64)
    outputs = loaded_without_fxgrow(stranger, tmp_path / "grown", images)
    torch.testing.assert_close(outputs, grown(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("base", "growth", "reason"),
    [
        slow("test_vit", {"width": 1.5}, "timm/test_vit with embed_dim=96 has its shapes and computes otherwise"),
        ("test_efficientnet", {"width": 1.5}, "no argument of timm/test_efficientnet's constructor makes conv_stem.we"),
    ],
)
def test_what_timm_cannot_build_has_its_plan_beside_it(
    base: str, growth: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "grown"
    folder.mkdir()
    for name in ("config.json", "README.md"):
        (folder / name).write_text("of a model that was there before")
    grown = fxgrow.grow(lively(timm.create_model(base)).float(), verify=False, **growth)
    outcome = written(grown, folder, f"timm/{base}")
    assert not outcome["native"] and reason in outcome["note"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors", "plan.json"]
    assert fxgrow.Plan.from_json((folder / "plan.json").read_text()) == fxgrow.report(grown).plan


def test_the_hub_gets_a_card_that_says_what_grew(tmp_path: Path) -> None:
    folder, base = tmp_path / "grown", "timm/test_resnet.r160_in1k"
    grown = fxgrow.grow(timm.create_model("test_resnet"), depth={"layer1": "+1"}, verify=False)
    card = folder / "README.md"
    written(grown, folder, base)
    _, head, text = card.read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "fxgrow"],
        "license": timm.get_pretrained_cfg("test_resnet.r160_in1k").license,
    }
    assert f"from {base}; timm builds it as test_resnet with layers=[2, 1, 1, 1]." in text
    assert f"1. {fxgrow.report(grown)}" in text
    twice = fxgrow.grow(grown, depth={"layer1": "+1"}, verify=False)
    written(twice, folder, base)
    assert "with layers=[3, 1, 1, 1]" in card.read_text() and "\n2. " in card.read_text()
    written(fxgrow.grow(twice, 1.1, verify=False), folder, base)  # which timm cannot build
    assert not card.exists()
    card.write_text("my own")
    assert "README.md" not in written(twice, folder, base)["files"]
    assert card.read_text() == "my own"


def test_a_model_that_is_none_of_timm_s(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    once = fxgrow.grow(model, 2, example_inputs=torch.empty(1, 4))
    outcome = written(fxgrow.grow(once, 2), tmp_path / "grown", "own:model")
    assert outcome["note"].startswith(
        "timm cannot build it by itself, so plan-1.json, plan-2.json is beside the weights"
    )
    assert outcome["note"].endswith("it comes from own:model, and not from timm")


def test_a_folder_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "grown" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(FileError, match="there is a folder of that name"):
        Target.of(f"{tmp_path / 'grown'}/")
    assert not Target.of(str(tmp_path / "name")).is_folder
    assert Target.of(str(tmp_path)).is_folder
    assert not (tmp_path / "name").exists()


def test_numbers_that_are_tried() -> None:
    before, after = {"a.0.w": (8, 4), "a.1.w": (8,)}, {"a.0.w": (16, 4), "a.1.w": (16,), "a.2.w": (16,)}
    assert _grew(before, after) == {8: {16}, 2: {3}}
    taken = {"width": 8, "layers": (2, 8), "flag": True, "name": "x", "other": 5, "none": None, "mixed": (8, "x")}
    assert list(_changes(taken, _grew(before, after))) == [{"width": 16}, {"layers": [3, 8]}, {"layers": [2, 16]}]


@pytest.mark.slow
def test_a_vision_transformer_of_another_depth_keeps_its_class(tmp_path: Path) -> None:
    grown = fxgrow.grow(timm.create_model("test_vit"), depth="+2", verify=False)
    written(grown, tmp_path / "grown", "timm/test_vit")
    assert isinstance(timm.create_model(f"local-dir:{tmp_path / 'grown'}", pretrained=True), VisionTransformer)
