"""Models without a head, whose output is a stream that grows: read out where timm's own methods end."""

from __future__ import annotations

import pytest
import timm
import torch

import fxgrow
from tests.pairing import few


@pytest.mark.parametrize("name", few(("test_resnet", "test_vit"), "test_resnet"))
def test_the_head_gives_what_the_forward_does(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    grown = fxgrow.grow(model, 1.5).eval()
    assert isinstance(grown, type(model))
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(grown.forward_head(grown.forward_features(x)), grown(x))
        torch.testing.assert_close(grown(x), model(x), rtol=1e-4, atol=1e-5)
    grown.reset_classifier(7)
    assert grown(x).shape == (2, 7)
