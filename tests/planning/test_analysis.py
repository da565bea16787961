"""What is inferred of whole models: which dimensions are one, and why others stay."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.axes.layout import leaves, resolve
from fxgrow.capture import capture
from fxgrow.planning.analysis import analyse
from tests.models import Decoder, Encoder


def layouts(model: nn.Module, inputs: Any = None) -> dict[str, str]:
    """The layout of each parameter's axes, free dimensions named in order of appearance."""
    captured = capture(model, inputs)
    analysis = analyse(captured.model, captured.graphs)
    names: dict[Any, str] = {}

    def text(layout: Any) -> str:
        return " ".join("." if leaf.fixed else names.setdefault(leaf, chr(97 + len(names))) for leaf in leaves(layout))

    return {
        name: ", ".join(text(resolve(axis)) for axis in tensor.axes) for name, tensor in analysis.parameters.items()
    }


def test_a_residual_stream_is_one_dimension() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.one = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
            self.two, self.leave = nn.Conv2d(6, 8, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            x = x + self.two(torch.relu(self.one(x)))
            return self.leave(x.mean((2, 3)))

    by_name = layouts(Residual(), torch.randn(1, 3, 4, 4))
    assert by_name["enter.weight"] == "a, ., ., ."
    assert by_name["one.weight"] == "b, a, ., ."
    assert by_name["two.weight"] == "a, b, ., ."
    assert by_name["leave.weight"] == "., a"


def test_heads_of_attention_are_a_factor_of_the_projections() -> None:
    by_name = layouts(Encoder(), torch.randn(2, 7, 6))
    assert by_name["embed.weight"] == "a, ."
    # the heads b of queries, keys and values; their widths c (queries meet keys) and d; what reads heads x d
    assert by_name["encoder.layers.0.self_attn.in_proj_weight"] == "b c b c b d, a"
    assert by_name["encoder.layers.0.self_attn.out_proj.weight"] == "a, b d"


def test_tied_weights_have_one_layout() -> None:
    by_name = layouts(Decoder(), torch.zeros(1, 12, dtype=torch.long))
    assert ("head.weight" in by_name) != ("embed.weight" in by_name)


def test_concatenated_branches_are_joined_in_what_reads_them() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.leave = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.cat([self.one(x), self.two(x), x], -1))

    by_name = layouts(Branches(), torch.randn(1, 3))
    assert by_name["leave.weight"] == "., a b ."
    assert (by_name["one.weight"], by_name["two.weight"]) == ("a, .", "b, .")


def test_depthwise_and_pointwise_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    by_name = layouts(model, torch.randn(1, 3, 6, 6))
    assert by_name["1.weight"].split(", ")[0] == by_name["0.weight"].split(", ")[0] == "a"
    assert by_name["2.weight"] == "b, a, ., ."


def test_the_time_it_takes_grows_with_the_number_of_nodes_only() -> None:
    """Leaves are looked at a number of times that is linear in the layers."""

    def looked_at(depth: int) -> int:
        layers = [part for _ in range(depth) for part in (nn.Linear(8, 8), nn.ReLU())]
        captured = capture(nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 2)), torch.randn(1, 3))
        calls = 0

        def counted(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        import sys

        sys.setprofile(counted)
        try:
            analyse(captured.model, captured.graphs)
        finally:
            sys.setprofile(None)
        return calls

    assert looked_at(80) < 2.2 * looked_at(40)


def test_every_dimension_that_stays_has_a_reason() -> None:
    for name in ("test_resnet", "test_efficientnet"):
        plan = fxgrow.plan(timm.create_model(name), 2)
        assert all(staying.reason and staying.where for staying in plan.held)


def test_a_sum_with_a_buffer_stays_as_long_as_it_is() -> None:
    class LookedUp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)
            self.table = nn.Parameter(torch.randn(8, 5))
            self.register_buffer("lookup", torch.eye(5)[[0, 2, 4, 4]])

        def forward(self, x: Tensor) -> Tensor:  # x: [batch, 4, 3]
            return self.leave(self.enter(x) + torch.einsum("dw,xw->xd", self.table, self.lookup))

    by_name = layouts(LookedUp(), torch.randn(1, 4, 3))
    assert by_name["table"] == "a, .", "new rows that a buffer looks up could never be read"
    assert by_name["lookup"] == "., ."


def test_a_dimension_that_a_mask_of_truth_values_has_stays_with_the_reason() -> None:
    class Pruned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
            self.register_buffer("mask", torch.arange(16) % 3 > 0)

        def forward(self, x: Tensor) -> Any:
            return self.leave((self.enter(x) * self.mask).relu())

    (held,) = fxgrow.plan(Pruned(), 2, example_inputs=torch.randn(3, 8)).held
    assert (held.size, held.reason) == (16, "growth has no new entries for a tensor of bool (at mask)")


def test_cuts_that_count_from_the_end() -> None:
    class Gated(nn.Module):
        def __init__(self, cut: Any) -> None:
            super().__init__()
            self.enter, self.leave, self.cut, self.units = nn.Linear(6, 16), nn.Linear(8, 2), cut, 8

        def forward(self, x: Tensor) -> Any:
            a, b = self.cut(self, self.enter(x))
            return self.leave(a * b.sigmoid())

    x = torch.randn(3, 6).double()
    for cut in (
        lambda self, h: (h[:, :8], h[:, -8:]),
        lambda self, h: (h[..., : -self.units], h[..., -self.units :]),
        lambda self, h: (h[:, -16:-8], h[:, -(h.shape[1] // 2) :]),
    ):
        model = Gated(cut).double()
        for form in ("module", "graph"):
            grown: Any = fxgrow.grow(model, 2, example_inputs=x, form=form)
            assert grown.leave.in_features == 16 and str(fxgrow.report(grown).certificate.verdict) == "PROVED"
            torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)
    model = Gated(lambda self, h: (h[:, -9:-1], h[:, -24:-8])).double()
    assert fxgrow.plan(model, 2, example_inputs=x).ratio == 1


class Chain(nn.Module):
    """Adds to its input again and again, more often than Python lets calls be nested."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(1100):
            x = x + x.relu()
        return self.head(x)  # type: ignore[no-any-return]


def test_chains_of_sums_may_be_long() -> None:
    plan = fxgrow.plan(Chain().to("meta"), width=2, form="graph", example_inputs=torch.randn(1, 2))
    assert plan.totals.parameters_after == 2 * 4 + 4 + 2 * 4 + 2
