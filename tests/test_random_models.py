"""Random models from a small grammar of layers, under random growth sequences, keep their outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.measure.liveness import unmoved
from tests.checks import worst_error
from tests.models import lively

# -- a grammar over images [batch, channels, height, width] and tokens [batch, tokens, width] -----------------


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Joined(nn.Module):
    """Branches concatenated along the channels."""

    def __init__(self, axis: int, *branches: nn.Module) -> None:
        super().__init__()
        self.axis = axis
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=self.axis)


class Gated(nn.Module):
    """Half of the channels, gated by the other half."""

    def __init__(self, axis: int, split: bool) -> None:
        super().__init__()
        self.axis, self.split = axis, split

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            value, gate = torch.split(x, x.shape[self.axis] // 2, dim=self.axis)
        else:
            value, gate = x.chunk(2, dim=self.axis)
        return value * torch.sigmoid(gate)


class Twice(nn.Module):
    """One module used twice."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.tanh(self.shared(x)))


class Squeeze(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Attend(nn.Module):
    """Self-attention, fused projections, heads by reshape."""

    def __init__(self, width: int, heads: int, written_out: bool, order: str) -> None:
        super().__init__()
        self.heads, self.written_out, self.order = heads, written_out, order
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        if self.order == "unbind":
            parts = self.enter(x).reshape(batch, length, 3, self.heads, width // self.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            parts = self.enter(x).chunk(3, dim=-1)
            q, k, v = (p.reshape(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        if self.written_out:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            attended = torch.softmax(scores, dim=-1) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        return self.leave(attended.transpose(1, 2).reshape(batch, length, -1))


class Scaled(nn.Module):
    """A learnt scale and shift for every channel, as LayerScale does it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class LastAxisNorm(nn.Module):
    """LayerNorm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    """Channel shuffle."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, length = x.shape
        x = x.view(batch, self.groups, width // self.groups, height, length)
        return x.transpose(1, 2).reshape(batch, width, height, length)


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.GELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Hardswish,
    nn.ELU,
]
WIDTHS = st.sampled_from([4, 6, 8, 12])


@st.composite
def image_layers(draw: Any, width: int, depth: int = 2) -> tuple[nn.Module, int]:
    """A layer on images of `width` channels, and how many channels it gives."""
    kinds = ["conv", "depthwise", "grouped", "norm", "activation", "pool", "scaled", "shuffle"]
    if depth:
        kinds += ["residual", "joined", "gated", "squeeze", "twice", "sequence"]
    kind = draw(st.sampled_from(kinds))
    if kind == "conv":
        out = draw(WIDTHS)
        return nn.Conv2d(width, out, 3, padding=1, bias=draw(st.booleans())), out
    if kind == "depthwise":
        return nn.Conv2d(width, width, 3, padding=1, groups=width), width
    if kind == "grouped":
        return nn.Conv2d(width, 2 * width, 1, groups=2), 2 * width
    if kind == "norm":
        norms: list[Callable[[], nn.Module]] = [
            lambda: nn.BatchNorm2d(width),
            lambda: nn.GroupNorm(2, width),
            lambda: nn.GroupNorm(1, width),
            lambda: nn.InstanceNorm2d(width, affine=True),
            lambda: LastAxisNorm(width),
        ]
        return draw(st.sampled_from(norms))(), width
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS))(), width
    if kind == "pool":
        return draw(st.sampled_from([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)])), width
    if kind == "scaled":
        return Scaled(width, 1, 1), width
    if kind == "shuffle":
        return Shuffled(2), width
    if kind == "squeeze":
        return Squeeze(width), width
    if kind == "twice":
        return Twice(nn.Conv2d(width, width, 1)), width
    inner, out = draw(image_layers(width, depth - 1))
    if kind == "residual":
        return Residual(nn.Sequential(inner, nn.Conv2d(out, width, 1))), width
    if kind == "joined":
        beside, more = draw(image_layers(width, depth - 1))
        return Joined(1, inner, beside), out + more
    if kind == "gated":
        return nn.Sequential(nn.Conv2d(width, 2 * width, 1), Gated(1, draw(st.booleans()))), width
    after, last = draw(image_layers(out, depth - 1))
    return nn.Sequential(inner, after), last


@st.composite
def token_layers(draw: Any, width: int, depth: int = 2) -> tuple[nn.Module, int]:
    """A layer on tokens of `width` features, and how many features it gives."""
    kinds = ["linear", "norm", "activation", "attend", "scaled"] + (
        ["residual", "gated", "joined", "sequence"] if depth else []
    )
    kind = draw(st.sampled_from(kinds))
    if kind == "linear":
        out = draw(WIDTHS)
        return nn.Linear(width, out, bias=draw(st.booleans())), out
    if kind == "norm":
        norms: list[Callable[[], nn.Module]] = [
            lambda: nn.LayerNorm(width),
            lambda: nn.LayerNorm(width, elementwise_affine=False),
            lambda: nn.RMSNorm(width),
            lambda: nn.RMSNorm(width, eps=1e-3),
        ]
        return draw(st.sampled_from(norms))(), width
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS))(), width
    if kind == "attend":
        heads = draw(st.sampled_from([h for h in (1, 2, 3, 4) if width % h == 0]))
        return Attend(width, heads, draw(st.booleans()), draw(st.sampled_from(["unbind", "chunk"]))), width
    if kind == "scaled":
        return Scaled(width), width
    if kind == "gated":
        return nn.Sequential(nn.Linear(width, 2 * width), Gated(-1, draw(st.booleans()))), width
    inner, out = draw(token_layers(width, depth - 1))
    if kind == "residual":
        return Residual(nn.Sequential(inner, nn.Linear(out, width))), width
    if kind == "joined":
        beside, more = draw(token_layers(width, depth - 1))
        return Joined(-1, inner, beside), out + more
    after, last = draw(token_layers(out, depth - 1))
    return nn.Sequential(inner, after), last


@st.composite
def models(draw: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    width = draw(WIDTHS)
    images = draw(st.booleans())
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1) if images else nn.Linear(5, width)]
    for _ in range(draw(st.integers(1, 4))):
        layer, width = draw(image_layers(width) if images else token_layers(width))
        layers.append(layer)
    head: list[nn.Module] = (
        [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3)] if images else [nn.Linear(width, 3)]
    )
    inputs = torch.randn(3, 3, 6, 6) if images else torch.randn(3, 4, 5)
    return lively(nn.Sequential(*layers, *head)), (inputs.double(),)


growths = st.lists(
    st.tuples(
        st.sampled_from([1.25, 1.5, 2, "+1", "+2", 3]),
        st.sampled_from(["zero", "mirror", "replicate"]),
        st.sampled_from([1, 1, 4]),
    ),
    min_size=1,
    max_size=2,
)


Made = tuple[nn.Module, tuple[Tensor, ...]]


@settings(max_examples=10)
@given(models(), growths)
def test_random_models_keep_their_function(sample: Made, sequence: Any) -> None:
    assert_function_is_kept(sample, sequence)


@pytest.mark.slow
@settings(max_examples=300)
@given(models(), growths)
def test_many_random_models_keep_their_function(sample: Made, sequence: Any) -> None:
    assert_function_is_kept(sample, sequence)


def assert_function_is_kept(sample: Made, sequence: Any) -> None:
    model, inputs = sample
    grown: nn.Module = model
    for width, init, round_to in sequence:
        try:
            grown = fxgrow.grow(grown, width, example_inputs=inputs, init=init, round_to=round_to, verify=False)
        except PlanError as error:
            assert error.what.startswith("nothing in the model would grow")
    assume(grown is not model)
    for training in (False, True):
        assert worst_error(model, grown, inputs, training) <= 1e-10
    stages = {stage for birth in fxgrow.births(grown).values() for stage in birth.counts()}
    assert stages <= set(range(len(sequence) + 1))


widths, inits = st.sampled_from([1.25, 1.5, 2]), st.sampled_from(["zero", "mirror", "replicate"])


@settings(max_examples=8, derandomize=True)
@given(models(), widths, inits)
def test_new_units_of_random_models_learn(sample: Made, width: float, init: str) -> None:
    assert_new_units_learn(sample, width, init)


@pytest.mark.slow
@settings(max_examples=100, derandomize=True)
@given(models(), widths, inits)
def test_new_units_of_many_random_models_learn(sample: Made, width: float, init: str) -> None:
    assert_new_units_learn(sample, width, init)


def assert_new_units_learn(sample: Made, width: float, init: str) -> None:
    model, inputs = sample
    attention = sum(isinstance(module, Attend) for module in model.modules())
    assume(attention < 2)  # without shortcuts the second finds tokens alike, and its scores hardly learn, old or new
    try:
        grown = fxgrow.grow(model, width, example_inputs=inputs, init=init, verify=False)
    except PlanError as error:
        assert error.what.startswith("nothing in the model would grow")
        return
    still = unmoved(grown, tuple(torch.randn(8, *x.shape[1:], dtype=x.dtype) for x in inputs))
    assert still == [], still
