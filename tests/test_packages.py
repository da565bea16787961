"""Models of other packages, as they are: grown in their own class, and proved. Skipped where a package is not there."""

from __future__ import annotations

import pytest
from torch import nn

import fxgrow
from benchmarks.packages import grown, models

NAMES = ["transformers/ViT", "transformers/Bert", "transformers/Swinv2", "vit_pytorch/cvt.CvT", "vit_pytorch/vit.ViT"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_other_packages(name: str) -> None:
    pytest.importorskip(name.partition("/")[0])
    build, inputs = next((build, inputs) for known, build, inputs in models() if known == name)
    model, result = grown(build, inputs)
    assert isinstance(result, type(model))
    assert str(fxgrow.report(result).certificate.verdict) == "PROVED"


def test_einops_follows_the_input_and_grows() -> None:
    einops = pytest.importorskip("einops")
    layers = pytest.importorskip("einops.layers.torch")
    import torch

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
            self.back = layers.Rearrange("n k t d -> n t (k d)")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.leave(self.back(einops.rearrange(self.enter(x), "n t (k d) -> n k t d", k=2).relu()))

    model = Mixed().double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    result = fxgrow.grow(model, 2, example_inputs=x)
    assert str(fxgrow.report(result).certificate.verdict) == "PROVED"
    longer = torch.randn(3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(result(longer), model(longer), rtol=1e-10, atol=1e-10)
