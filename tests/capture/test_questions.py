"""Courses that a forward takes by what it asks of its input besides sizes: other answers are looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError

X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TURNED = X.permute(2, 1, 0).contiguous().permute(2, 1, 0)
BYTES = torch.randint(0, 9, (2, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Asking(nn.Module):
    """Takes another course by a question about its input, perhaps with a mean over its units."""

    def __init__(self, asks: Callable[[Tensor], bool], mixing: bool) -> None:
        super().__init__()
        self.enter, self.leave, self.asks, self.mixing = nn.Linear(6, 8), nn.Linear(8, 3), asks, mixing

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.double())
        if self.asks(x):
            return self.leave(h.relu())  # type: ignore[no-any-return]
        return self.leave(h - h.mean(-1, keepdim=True) if self.mixing else h.tanh())  # type: ignore[no-any-return]


ASKED = [
    (lambda x: x.dim() == 3, X[0], "x.ndim is 2"),
    (lambda x: x.ndim < 4, X[None], "x.ndim is 4"),
    (lambda x: x.is_contiguous(), TURNED, "x.is_contiguous is False"),
    (lambda x: x.stride(-1) == 1, TURNED, "x.is_contiguous is False"),
    (lambda x: x.dtype != torch.uint8, BYTES, "x.dtype is torch.uint8"),
    (lambda x: x.is_floating_point(), BYTES.long(), "x.dtype is torch.int64"),
    (lambda x: x.shape[1] % 2 == 0, X[:, :3], "% 2 are 0"),
    (lambda x: not (x.shape[1] - 1) // 4, X.repeat(1, 2, 1), "- 1 // 4 are other than 0"),
]


@pytest.mark.parametrize(("asks", "other", "said"), ASKED)
def test_a_course_by_another_answer_is_refused_by_name(
    asks: Callable[[Tensor], bool], other: Tensor, said: str
) -> None:
    torch.manual_seed(0)
    model = Asking(asks, mixing=True).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    with pytest.raises(SettledError, match=said.replace("(", "\\(")):
        grown(other)


@pytest.mark.parametrize(("asks", "other", "said"), ASKED)
def test_a_course_that_the_growth_serves_is_proved(asks: Callable[[Tensor], bool], other: Tensor, said: str) -> None:
    torch.manual_seed(0)
    model = Asking(asks, mixing=False).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert type(grown) is Asking
    assert torch.allclose(grown(other), model(other), rtol=0, atol=1e-12)
    certificate = fxgrow.report(grown).certificate
    assert certificate.verdict.name == "PROVED" and "each course is proved" in certificate.expanded()
    assert fxgrow.certify(grown, model).verdict.name == "PROVED"


def test_a_course_by_gradients_of_the_input_is_tested_or_refused() -> None:
    torch.manual_seed(0)
    needing = X.clone().requires_grad_()
    model = Asking(lambda x: not x.requires_grad, mixing=False).double()
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    assert torch.allclose(grown(needing), model(needing), rtol=0, atol=1e-12)
    assert fxgrow.report(grown).certificate.verdict.name == "TESTED"
    grown = fxgrow.grow(Asking(lambda x: not x.requires_grad, mixing=True).double(), width=2, example_inputs=X)
    with pytest.raises(SettledError, match=r"x.requires_grad is True"):
        grown(needing)


class OneFrame(nn.Module):
    """Takes an image as a video of one frame, whose axis lies behind the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv3d(2, 6, 1), nn.Conv3d(6, 3, 1)

    def forward(self, video: Tensor) -> Tensor:
        if video.ndim == 4:
            video = video.unsqueeze(2)
        return self.leave(self.enter(video).relu())  # type: ignore[no-any-return]


def test_an_axis_may_be_missing_anywhere() -> None:
    torch.manual_seed(0)
    model, video = OneFrame().double(), torch.randn(2, 2, 3, 5, 5, dtype=torch.float64)
    graph = fxgrow.grow(model, width=2, example_inputs=video, form="graph")
    assert torch.allclose(graph(video), model(video), rtol=0, atol=1e-12)
    with pytest.raises(SettledError, match=r"video.ndim is 4"):
        graph(video[:, :, 0])
    grown = fxgrow.grow(model, width=2, example_inputs=video)
    assert type(grown) is OneFrame
    assert torch.allclose(grown(video[:, :, 0]), model(video[:, :, 0]), rtol=0, atol=1e-12)
