"""The models of timm and torchvision that must grow, in float64, eval and train, every init."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from tests.checks import assert_grows
from tests.models import lively
from tests.pairing import in_turn

SMALL = {
    "timm/test_resnet": 3.2,
    "timm/test_efficientnet": 2.4,
    "timm/test_convnext": 3.2,
    "timm/test_vit": 3.2,
    "timm/mobilenetv3_small_050": 2.5,
    "torchvision/squeezenet1_1": 3.1,
    "torchvision/shufflenet_v2_x0_5": 2.0,
}
"""Quick ones: name -> least parameter ratio at width 2."""

LARGE = {
    "timm/resnet18": 3.2,
    "timm/resnet50": 3.2,
    "timm/seresnet50": 3.2,
    "timm/resnext50_32x4d": 3.2,
    "timm/mobilenetv2_100": 3.2,
    "timm/efficientnet_b0": 3.2,
    "timm/densenet121": 3.2,
    "timm/vgg11_bn": 3.2,
    "timm/convnext_atto": 3.2,
    "timm/regnety_002": 3.2,
    "timm/vit_tiny_patch16_224": 3.2,
    "timm/deit_tiny_patch16_224": 3.2,
    "timm/mixer_s32_224": 3.2,
    "timm/swin_tiny_patch4_window7_224": 3.2,
    "torchvision/resnet18": 3.2,
    "torchvision/alexnet": 3.2,
    "torchvision/vgg11": 3.2,
    "torchvision/googlenet": 3.2,
    "torchvision/mobilenet_v3_small": 3.1,
    "torchvision/vit_b_32": 3.2,
    "torchvision/swin_t": 3.2,
}


def build(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    library, _, short = name.partition("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(short) if library == "timm" else torchvision.models.get_model(short, weights=None)
    size = model.pretrained_cfg["input_size"] if library == "timm" else (3, 224, 224)
    return lively(model), (torch.randn(2, *size),)


@pytest.mark.parametrize(
    ("name", "how"), in_turn(SMALL, ((2.0, "zero"), (1.5, "mirror"), (2.0, "mirror"), (1.5, "zero")), list(SMALL)[:2])
)
def test_small_models_grow(name: str, how: tuple[float, str]) -> None:
    width, init = how
    model, inputs = build(name)
    assert_grows(model, inputs, width, init, least_ratio=SMALL[name] if width == 2.0 else 1.2)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["zero", "mirror"])
@pytest.mark.parametrize("width", [1.5, 2.0])
@pytest.mark.parametrize("name", LARGE)
def test_large_models_grow(name: str, width: float, init: str) -> None:
    model, inputs = build(name)
    assert_grows(model, inputs, width, init, least_ratio=LARGE[name] if width == 2.0 else 1.2)
