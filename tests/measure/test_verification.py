"""Verification: noise off, every output compared, wrong growths refused, the originals untouched."""

from __future__ import annotations

import copy
import itertools
import re
from collections import OrderedDict, UserDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import timm.layers
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError, VerificationError
from fxgrow.measure.verification import (
    BUG,
    TOLERANCE,
    ULPS,
    Verification,
    WithoutNoise,
    WithoutRounding,
    in_precision,
    random_inputs,
    relative_error,
    verify,
)
from fxgrow.modules.containers import flat_tensors
from tests.models import TwoInputs, lively


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE = normal(4, 6, 5, 5)
QUERIES = normal(2, 2, 7, 4)
RATE = 0.4

# -- noise ---------------------------------------------------------------------------------------------------

IDENTITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.Dropout": nn.Dropout(RATE),
    "nn.Dropout in place": lambda x: nn.Dropout(RATE, inplace=True)(x.clone()),
    "nn.Dropout2d": nn.Dropout2d(RATE),
    "nn.AlphaDropout": nn.AlphaDropout(RATE),
    "nn.FeatureAlphaDropout": nn.FeatureAlphaDropout(RATE),
    "F.dropout": lambda x: F.dropout(x, RATE),
    "F.dropout by keyword": lambda x: F.dropout(input=x, p=RATE, training=True),
    "F.dropout1d": lambda x: F.dropout1d(x[0], RATE),
    "F.dropout2d": lambda x: F.dropout2d(x, RATE),
    "F.dropout3d": lambda x: F.dropout3d(x, RATE),
    "F.alpha_dropout": lambda x: F.alpha_dropout(x, RATE, training=True),
    "F.feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, RATE, training=True),
    "torch.dropout": lambda x: torch.dropout(x, RATE, True),
    "torch.dropout_": lambda x: torch.dropout_(x.clone(), RATE, True),
    "torch.alpha_dropout": lambda x: torch.alpha_dropout(x, RATE, True),
    "torch.feature_dropout": lambda x: torch.feature_dropout(x, RATE, True),
    "torch.feature_alpha_dropout": lambda x: torch.feature_alpha_dropout(x, RATE, True),
    "timm DropPath": timm.layers.DropPath(RATE),
    "timm drop_path": lambda x: timm.layers.drop_path(x, RATE, training=True),
    "torchvision StochasticDepth, row": torchvision.ops.StochasticDepth(RATE, "row"),
    "torchvision StochasticDepth, batch": torchvision.ops.StochasticDepth(RATE, "batch"),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_noise_that_drops_becomes_the_identity(name: str) -> None:
    x = IMAGE[0] if name == "F.dropout1d" else IMAGE
    with WithoutNoise():
        output = IDENTITIES[name](IMAGE)
    torch.testing.assert_close(output, x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_noise_is_there_without_the_mode(name: str) -> None:
    torch.manual_seed(0)
    draws = [IDENTITIES[name](IMAGE) for _ in range(8)]
    assert any(not torch.equal(draw, draws[0]) for draw in draws)


def recurrent(kind: type[nn.RNNBase]) -> Callable[[Tensor], Any]:
    model = lively(kind(5, 4, num_layers=2))
    model.dropout = RATE
    return lambda x: model(x[0])


def attention(**options: Any) -> Callable[[Tensor], Any]:
    model = lively(nn.MultiheadAttention(4, 2, batch_first=True))
    model.dropout = RATE
    return lambda x: model(QUERIES[0], QUERIES[1], QUERIES[1], **options)


def transformer(kind: Callable[..., nn.Module]) -> Callable[[Tensor], Any]:
    model = kind(4, 2, 8, dropout=RATE, batch_first=True).double()
    return lambda x: model(*(QUERIES[0],) * (1 if isinstance(model, nn.TransformerEncoderLayer) else 2))


AS_IN_EVAL: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]] = {
    "scaled_dot_product_attention": (
        lambda x: F.scaled_dot_product_attention(QUERIES, QUERIES, QUERIES, dropout_p=RATE),
        lambda x: F.scaled_dot_product_attention(QUERIES, QUERIES, QUERIES),
    ),
    "scaled_dot_product_attention by position": (
        lambda x: F.scaled_dot_product_attention(QUERIES, QUERIES, QUERIES, None, RATE, True),
        lambda x: F.scaled_dot_product_attention(QUERIES, QUERIES, QUERIES, is_causal=True),
    ),
    "nn.RReLU": (nn.RReLU(), nn.RReLU().eval()),
    "F.rrelu by position": (lambda x: F.rrelu(x, 0.1, 0.4, True), lambda x: F.rrelu(x, 0.1, 0.4)),
    "F.rrelu by keyword": (
        lambda x: F.rrelu(input=x, lower=0.1, upper=0.4, training=True),
        lambda x: F.rrelu(x, 0.1, 0.4),
    ),
}


@pytest.mark.parametrize("name", AS_IN_EVAL)
def test_other_noise_becomes_what_it_is_in_eval_mode(name: str) -> None:
    noisy, quiet = AS_IN_EVAL[name]
    with WithoutNoise():
        output = noisy(IMAGE)
    assert torch.equal(output, quiet(IMAGE))


LAYERS: dict[str, Callable[[], Callable[[Tensor], Any]]] = {
    "nn.LSTM": lambda: recurrent(nn.LSTM),
    "nn.GRU": lambda: recurrent(nn.GRU),
    "nn.RNN": lambda: recurrent(nn.RNN),
    "nn.MultiheadAttention": lambda: attention(),
    "nn.MultiheadAttention without weights": lambda: attention(need_weights=False),
    "nn.TransformerEncoderLayer": lambda: transformer(nn.TransformerEncoderLayer),
    "nn.TransformerDecoderLayer": lambda: transformer(nn.TransformerDecoderLayer),
}


@pytest.mark.parametrize("name", LAYERS)
def test_noise_inside_of_layers_is_off(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    with WithoutNoise():
        first, second = (list(flat_tensors(layer(IMAGE))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_layers_with_dropout_compute_in_train_mode_what_they_compute_in_eval_mode() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=RATE, batch_first=True).double()
    with WithoutNoise():
        train, evaluated = model.train()(QUERIES[0]), model.eval()(QUERIES[0])
    torch.testing.assert_close(train, evaluated, rtol=1e-12, atol=1e-12)


DRAWS: dict[str, Callable[[], Tensor]] = {
    "by position": lambda: torch.empty(64).bernoulli_(0.5),
    "by keyword": lambda: torch.empty(64).bernoulli_(p=0.5),
    "tensor": lambda: torch.empty(64).bernoulli_(torch.full((64,), 0.5)),
    "function": lambda: torch.bernoulli(torch.full((64,), 0.5)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_becomes_its_rate(name: str) -> None:
    with WithoutNoise():
        assert torch.equal(DRAWS[name](), torch.full((64,), 0.5))


def test_what_makes_no_noise_is_left_as_it_is() -> None:
    with WithoutNoise():
        output = F.relu(IMAGE) + torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(output, F.relu(IMAGE) + torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)))


def test_noise_comes_back_afterwards() -> None:
    with WithoutNoise():
        pass
    assert (F.dropout(IMAGE, RATE) == 0).any()


def test_gradients_pass_through_noise_that_is_off() -> None:
    x = IMAGE.clone().requires_grad_()
    with WithoutNoise():
        nn.Dropout(RATE)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(IMAGE))  # type: ignore[arg-type]


# -- relative error ------------------------------------------------------------------------------------------


def test_the_error_is_relative_to_the_largest_value() -> None:
    assert relative_error(torch.tensor([1.0, 11.0]), torch.tensor([1.0, -10.0])) == pytest.approx(2.1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_a_tensor_has_no_error_beside_itself(values: list[float]) -> None:
    assert relative_error(torch.tensor(values), torch.tensor(values)) == 0.0


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_error_does_not_change_with_the_scale(value: float, scale: float) -> None:
    grown, original = torch.tensor([1.5, 1.0]).double() * value, torch.tensor([1.0, 2.0]).double() * value
    assert relative_error(grown * scale, original * scale) == pytest.approx(relative_error(grown, original))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_grown_value_that_is_not_finite_is_an_infinite_error(bad: float) -> None:
    assert relative_error(torch.tensor([1.0, bad]), torch.tensor([1.0, 2.0])) == float("inf")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_original_value_that_is_not_finite_is_no_agreement(bad: float) -> None:
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, bad])) == float("inf")


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((2,), (2, 1)), ((1,), ()), ((0,), (1,))])
def test_another_shape_is_an_infinite_error(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert relative_error(torch.ones(shapes[0]), torch.ones(shapes[1])) == float("inf")


def test_nothing_agrees_with_nothing() -> None:
    assert relative_error(torch.empty(0, 3), torch.empty(0, 3)) == 0.0


def test_beside_zeros_the_error_is_absolute() -> None:
    assert relative_error(torch.full((3,), 0.25), torch.zeros(3)) == 0.25
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_the_error_of_every_dtype(dtype: torch.dtype) -> None:
    assert relative_error(torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype)) == 1.0


class Rotated(nn.Module):
    """Turns pairs of units by angles, as rotary positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(torch.relu(self.enter(x)).float().unflatten(-1, (4, 2)))
        return self.leave(torch.view_as_real(pairs * self.turn).flatten(-2).to(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["module", "graph"])
def test_complex_buffers_are_whole_in_another_precision(form: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), Rotated()).eval()
    grown = fxgrow.grow(model, {"0": 2}, example_inputs=torch.randn(3, 4), form=form, verify="full")
    assert in_precision(grown).get_buffer("3.turn").dtype is torch.complex128
    torch.testing.assert_close(in_precision(grown).get_buffer("3.turn").to(torch.cfloat), model.get_buffer("3.turn"))


class Spectral(nn.Module):
    """Complex weights, behind real numbers or behind complex ones that are an input or made by a cast."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.made = made
        self.enter, self.leave = nn.Linear(4, 8, dtype=torch.cfloat), nn.Linear(8, 2, dtype=torch.cfloat)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(self.made(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("made", "own"),
    [
        (lambda x: torch.complex(x, torch.zeros_like(x)), torch.float),
        (lambda x: x.to(torch.cfloat), torch.float),
        (torch.fft.fft, torch.float),
        (lambda x: x + 0, torch.cfloat),
    ],
)
def test_complex_weights_and_inputs(made: Callable[[Tensor], Tensor], own: torch.dtype) -> None:
    model, x = Spectral(made), torch.randn(3, 4, dtype=own)
    grown: Any = fxgrow.grow(model, 2, example_inputs=x, verify="full")
    certificate = fxgrow.report(grown).certificate
    assert grown.enter.out_features == 16 and str(certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(x), model(x))


def test_complex_outputs_are_compared_whole() -> None:
    assert relative_error(torch.tensor([1 + 1j]), torch.tensor([1 + 0j])) == pytest.approx(1.0)


# -- flat_tensors --------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


A, B, C = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)


@pytest.mark.parametrize(
    "output",
    [
        (A, B, C),
        [A, [B, (C,)]],
        {"a": A, "b": {"c": [B, C]}},
        OrderedDict(a=A, b=B, c=C),
        UserDict(a=A, b=[B, C]),
        Pair(A, Pair(B, C)),
        (A, None, "text", 3, {"b": B}, [], C),
    ],
    ids=["tuple", "lists", "dictionary", "ordered", "mapping", "named tuple", "mixed"],
)
def test_tensors_of_every_container_in_order(output: Any) -> None:
    assert [tensor.item() for tensor in flat_tensors(output)] == [1.0, 2.0, 3.0]


def test_a_tensor_alone() -> None:
    assert [id(tensor) for tensor in flat_tensors(A)] == [id(A)]


@pytest.mark.parametrize("output", [None, 3, "text", (), {}, [[]]], ids=str)
def test_outputs_without_tensors(output: Any) -> None:
    assert list(flat_tensors(output)) == []


# -- random inputs -------------------------------------------------------------------------------------------


def test_random_inputs_are_real_and_repeat_for_a_seed() -> None:
    inputs = (torch.empty(3, 4, device="meta"), [torch.empty(2, dtype=torch.int64, device="meta"), "text"]), {}
    first, again, second = (random_inputs(inputs, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], second[0][0])
    assert (first[0][0].dtype, first[0][1][0].dtype, first[0][1][1]) == (torch.float64, torch.int64, "text")


def test_random_booleans_are_true_and_random_integers_small() -> None:
    booleans, integers = torch.empty(9, dtype=torch.bool, device="meta"), torch.empty(99, dtype=torch.int32)
    (flags, numbers), _ = random_inputs(((booleans, integers), {}), 0)
    assert flags.all()
    assert set(numbers.tolist()) == {0, 1}


# -- verify --------------------------------------------------------------------------------------------------

INPUTS = ((torch.empty(6, 5, device="meta"),), {})


def batch_normalised() -> nn.Module:
    return lively(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)))


def perturbed(model: nn.Module, name: str, amount: float) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter(name).add_(amount)
    return twin


def test_a_model_is_the_same_function_as_itself() -> None:
    model = batch_normalised()
    result = verify(model, copy.deepcopy(model), INPUTS, seed=5)
    assert result == Verification(0.0, 0.0, "float64", TOLERANCE, 5)
    assert result.verdict == "TESTED"
    assert str(result) == (
        "TESTED: relative error 0.0e+00 in eval, 0.0e+00 in train (float64 weights, tolerance 1e-10, seed 5)"
    )


def refusal(name: str, dtype: str, tolerance: str) -> str:
    number = r"(\d\.\de[+-]\d\d|inf)"
    return (
        rf"^the grown model differs from the original: REFUTED: relative error {number} in eval, {number} in train "
        rf"\({dtype} weights, tolerance {re.escape(tolerance)}, seed 0\) \(at {name}\): " + re.escape(BUG) + "$"
    )


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "1.bias", "4.weight", "4.bias"])
@pytest.mark.parametrize("amount", [1.0, 1e-6])
def test_a_perturbed_model_is_refused(name: str, amount: float) -> None:
    model = batch_normalised()
    with pytest.raises(VerificationError, match=refusal("Sequential", "float64", "1e-10")):
        verify(model, perturbed(model, name, amount), INPUTS)


@pytest.mark.parametrize("training", [True, False])
def test_a_difference_in_one_mode_alone_is_refused(training: bool) -> None:
    class Differing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if self.training is training else 1.0)

    model = nn.Sequential(nn.Linear(5, 3)).double()
    with pytest.raises(VerificationError, match=refusal("Sequential", "float64", "1e-10")):
        verify(model, Differing(model[0]), INPUTS)


def test_a_perturbed_grown_model_is_refused() -> None:
    model = batch_normalised()
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(6, 5))
    with pytest.raises(VerificationError, match=refusal("Sequential", "float64", "1e-10")):
        verify(model, perturbed(grown, "4.weight", 0.01), INPUTS)


def test_every_output_is_compared() -> None:
    model = lively(TwoInputs())
    inputs = ((torch.empty(2, 3, 8, 8, device="meta"), torch.empty(2, 4, device="meta")), {})
    with pytest.raises(VerificationError, match=refusal("TwoInputs", "float64", "1e-10")):
        verify(model, perturbed(model, "value.bias", 0.01), inputs)


class Returning(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.layer = nn.Linear(5, 5).double()
        nn.init.eye_(self.layer.weight)

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


@pytest.mark.parametrize(
    "make",
    [lambda x: (x, x), lambda x: [], lambda x: x[:, :4], lambda x: x * float("nan"), lambda x: x / 0],
    ids=["more outputs", "no outputs", "another shape", "nan", "infinite"],
)
def test_outputs_that_cannot_be_compared_are_refused(make: Callable[[Tensor], Any]) -> None:
    model = Returning(lambda x: x)
    changed = copy.deepcopy(model)
    changed.make = make
    with pytest.raises(VerificationError, match=refusal("Returning", "float64", "1e-10")):
        verify(model, changed, INPUTS)


@pytest.mark.parametrize(
    ("dtype", "text", "written"),
    [
        (torch.float64, "float64", "1e-10"),
        (torch.float32, "float32", "4e-06"),
        (torch.bfloat16, "bfloat16", "2e-01"),
        (torch.float16, "float16", "3e-02"),
    ],
    ids=str,
)
def test_the_tolerance_is_that_of_the_dtype(dtype: torch.dtype, text: str, written: str) -> None:
    model = batch_normalised().to(dtype)
    result = verify(model, copy.deepcopy(model), INPUTS)
    assert result.dtype == text
    assert result.tolerance == (TOLERANCE if dtype is torch.float64 else ULPS * torch.finfo(dtype).eps)
    with pytest.raises(VerificationError, match=refusal("Sequential", text, written)):
        verify(model, perturbed(model, "4.bias", 8.0), INPUTS)


def test_the_coarsest_dtype_decides() -> None:
    model = nn.Sequential(nn.Linear(5, 4).double(), nn.Linear(4, 3).half())
    assert verify(model, copy.deepcopy(model), INPUTS).dtype == "float16"


@pytest.mark.parametrize(("error", "verdict"), [(TOLERANCE, "TESTED"), (1.1 * TOLERANCE, "REFUTED")])
@pytest.mark.parametrize("training", [True, False])
def test_the_verdict_is_that_of_the_worse_mode(error: float, verdict: str, training: bool) -> None:
    errors = (0.0, error) if training else (error, 0.0)
    assert Verification(*errors, "float64", TOLERANCE, 0).verdict == verdict


@pytest.mark.parametrize("errors", [(float("nan"), 0.0), (0.0, float("nan")), (float("inf"), 0.0)], ids=str)
def test_an_error_that_is_no_number_is_no_agreement(errors: tuple[float, float]) -> None:
    assert Verification(*errors, "float64", TOLERANCE, 0).verdict == "REFUTED"


@pytest.mark.parametrize("training", [True, False])
def test_neither_model_is_touched(training: bool) -> None:
    original = batch_normalised().float().train(training)
    original[1].train(not training)
    grown = fxgrow.grow(original, width=2, example_inputs=torch.randn(6, 5), verify=False)
    models = (original, grown)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    modes = [[part.training for part in model.modules()] for model in models]
    verify(original, grown, INPUTS)
    for model, state, flags in zip(models, before, modes, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert [part.training for part in model.modules()] == flags
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.grad is None for parameter in model.parameters())


class ToldOfModes(nn.Module):
    """Its class is told of each change of mode."""

    modes: tuple[bool, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def train(self, mode: bool = True) -> ToldOfModes:
        type(self).modes = (*self.modes, mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def test_what_a_change_of_mode_leaves_in_the_class_is_put_back() -> None:
    model = ToldOfModes().eval()
    verify(model, copy.deepcopy(model), ((torch.randn(2, 4, dtype=torch.float64),), {}))
    assert ToldOfModes.modes == (False,)


def test_running_statistics_stay_as_they_were() -> None:
    model = batch_normalised()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    verify(model, model, INPUTS)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_the_state_of_the_random_generator_is_left_alone() -> None:
    model = batch_normalised()
    state = torch.get_rng_state()
    verify(model, model, INPUTS)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_does_not_count() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.RReLU(), timm.layers.DropPath(0.5)).double()
    assert verify(model, copy.deepcopy(model), INPUTS).verdict == "TESTED"


class Noisy(nn.Module):
    """A layer with noise inside of it, between two others."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.enter, self.layer, self.leave = nn.Linear(5, 6), layer, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(self.enter(x))
        return self.leave(output[0] if isinstance(self.layer, nn.RNNBase) else output)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.LSTM(6, 6, num_layers=2, dropout=0.5),
        lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.5),
    ],
    ids=["lstm", "transformer"],
)
def test_models_with_noise_inside_of_their_layers_grow(layer: Callable[[], nn.Module]) -> None:
    model = Noisy(layer())
    grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(3, 2, 5))
    assert fxgrow.report(grown).verification.verdict == "TESTED"  # type: ignore[union-attr]


def test_a_decoder_layer_with_an_activation_module_is_the_same_function_as_itself() -> None:
    model = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, activation=nn.Tanh()).double()
    twin = copy.deepcopy(model)
    twin.__dict__.pop("activation", None)
    inputs = ((torch.empty(3, 2, 4, device="meta"), torch.empty(3, 2, 4, device="meta")), {})
    assert verify(model, twin, inputs).verdict == "TESTED"


def test_a_model_that_does_not_run_says_so() -> None:
    pattern = (
        r"^the model itself does not run on inputs of these shapes and dtypes: .*mat1 and mat2 .* "
        r"\(at Sequential\): pass example_inputs as the model is called, or verify=False$"
    )
    with pytest.raises(CaptureError, match=pattern):
        verify(batch_normalised(), batch_normalised(), ((torch.empty(6, 7, device="meta"),), {}))


def test_a_grown_model_that_does_not_run_says_so() -> None:
    pattern = r"^the grown model does not run: .*mat1 and mat2 .* \(at Sequential\): " + re.escape(BUG) + "$"
    with pytest.raises(VerificationError, match=pattern):
        verify(batch_normalised(), nn.Linear(7, 3).double(), INPUTS)


def test_an_original_that_is_not_finite_says_so() -> None:
    model = batch_normalised()
    text = (
        "the original model's own outputs are not finite in eval mode (at Sequential): "
        "pass example_inputs that it takes, check its weights, or pass verify=False if outputs may be infinite"
    )
    with pytest.raises(VerificationError, match=f"^{re.escape(text)}$"):
        verify(perturbed(model, "4.bias", float("inf")), model, INPUTS)


class OfLogarithms(nn.Module):
    """Takes a positive number for each sample, as diffusion models do, and computes in a precision of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.enter, self.leave, self.dtype = nn.Linear(4, 8), nn.Linear(8, 3), dtype

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        x = (x + sigma.log()[:, None]).to(self.dtype)
        assert x.dtype == self.dtype, "it insists on it"
        hidden = F.linear(x, self.enter.weight.to(x.dtype), self.enter.bias.to(x.dtype)).tanh()
        return F.linear(hidden, self.leave.weight.to(x.dtype), self.leave.bias.to(x.dtype))


def test_numbers_of_one_sign_are_those_that_were_given() -> None:
    inputs = (normal(5, 4), normal(5).exp())
    grown = fxgrow.grow(OfLogarithms(torch.float64).double(), width=2, example_inputs=inputs)
    tested = fxgrow.report(grown).verification
    assert tested is not None and max(tested.eval_error, tested.train_error) < 1e-14


def test_a_precision_that_a_forward_insists_on_is_that_of_the_tolerance() -> None:
    inputs = (normal(64, 4), normal(64).exp())
    grown = fxgrow.grow(OfLogarithms(torch.float32).double(), width=8, example_inputs=inputs)
    tested = fxgrow.report(grown).verification
    assert tested is not None and (tested.dtype, tested.precision) == ("float64", "float32")
    assert tested.tolerance == ULPS * torch.finfo(torch.float32).eps
    assert "computed in float32, float64 weights" in str(tested)


def test_what_a_forward_draws_by_itself_is_the_same_for_both() -> None:
    class Jittered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                x = x + torch.randn_like(x)
            return self.leave(torch.relu(self.enter(x)))

    grown = fxgrow.grow(lively(Jittered()), 2, example_inputs=normal(5, 4))
    assert fxgrow.report(grown).verification.train_error < 1e-14  # type: ignore[union-attr]  # rounding alone
    x = normal(5, 4)
    assert not torch.equal(grown.train()(x), grown(x))


def test_a_model_that_makes_much_of_rounding_is_no_evidence() -> None:
    torch.manual_seed(0)
    layers = ((nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()) for _ in range(60))
    model = lively(nn.Sequential(*itertools.chain(*layers)))
    grown = fxgrow.grow(model, 1.5, example_inputs=torch.randn(64, 6))
    with torch.no_grad():
        grown.get_parameter("0.weight").mul_(1 + 2**-42)  # what a product may round by, on whatever machine
    with pytest.raises(VerificationError, match=r"outputs differ by .*, and the original's own move .* larger b"):
        verify(model, grown, ((torch.empty(3, 6, device="meta"),), {}))
    with torch.no_grad():
        grown.get_parameter("0.weight").mul_(1.5)
    with pytest.raises(VerificationError, match="this is a bug in a rule"):
        verify(model, grown, ((torch.empty(64, 6, device="meta"),), {}))


# -- casts ---------------------------------------------------------------------------------------------------

CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "x.float()": lambda x: x.float(),
    "x.half()": lambda x: x.half(),
    "x.to(dtype)": lambda x: x.to(torch.float32),
    "x.to(dtype=)": lambda x: x.to(dtype=torch.bfloat16),
    "x.type(dtype)": lambda x: x.type(torch.float32),
    "F.softmax": lambda x: F.softmax(x, -1, dtype=torch.float32),
    "x.sum": lambda x: x.sum(-1, dtype=torch.float32),
    "LayerNormFp32": timm.layers.LayerNormFp32(6).double(),
}


@pytest.mark.parametrize("name", CASTS)
def test_float64_stays_float64(name: str) -> None:
    x = normal(3, 6)
    with WithoutRounding(), torch.no_grad():
        output = CASTS[name](x)
    assert output.dtype is torch.float64
    assert not torch.equal(output, output.float().double())


def test_casts_of_other_tensors_are_left_alone() -> None:
    single = torch.ones(3)
    with WithoutRounding():
        assert single.half().dtype is torch.float16
        assert single.double().dtype is torch.float64
        assert normal(3).float().long().dtype is torch.int64
        assert normal(3).float().to(torch.int32).dtype is torch.int32


def test_whole_numbers_that_are_cast_meet_what_is_not() -> None:
    places = torch.arange(3)
    with WithoutRounding():
        for cells in (places, places > 1):
            assert (cells.float() @ normal(3).float()).dtype is torch.float64


class InSingle(nn.Module):
    """Statistics in float32, over the channels in an order of its own."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()[..., self.order]
        x = (x - x.mean(-1, keepdim=True)) / x.square().mean(-1, keepdim=True).sqrt()
        return x.double()[..., torch.argsort(self.order)]


def test_models_that_compute_in_single_precision_are_compared_beyond_it() -> None:
    first, second = (
        InSingle(torch.arange(999)),
        InSingle(torch.randperm(999, generator=torch.Generator().manual_seed(0))),
    )
    x = normal(4, 999)
    assert relative_error(second(x), first(x)) > 1e-9
    verification = verify(first, second, ((x.to("meta"),), {}))
    assert verification.eval_error < 1e-14


class WithTable(nn.Module):
    """A product with a table in float32 that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.table = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).float() @ self.table


def test_models_that_need_their_casts_are_run_with_them() -> None:
    model = WithTable().double()
    verification = verify(model, copy.deepcopy(model), ((torch.empty(2, 4, dtype=torch.float64, device="meta"),), {}))
    assert verification.eval_error == 0.0 and verification.precision == "float32"


# -- outputs picked by rank ----------------------------------------------------------------------------------


class Scores(nn.Module):
    """Sums of the same numbers in different orders: ties but for rounding."""

    def __init__(self, flip: bool, more: float = 0.0) -> None:
        super().__init__()
        self.flip, self.more = flip, more

    def forward(self, x: Tensor) -> Tensor:
        columns = (x.flip(-1) if self.flip else x).unbind(-1)
        return sum(columns, torch.zeros(len(x), dtype=x.dtype)) + self.more * torch.arange(len(x))


class Picking(nn.Module):
    def __init__(self, part: nn.Module, plain: bool = False) -> None:
        super().__init__()
        self.part, self.plain = part, plain

    def forward(self, x: Tensor) -> Tensor:
        scores = self.part(x)
        return scores if self.plain else torch.arange(len(x)).double()[scores.argsort()]


class Shuffled(Picking):
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return super().forward(torch.stack([x[0, torch.randperm(50, generator=generator)] for _ in x]))


def test_outputs_picked_from_ties_are_compared_before_they_are_picked() -> None:
    first, second = Shuffled(Scores(False)), Shuffled(Scores(True))
    inputs = ((torch.empty(20, 50, dtype=torch.float64, device="meta"),), {})
    with pytest.raises(VerificationError, match="the comparison says nothing"):
        verify(first, second, inputs, modes=(False,))
    verification = verify(first, second, inputs, modes=(False,), parts=("part",))
    assert verification.in_place and verification.eval_error < 1e-13
    assert "of what its parts give, as ranks decide between ties" in str(verification)


def test_what_differs_before_it_is_picked_is_refused() -> None:
    first, second = Shuffled(Scores(False)), Shuffled(Scores(True, more=1e-6))
    inputs = ((torch.empty(20, 50, dtype=torch.float64, device="meta"),), {})
    with pytest.raises(VerificationError, match="differs"):
        verify(first, second, inputs, modes=(False,), parts=("part",))


def test_what_is_not_picked_is_compared_as_it_is() -> None:
    """An error that comes after the parts is one, where rounding makes none."""
    first, second = Shuffled(Scores(False), plain=True), Shuffled(Scores(False))
    inputs = ((torch.empty(20, 50, dtype=torch.float64, device="meta"),), {})
    with pytest.raises(VerificationError, match="differs"):
        verify(first, second, inputs, modes=(False,), parts=("part",))


def test_numbers_that_are_indices_are_those_that_were_given() -> None:
    class Degrees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.degree, self.leave = nn.Linear(4, 16), nn.Embedding(6, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor, edges: Tensor) -> Any:
            return self.leave((edges @ (self.enter(x) + self.degree(edges.sum(-1).long()))).relu())

    inputs = normal(2, 5, 4).float(), (normal(2, 5, 5) > 0).float()
    grown = fxgrow.grow(Degrees(), 2, example_inputs=inputs)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
