"""Functions that are others put together, beside torch's own on the samples of torch's database of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import fxgrow
from fxgrow.capture.composites import COMPOSITES, index_put_, multi_dot, new_full, pad_sequence, prelu, to
from fxgrow.modules.containers import flat_tensors
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error
from tests.database import torchs_operators

NOT_IN_THE_DATABASE = (
    "chain_matmul",
    "index_put_",
    "new_full",
    "normal",
    "pad_sequence",
    "prelu",
    "to",
    "type_as",
    "__setitem__",
)


def spelled(name: str) -> Callable[..., Any]:
    return next(way for function, way in COMPOSITES.items() if function.__name__ in (name, f"linalg_{name}"))


NAMES = sorted({function.__name__.removeprefix("linalg_") for function in COMPOSITES} - {*NOT_IN_THE_DATABASE})


@pytest.mark.parametrize("name", NAMES)
def test_a_composite_computes_what_torch_does(name: str) -> None:
    info = next(info for info in torchs_operators() if info.name in (name, f"linalg.{name}"))
    compared = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=False):
        wanted = info.op(sample.input, *sample.args, **sample.kwargs)
        put_together = spelled(name)(sample.input, *sample.args, **sample.kwargs)
        if put_together is NotImplemented:
            continue
        pairs = zip(flat_tensors(put_together), flat_tensors(wanted), strict=True)
        for ours, torchs in pairs:
            torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12, equal_nan=True)
        compared += 1
    assert compared


@pytest.mark.parametrize(
    "arguments", [(0.5, 2.0, (3, 4)), (torch.arange(3.0), 2.0), (0.5, torch.arange(3.0)), (torch.arange(3.0),) * 2]
)
def test_normal_draws_what_torch_does(arguments: Any) -> None:
    torch.manual_seed(0)
    drawn = torch.normal(*arguments)
    torch.manual_seed(0)
    torch.testing.assert_close(spelled("normal")(*arguments), drawn, rtol=1e-6, atol=1e-6)
    assert spelled("normal")(torch.zeros(2), torch.ones(3, 1)) is NotImplemented


def test_a_latent_drawn_by_normal_grows() -> None:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            h = self.enter(x).relu()
            return self.leave(h + torch.normal(0.0, 1.0, (h.shape[0], 1), dtype=h.dtype))

    model = Latent().double()
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(4, 6).double())
    assert isinstance(grown, Latent) and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert fxgrow.report(grown).plan.groups[0].new == 16


def test_those_that_it_does_not_have() -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    rows = torch.tensor([1, 0])
    torch.testing.assert_close(index_put_(x.clone(), (rows,), x), torch.index_put(x, (rows,), x))
    assert index_put_(x, (rows,), x, accumulate=True) is NotImplemented
    filled = new_full(x, (2, 1), torch.tensor(3))
    torch.testing.assert_close(filled, x.new_full((2, 1), 3))
    assert new_full(x, (2, 1), 3.0) is NotImplemented
    assert to(x, torch.float32) is NotImplemented and to(x, x.float()).dtype == torch.float32
    torch.testing.assert_close(multi_dot(x, x.T, x), torch.linalg.multi_dot([x, x.T, x]))
    for shape in ((2, 3), (2, 3, 4), (3,), ()):
        y = torch.randn(shape, dtype=torch.float64)
        for slopes in (torch.tensor(0.2), torch.tensor([0.2]), torch.tensor([0.2, 0.5, -1.0])):
            if slopes.numel() == 1 or y.dim() > 1:
                torch.testing.assert_close(prelu(y, slopes.double()), torch.prelu(y, slopes.double()))


def test_rows_of_several_lengths_are_padded() -> None:
    rows = [torch.randn(length, 3) for length in (2, 4, 1)]
    for arguments in ((), (True, 0.5), (True, 2.0, "left")):
        torch.testing.assert_close(pad_sequence(rows, *arguments), rnn.pad_sequence(rows, *arguments))


class Composed(nn.Module):
    """Composites as functions and as methods, between layers that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.slopes = nn.Parameter(torch.full((6,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.prelu(self.enter(x).mT, self.slopes).mT
        h, weights = torch.broadcast_tensors(h, h[:1].exp())
        h = torch.addcdiv(h, h, weights).fliplr() + torch.hstack(h.hsplit(5))
        h = h.select_scatter(h[:, 0], 1, 1).index_put((torch.tensor([0]),), h[1])
        return self.leave(h[torch.atleast_1d(x[..., 0, 0] * 0 == 0)])


def test_models_grow_through_them() -> None:
    torch.manual_seed(0)
    model, inputs = Composed().double(), torch.randn(3, 5, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=inputs)
    assert grown.enter.out_features == 12
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert all(worst_error(model, grown, (inputs,), training) <= 1e-10 for training in (False, True))


class Differenced(nn.Module):
    """What is put together of shifted parts, over rows and not over units."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.edges = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.special.gammaln(self.enter(x).abs() + 1) + torch.special.softmax(self.enter(x), 0)
        (slopes,) = torch.gradient(h, spacing=0.5, dim=0)
        turned = torch.linalg.cross(h[:3], slopes[:3], dim=0) + torch.trapezoid(h, dx=0.1, dim=0)
        return self.leave(turned * torch.bucketize(h[:3], self.edges))  # type: ignore[no-any-return]


def test_models_grow_through_what_is_taken_over_other_axes() -> None:
    torch.manual_seed(0)
    model, inputs = Differenced().double(), torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=inputs)
    assert type(grown) is Differenced
    assert grown.enter.out_features == 12
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert worst_error(model, grown, (inputs,), training=True) <= 1e-10


class Anchored(nn.Module):
    """Scales by a stride of each level, filled in from a tensor (the heads of YOLO)."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.first, self.second, self.box = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 5, 1)
        strides = torch.tensor([4.0, 8.0])
        if registered:
            self.register_buffer("strides", strides)
        else:
            self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.first(x).relu()]
        levels.append(self.second(levels[0]).relu())
        boxes, scales = [], []
        for level, stride in zip(levels, self.strides, strict=True):
            height, width = level.shape[2:]
            boxes.append(self.box(level).flatten(2))
            scales.append(level.new_full((height * width, 1), stride))
        return torch.cat(boxes, 2) * torch.cat(scales).transpose(0, 1)


@pytest.mark.parametrize("registered", [False, True])
def test_a_tensor_filled_with_another_is_recorded(registered: bool) -> None:
    model, x = Anchored(registered).double(), torch.randn(2, 3, 16, 16).double()
    grown = fxgrow.grow(model, width=2, example_inputs=x)
    assert type(grown) is Anchored and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert worst_error(model, grown, (x,), training=True) <= 1e-12
