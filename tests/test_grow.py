"""Growth of plain user models, end to end."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import VerificationError
from fxgrow.proof.certificate import Certificate, Verdict
from tests.checks import assert_grows, example, worst_error
from tests.models import PLAIN, ChannelConvolution, Decoder, Encoder, Masked, Rotary, TwoInputs, lively, perceptron
from tests.pairing import in_turn, slow


@pytest.mark.parametrize(("name", "init"), in_turn(PLAIN, ("zero", "mirror", "replicate")))
@pytest.mark.parametrize("width", [1.5, slow(2.0)])
def test_user_models_keep_their_function_and_learn(name: str, width: float, init: str) -> None:
    make, inputs = PLAIN[name]
    assert_grows(lively(make()), inputs, width, init, least_ratio=2.0 if width == 2.0 else 1.2)


def test_same_seed_gives_the_same_bytes() -> None:
    model = lively(perceptron())
    first, again, second = (
        fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 5), seed=seed).state_dict() for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_a_kernel_slides_over_new_units_that_are_zero() -> None:
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model = lively(ChannelConvolution())
    grown = fxgrow.grow(model, width=2, example_inputs=image)
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.PROVED
    assert "new units that the kernel slides over are zero" in certificate.expanded()
    with torch.no_grad():
        grown.get_submodule("norm").bias[8] = 0.5
    assert fxgrow.certify(grown, model).verdict is not Verdict.PROVED


def test_a_kernel_that_goes_round_holds_what_it_slides_over() -> None:
    plan = fxgrow.plan(ChannelConvolution("circular"), width=2, example_inputs=torch.randn(2, 3, 9, 9))
    assert any(staying.size == 8 and staying.reason == "a kernel slides over it (at over)" for staying in plan.held), (
        plan.held
    )


def test_tied_weights_stay_tied() -> None:
    grown = fxgrow.grow(lively(Decoder()), width=2, example_inputs=torch.zeros(1, 12, dtype=torch.long))
    assert grown.get_submodule("head").weight is grown.get_submodule("embed").weight


def test_growth_composes_and_births_count_up() -> None:
    model = lively(Encoder())
    inputs = (torch.randn(2, 7, 6),)
    once = fxgrow.grow(model, width=1.5, example_inputs=inputs)
    twice = fxgrow.grow(once, width=2.0)
    for training in (False, True):
        assert worst_error(model, twice, example(inputs), training) <= 1e-10
    counts = fxgrow.births(twice)["embed.weight"].counts()
    assert counts == {0: 16 * 6, 1: 8 * 6, 2: 24 * 6}


def test_births_survive_copies_and_pickles() -> None:
    grown = fxgrow.grow(lively(TwoInputs()), width=2, example_inputs=PLAIN["two-inputs"][1])
    buffer = io.BytesIO()
    torch.save(grown, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(grown), grown.to(torch.float32), torch.load(buffer, weights_only=False)):
        assert fxgrow.births(twin)["joint.weight"].counts() == {0: 12 * 34, 1: 24 * 68 - 12 * 34}
        fxgrow.grow(twin, width=1.5)


def test_module_attributes_agree_with_the_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 2, 1),
    )
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 3, 9, 9))
    parts = [grown.get_submodule(str(k)) for k in range(6)]
    assert (parts[0].out_channels, parts[1].num_features) == (16, 16)
    assert (parts[3].in_channels, parts[3].out_channels, parts[3].groups) == (16, 16, 16)
    assert (parts[4].num_groups, parts[4].num_channels) == (8, 16)
    assert (parts[5].in_channels, parts[5].out_channels) == (16, 2)


def test_dtype_device_and_gradient_flags_are_kept() -> None:
    model = perceptron().to(torch.bfloat16)
    model.get_submodule("0").weight.requires_grad_(False)
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 5))
    assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}
    assert [n for n, p in grown.named_parameters() if not p.requires_grad] == ["0.weight"]


def test_amounts_for_parts_of_a_model() -> None:
    model = perceptron()
    grown = fxgrow.grow(model, width={"0": "+3", "3": "=10"}, example_inputs=torch.randn(1, 5))
    assert [grown.get_submodule(k).out_features for k in ("0", "3", "5")] == [11, 10, 3]


def test_a_model_on_the_meta_device_can_be_planned() -> None:
    with torch.device("meta"):
        model = perceptron()
    assert fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 5)).totals.parameters_after == 451


def test_what_has_no_rule_stays_with_the_reason() -> None:
    class Inverted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.pinv(x).mT

    model = nn.Sequential(nn.Linear(4, 6), Inverted(), nn.Linear(6, 2))
    plan = fxgrow.plan(model, width=2, example_inputs=torch.randn(1, 4))
    assert plan.groups == ()
    assert [(staying.size, staying.reason) for staying in plan.held] == [
        (6, "linalg_pinv has no rule (at 1.linalg_pinv)")
    ]


def test_float32_differs_by_a_few_ulps_only() -> None:
    model = lively(perceptron()).float()
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 5))
    x = torch.randn(64, 5)
    torch.testing.assert_close(grown(x), model(x), rtol=5e-6, atol=5e-7)


def test_copies_part_from_their_originals() -> None:
    model = lively(nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)))
    grown = fxgrow.grow(model, width=2, init="replicate", example_inputs=torch.randn(1, 5))
    weight = grown.get_parameter("0.weight")
    assert torch.equal(weight[8:], weight[:8])
    grown(example((torch.empty(16, 5),))[0]).square().mean().backward()
    assert weight.grad is not None
    difference = (weight.grad[8:] - weight.grad[:8]).norm(dim=1) / weight.grad[:8].norm(dim=1)
    assert difference.min() > 1e-3


def test_writing_in_place_keeps_its_meaning_for_other_names_of_the_tensor() -> None:
    class Aliasing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.other, self.leave = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
            self.mark = nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inside = self.enter(x)
            same = inside
            inside += self.other(x)
            marked = self.mark(torch.tanh(same))
            marked[:, -1] = 1.0
            return self.leave(torch.relu(same)) + marked.sum()

    assert_grows(lively(Aliasing()), (torch.randn(3, 4),), 2.0, "zero")


def test_heads_grow_rather_than_the_width_that_a_rotary_table_fixes() -> None:
    grown = fxgrow.grow(lively(Rotary()), 2, example_inputs=torch.zeros(2, 7, dtype=torch.long))
    assert grown.get_buffer("cos").shape == (20, 4)
    assert grown.get_submodule("q").out_features == 32


def test_a_longer_input_than_at_capture() -> None:
    model = lively(Masked())
    grown = fxgrow.grow(model, 2, example_inputs=torch.zeros(2, 7, dtype=torch.long))
    tokens = torch.randint(0, 11, (3, 13))
    torch.testing.assert_close(grown.eval()(tokens), model.eval()(tokens), rtol=1e-10, atol=1e-10)


def test_a_table_that_units_are_multiplied_by_does_not_silence_new_ones() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_buffer("scale", torch.rand(8) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.leave(torch.relu(self.enter(x)) * self.scale)

    grown = assert_grows(lively(Scaled()), (torch.randn(3, 4),), 2.0, "zero")
    assert bool(grown.get_buffer("scale")[8:].all())


@pytest.mark.parametrize("norm", [partial(nn.RMSNorm, eps=1e-6), nn.LayerNorm])
def test_a_norm_that_gets_zeros_and_has_to_give_zeros_keeps_its_gain(norm: Callable[[int], nn.Module]) -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Sequential(nn.Linear(5, 8), norm(8))
            self.branch = nn.Sequential(nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
            self.head = nn.Sequential(nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x)
            return self.head(x + self.branch(x))

    model = lively(Stream())
    grown = assert_grows(model, (torch.randn(3, 4, 5),), 1.5, "zero")
    assert bool(grown.get_parameter("embed.1.weight")[8:].all())
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


def test_what_the_certificate_refutes_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    refuted = Certificate("x is zero", "values", (), Verdict.REFUTED, "x[0] is 1")
    monkeypatch.setattr("fxgrow.growth.growing.certificate_of", lambda *_, **__: Certificate.of("the same", [refuted]))
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    with pytest.raises(VerificationError, match=r"a test agreed .* not so that x is zero: x\[0\] is 1"):
        fxgrow.grow(model, width=2, example_inputs=x)
    fxgrow.grow(model, width=2, example_inputs=x, verify=False)


class Padded(nn.Module):
    """A block with a shortcut that is padded with zero channels, as ResNets for CIFAR have (option A)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, after, 3, 2, 1), nn.Conv2d(after, after, 3, 1, 1)
        beside = (after - before) // 2
        self.shortcut = lambda x: nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, beside, beside), "constant", 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x).relu()) + self.shortcut(x))  # type: ignore[no-any-return]


def test_streams_grow_through_padded_shortcuts() -> None:
    ends = nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    model = nn.Sequential(ends[0], Padded(8, 16), Padded(16, 32), *ends[1:]).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=x)
    assert type(grown) is nn.Sequential and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [grown[k].second.out_channels for k in (1, 2)] == [24, 48] and not fxgrow.report(grown).plan.held
    assert_grows(model, (x,), 1.5, "zero", least_ratio=2.0)


class Scaled(nn.Module):
    """A residual branch whose square weight is made of a parameter before it is used."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.square, self.leave, self.made = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2), made

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x + nn.functional.linear(x, self.made(self.square.weight), self.square.bias))  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize(
    "made", [lambda w: w * 0.5, lambda w: w.to(torch.float64), lambda w: w - w.T, lambda w: w.T.contiguous().T]
)
def test_weights_that_are_made_of_others_make_pairs_and_read_them(made: Callable[[Tensor], Tensor], init: str) -> None:
    assert_grows(Scaled(made).double(), (torch.randn(4, 3, dtype=torch.float64),), 1.5, init)
