"""Smaller images for models that take them, or can be built for them."""

from __future__ import annotations

from typing import Any

import pytest
import torchvision
from fxgrow.zoo.images import bare, resize_images_to

from fxgrow.capture.inputs import takes
from tests.pairing import slow

CASES: list[tuple[str, int, dict[str, Any], int, str]] = [
    ("timm/test_resnet", 64, {}, 64, "it takes images of any size as it is"),
    ("timm/test_vit", 96, {"img_size": 96}, 96, "it is built for them"),
    ("timm/test_vit", 512, {}, 160, "it is built for smaller ones already"),
    ("torchvision/vit_b_32", 96, {"image_size": 96}, 96, "and so are those of torchvision"),
    ("timm/volo_d1_224", 64, {"img_size": 64}, 64, "it does not say for which it is built"),
    ("timm/vit_intern300m_patch14_448", 64, {"img_size": 70}, 70, "patches divide it"),
]


@pytest.mark.parametrize(
    ("name", "side", "options", "taken", "why"), [*CASES[:3], *(slow(*case) for case in CASES[3:])]
)
def test_images_of_about_a_size(name: str, side: int, options: dict[str, Any], taken: int, why: str) -> None:
    result = bare(name, side)
    assert result.options == options, why
    assert result.inputs[0][0].shape == (2, 3, taken, taken)
    assert takes(result.model, result.inputs)


def test_its_own_images_where_no_size_is_asked_for() -> None:
    assert bare("timm/test_vit").inputs[0][0].shape == (2, 3, 160, 160)


def test_detectors_bring_images_to_a_smaller_size() -> None:
    model = torchvision.models.get_model("fasterrcnn_mobilenet_v3_large_fpn", weights=None, weights_backbone=None)
    resize_images_to(model, 64)
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 128)
