"""Configs from which classes build models: they follow growth, and what is built from them is the grown model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from tests.capture.assembled import EXACT, normal
from tests.models import lively

transformers: Any = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IMAGES = {"image_size": 32, "patch_size": 8}
CATS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
PIXELS = {"pixel_values": normal(2, 3, 32, 32)}


def made(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return lively(kind(kind.config_class(**settings))).double().eval()


def assert_reads_back(grown: Any, folder: Path, inputs: dict[str, torch.Tensor]) -> Any:
    """Written and read without fxgrow, a model computes the same to the bit."""
    grown.save_pretrained(folder)
    read = type(grown).from_pretrained(folder, dtype=torch.float64).eval()
    assert type(read) is type(grown)
    with torch.no_grad():
        torch.testing.assert_close(read(**inputs)[0], grown(**inputs)[0], rtol=EXACT, atol=EXACT)
    return read


def test_the_config_of_a_grown_vit_builds_it(tmp_path: Path) -> None:
    model = made("ViTForImageClassification", **SIZES, **IMAGES, **CATS)
    settings = model.config.to_dict()
    grown: Any = fxgrow.grow(model, 1.5, 2, example_inputs=PIXELS, classes="+2")
    assert model.config.to_dict() == settings
    (config,) = fxgrow.report(grown).plan.configs
    assert {entry.attribute: (entry.built_with, entry.value) for entry in config.entries} == {
        "hidden_size": (32, 48),
        "num_hidden_layers": (2, 4),
        "num_attention_heads": (4, 6),
        "intermediate_size": (64, 96),
        "layer_norm_eps": (1e-12, pytest.approx(1e-12 * 32 / 48)),
        "num_labels": (3, 5),
    }
    assert config.like is not None and (config.like.settings, config.like.parts) == ((), ())
    assert grown.config.id2label == {0: "cat", 1: "dog", 2: "owl", 3: "LABEL_3", 4: "LABEL_4"}
    assert grown.config.label2id == {"cat": 0, "dog": 1, "owl": 2, "LABEL_3": 3, "LABEL_4": 4}
    assert grown.config is grown.vit.config
    assert grown.vit.layers[3].attention.num_attention_heads == grown.num_labels + 1 == 6
    assert_reads_back(grown, tmp_path, PIXELS)
    assert fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json()) == fxgrow.report(grown).plan
    assert "hidden_size 32 → 48" in str(fxgrow.report(grown).plan)


@pytest.mark.slow
def test_growth_on_growth_and_files(tmp_path: Path) -> None:
    model = made("ViTForImageClassification", **SIZES, **IMAGES, num_labels=3)
    grown: Any = fxgrow.grow(fxgrow.grow(model, depth=2, example_inputs=PIXELS), 2, example_inputs=PIXELS)
    assert (grown.config.hidden_size, grown.config.num_hidden_layers) == (64, 4)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded: Any = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert loaded.config.to_dict() == grown.config.to_dict()
    assert_reads_back(grown, tmp_path / "native", PIXELS)


def test_lists_of_stages_follow_and_norms_over_old_units_are_told() -> None:
    sizes = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
    grown: Any = fxgrow.grow(
        made("ConvNextForImageClassification", **sizes),
        *(1.5, 2),
        example_inputs={"pixel_values": normal(2, 3, 32, 32)},
        verify=False,
    )
    assert grown.config.hidden_sizes == [12, 24, 48, 96]
    assert grown.config.depths == [2, 2, 4, 2]
    (config,) = fxgrow.report(grown).plan.configs
    assert config.like is not None and config.like.settings == ()
    assert {plain for _, _, plain in config.like.parts} >= {"ConvNextLayerNorm"}


def test_what_no_config_says_is_told() -> None:
    model = made("ViTForImageClassification", **SIZES, **IMAGES)
    grown: Any = fxgrow.grow(model, {"vit.layers.0.mlp.fc1": 2}, example_inputs=PIXELS, verify=False)
    (config,) = fxgrow.report(grown).plan.configs
    assert config.like is None and config.entries == () and grown.config.to_dict() == model.config.to_dict()
    assert "intermediate_size would be" in config.obstacle and "128 at vit.layers.0.mlp" in config.obstacle
    assert "would be another: it is [128" in str(fxgrow.plan(model, {"vit.layers.0.mlp.fc1": 2}, example_inputs=PIXELS))


@pytest.mark.slow
def test_a_mask_token_that_the_forward_does_not_read_follows(tmp_path: Path) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
    model = made("Dinov2ForImageClassification", **sizes, **IMAGES)
    grown: Any = fxgrow.grow(model, 2, example_inputs=PIXELS)
    (config,) = fxgrow.report(grown).plan.configs
    assert config.like is not None and grown.config.hidden_size == 64
    token = grown.dinov2.embeddings.mask_token
    torch.testing.assert_close(token[:, :32], model.dinov2.embeddings.mask_token, rtol=0, atol=0)
    grown.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(read.dinov2.embeddings.mask_token, token, rtol=0, atol=0)


def test_configs_inside_configs_and_inside_other_models(tmp_path: Path) -> None:
    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.head = nn.Linear(32, 3).double()

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(pixel_values=pixel_values).last_hidden_state.mean(1))  # type: ignore[no-any-return]

    inner = made("CLIPVisionModel", **SIZES, **IMAGES)
    grown: Any = fxgrow.grow(Around(inner).double().eval(), 2, 2, example_inputs=PIXELS, verify=False)
    (config,) = fxgrow.report(grown).plan.configs
    assert config.module == "inner"
    assert grown.inner.config.hidden_size == grown.head.in_features == 64
    assert grown.inner.config.num_hidden_layers == 4


def test_a_config_that_was_not_kept_to_is_left() -> None:
    """What the user changed after building stays as it is."""
    model = made("ViTForImageClassification", **SIZES, **IMAGES)
    model.classifier = nn.Linear(32, 9).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=PIXELS, verify=False)
    assert grown.config.hidden_size == 64 and grown.config.num_labels == 2
    (config,) = fxgrow.report(grown).plan.configs
    assert "[9" in config.obstacle
