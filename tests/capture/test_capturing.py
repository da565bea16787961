"""Captured models, put together again, do what the originals do."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxgrow
from fxgrow.capture import ByMode, GrownGraphModule, ModalGraphModule, capture
from fxgrow.capture.capturing import recapture
from fxgrow.capture.recording import Recording
from fxgrow.capture.skeleton import twin_of
from fxgrow.errors import CaptureError
from fxgrow.opaque import CustomFunction
from fxgrow.rules.pointwise import Pointwise
from tests.capture.assembled import EXACT, assembled, assert_same_in_both_modes, difference, normal
from tests.checks import example
from tests.models import PLAIN, lively
from tests.pairing import few, in_turn

Forward = Callable[..., Any]


class Model(nn.Module):
    """Two layers and a forward given as a function of the module and its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 4)


def model_of(forward: Forward) -> nn.Module:
    """A lively model with this forward."""
    return lively(type("Written", (Model,), {"forward": forward})())


def saved_and_loaded(module: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


X, Y = normal(3, 4), normal(3, 4, seed=1)


# -- tiers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_plain_models_compute_the_same_once_captured(name: str) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    assert_same_in_both_modes(model, assembled(model, inputs), *example(inputs))


@pytest.mark.parametrize(
    "name", few(("test_resnet", "test_vit", "test_efficientnet", "test_convnext"), "test_vit", "test_efficientnet")
)
def test_library_models_compute_the_same_once_captured(name: str) -> None:
    model = lively(timm.create_model(name, num_classes=3))
    x = normal(2, 3, 160, 160)
    assert_same_in_both_modes(model, assembled(model, x), x)


def branching_on_a_size(self: Any, x: Tensor) -> Tensor:
    if x.shape[1] > 2:
        return self.head(self.layer(x))  # type: ignore[no-any-return]
    return x


def looping_over_a_size(self: Any, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for place in range(x.shape[1]):
        total = total + self.head(self.layer(x)) * place
    return total


def iterating_over_a_tensor(self: Any, x: Tensor) -> Tensor:
    return torch.stack([self.layer(row) for row in x])


def measuring_a_tensor(self: Any, x: Tensor) -> Tensor:
    return self.layer(x) * len(x) + float(x.shape[1]) * int(x.size(0))  # type: ignore[no-any-return]


def asserting_a_size(self: Any, x: Tensor) -> Tensor:
    assert x.ndim == 2 and x.shape[-1] == 4
    return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "forward",
    [branching_on_a_size, looping_over_a_size, iterating_over_a_tensor, measuring_a_tensor, asserting_a_size],
)
def test_control_flow_on_shapes(forward: Forward) -> None:
    model = model_of(forward)
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_the_branch_not_taken_leaves_nothing() -> None:
    graph = assembled(model_of(branching_on_a_size), X[:, :4]).graph
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["layer", "head"]


def test_control_flow_on_values_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x  # type: ignore[no-any-return]

    text = "control flow needs the values of a tensor, which no graph over shapes can have (at Written): "
    with pytest.raises(CaptureError, match=re.escape(text)):
        capture(model_of(forward), X)


def test_every_node_has_a_value_on_meta_and_a_place() -> None:
    for graph in capture(PLAIN["two-inputs"][0](), PLAIN["two-inputs"][1]).graphs.values():
        for node in graph.nodes:
            if node.op != "output":
                assert "module_path" in node.meta
                assert not isinstance(node.meta["value"], Tensor) or node.meta["value"].is_meta


def test_a_part_of_the_model_in_another_mode_keeps_its_flag() -> None:
    model = PLAIN["unet"][0]()
    model.get_submodule("enter").eval()
    captured = capture(model, PLAIN["unet"][1]).model
    assert [part.training for part in captured.modules()] == [part.training for part in model.modules()]


# -- modes ---------------------------------------------------------------------------------------------------


def dropping(self: Any, x: Tensor) -> Tensor:
    return F.dropout(self.layer(x), 0.5, training=self.training)


def test_functional_dropout_follows_the_mode_of_the_result() -> None:
    model = model_of(dropping)
    result = assembled(model, normal(64, 4))
    assert any(isinstance(part, ByMode) for part in result.modules())
    assert torch.equal(result.eval()(X), model.eval()(X))
    assert (result.train()(normal(64, 4)) == 0).any()
    assert not (result.eval()(normal(64, 4)) == 0).any()


def test_functional_dropout_draws_what_the_original_draws() -> None:
    model = model_of(dropping)
    result = assembled(model, X)
    torch.manual_seed(3)
    expected = model.train()(X)
    torch.manual_seed(3)
    assert torch.equal(result.train()(X), expected)


def branching_on_the_mode(self: Any, x: Tensor) -> Tensor:
    if self.training:
        return self.head(torch.tanh(self.layer(x)))  # type: ignore[no-any-return]
    return self.head(self.layer(x)) * 2  # type: ignore[no-any-return]


def scaling_by_mode(self: Any, x: Tensor) -> Tensor:
    return self.head(self.layer(x)) * (3.0 if self.training else 0.5)  # type: ignore[no-any-return]


def more_outputs_in_training(self: Any, x: Tensor) -> Any:
    hidden = self.layer(x)
    return (self.head(hidden), hidden) if self.training else self.head(hidden)


def a_flag_by_mode(self: Any, x: Tensor) -> Tensor:
    return torch.mean(self.layer(x), 1, keepdim=self.training)


def nested_numbers_by_mode(self: Any, x: Tensor) -> Tensor:
    return F.pad(self.layer(x), [1, 2] if self.training else [3, 4])


def one_or_true(self: Any, x: Tensor) -> Tensor:
    return torch.add(self.layer(x), x.sum(), alpha=1 if self.training else 1.0)


@pytest.mark.parametrize(
    "forward",
    [
        branching_on_the_mode,
        scaling_by_mode,
        more_outputs_in_training,
        a_flag_by_mode,
        nested_numbers_by_mode,
        one_or_true,
    ],
)
def test_what_depends_on_the_mode_follows_the_mode(forward: Forward) -> None:
    model = model_of(forward)
    result = assembled(model, X)
    assert_same_in_both_modes(model, result, X)
    for training in (True, False, False, True):
        torch.testing.assert_close(result.train(training)(X), model.train(training)(X), rtol=EXACT, atol=EXACT)


def test_differing_literals_need_one_graph() -> None:
    assert capture(model_of(scaling_by_mode), X).graphs.keys() == {"both"}


def test_differing_code_needs_two_graphs() -> None:
    assert capture(model_of(branching_on_the_mode), X).graphs.keys() == {"eval", "train"}
    assert isinstance(assembled(model_of(branching_on_the_mode), X), ModalGraphModule)


@pytest.mark.parametrize("training", [True, False])
def test_the_result_starts_in_the_mode_of_the_original(training: bool) -> None:
    model = model_of(branching_on_the_mode).train(training)
    result = assembled(model, X)
    assert result.training is training
    assert torch.equal(result(X), model(X))


def test_a_part_follows_its_own_flag() -> None:
    inner = model_of(scaling_by_mode)
    model = nn.Sequential(nn.Linear(4, 4).double(), inner)
    result = assembled(model, X)
    model.train()[1].eval()
    result.train().get_submodule("1").eval()
    torch.testing.assert_close(result(X), model(X), rtol=EXACT, atol=EXACT)


def test_batch_norm_updates_its_statistics_in_train_mode_only() -> None:
    model = model_of(lambda self, x: self.head(self.norm(self.layer(x))))
    result = assembled(model, X)
    for training in (True, True, False):
        model.train(training)(X)
        result.train(training)(X)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(result.get_buffer(name), buffer, rtol=EXACT, atol=EXACT)
    assert int(result.get_buffer("norm.num_batches_tracked")) == 2


def test_functional_batch_norm_updates_its_statistics_in_train_mode_only() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(
            self.layer(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training, 0.1
        )

    model = model_of(forward)
    result = assembled(model, X)
    for training in (True, False):
        torch.testing.assert_close(result.train(training)(X), model.train(training)(X), rtol=EXACT, atol=EXACT)
    assert torch.equal(result.get_buffer("norm.running_mean"), model.get_buffer("norm.running_mean"))


# -- copies and files ----------------------------------------------------------------------------------------

COPIES = pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])


@pytest.mark.parametrize(
    ("forward", "how"),
    in_turn(
        (branching_on_the_mode, scaling_by_mode, dropping, more_outputs_in_training),
        [(start, copied) for copied in (copy.deepcopy, saved_and_loaded) for start in (True, False)],
    ),
)
def test_copies_keep_both_modes(forward: Forward, how: tuple[bool, Callable[[Any], Any]]) -> None:
    start, copied = how
    model = model_of(forward)
    result = assembled(model, X).train(start)
    twin = copied(result)
    assert type(twin).__name__ == type(result).__name__
    assert twin.training is start
    assert_same_in_both_modes(model, twin, X)
    assert_same_in_both_modes(model, copied(twin), X)


@COPIES
def test_copies_have_tensors_of_their_own(copied: Callable[[Any], Any]) -> None:
    result = assembled(model_of(branching_on_the_mode), X)
    twin = copied(result)
    with torch.no_grad():
        twin.get_parameter("layer.weight").zero_()
    assert result.get_parameter("layer.weight").any()
    assert not twin.train()(X).equal(result.train()(X))


@COPIES
def test_copies_keep_ties(copied: Callable[[Any], Any]) -> None:
    twin = copied(assembled(lively(PLAIN["decoder"][0]()), PLAIN["decoder"][1]))
    assert twin.get_parameter("head.weight") is twin.get_parameter("embed.weight")


@COPIES
def test_copies_keep_further_attributes(copied: Callable[[Any], Any]) -> None:
    result = assembled(model_of(branching_on_the_mode), X)
    result.note = {"a": 1}
    assert copied(result).note == {"a": 1}


COPIED = ("perceptron", "unet", "cross-attention", "decoder", "one-head", "two-inputs")


@pytest.mark.parametrize(("name", "copied"), in_turn(PLAIN, (copy.deepcopy, saved_and_loaded), COPIED))
def test_copies_of_plain_models_compute_the_same(name: str, copied: Callable[[Any], Any]) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    assert_same_in_both_modes(model, copied(assembled(model, inputs)), *example(inputs))


@pytest.mark.parametrize("forward", [branching_on_the_mode, scaling_by_mode])
def test_a_captured_module_is_captured_again(forward: Forward) -> None:
    model = model_of(forward)
    assert_same_in_both_modes(model, assembled(assembled(model, X), X), X)


def in_train_mode_alone(self: Model, x: Tensor) -> Any:
    y = self.layer(x)
    return (y, self.norm(y)) if self.training else y


def test_a_layer_that_one_mode_alone_calls_is_captured_again_in_the_other() -> None:
    model = model_of(in_train_mode_alone).eval()
    again = recapture(assembled(model, X), capture(model, X).inputs)
    assert "norm" in {node.target for node in again.graphs["train"].nodes}


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: F.mse_loss(self.layer(x), x.sum()),
        lambda self, x: torch.broadcast_tensors(self.layer(x), x.sum())[1],
        lambda self, x: torch.block_diag(self.layer(x), x),
        lambda self, x: torch.stft(self.layer(x), 4, 2, window=torch.ones(4, dtype=x.dtype), return_complex=True).abs(),
    ],
)
def test_a_function_of_torch_is_not_taken_for_another_of_its_name(forward: Forward) -> None:
    model = model_of(forward)
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_recapturing_takes_recorded_inputs() -> None:
    captured = capture(model_of(branching_on_the_mode), X)
    again = recapture(assembled(model_of(branching_on_the_mode), X), captured.inputs)
    assert again.graphs.keys() == captured.graphs.keys()


# -- sharing -------------------------------------------------------------------------------------------------


def test_a_module_used_in_two_places_stays_one() -> None:
    shared = nn.Linear(4, 4)
    model = lively(nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, nn.Tanh())))
    result = assembled(model, X)
    assert result.get_submodule("0") is result.get_submodule("2.0")
    assert list(result.state_dict()) == list(model.state_dict())
    assert_same_in_both_modes(model, result, X)


def test_a_block_used_in_two_places_stays_one() -> None:
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = lively(nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared)))
    result = assembled(model, X)
    assert result.get_submodule("0") is result.get_submodule("2.0")
    assert_same_in_both_modes(model, result, X)


def test_gradients_of_a_module_used_twice_add_up() -> None:
    shared = nn.Linear(4, 4)
    model = lively(nn.Sequential(shared, nn.Tanh(), shared))
    result = assembled(model, X)
    for module in (model, result):
        module(X).square().sum().backward()
    torch.testing.assert_close(result.get_parameter("0.weight").grad, shared.weight.grad, rtol=EXACT, atol=EXACT)


def test_a_module_also_held_in_a_list() -> None:
    class Listed(Model):
        def __init__(self) -> None:
            super().__init__()
            self.order = [self.layer, self.head]

        def forward(self, x: Tensor) -> Tensor:
            for part in self.order:
                x = part(x)
            return x

    model = lively(Listed())
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_a_parameter_also_held_in_a_list() -> None:
    class Listed(Model):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [self.layer.weight, self.head.weight]

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = F.linear(x, weight)
            return x

    model = lively(Listed())
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_the_state_dict_has_the_names_and_the_order_of_the_original() -> None:
    for make, inputs in map(PLAIN.__getitem__, COPIED):
        model = make()
        assert list(assembled(model, inputs).state_dict()) == list(model.state_dict())


# -- inputs --------------------------------------------------------------------------------------------------


def two_inputs(self: Any, first: Tensor, second: Tensor, scale: float = 2.0) -> Tensor:
    return self.head(self.layer(first)) * scale - second  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "inputs",
    [(X, Y), {"first": X, "second": Y}, {"second": Y, "first": X}, {"second": Y, "scale": 3.0, "first": X}],
    ids=["positional", "in order", "out of order", "with the default"],
)
def test_inputs_by_position_and_by_keyword_in_any_order(inputs: Any) -> None:
    model = model_of(two_inputs)
    result = assembled(model, inputs)
    assert_same_in_both_modes(model, result, X, Y)
    assert_same_in_both_modes(model, result, second=Y, first=X)


@pytest.mark.parametrize("inputs", [(X, Y), {"second": Y, "first": X}], ids=["positional", "out of order"])
def test_recapturing_takes_keywords_in_any_order(inputs: Any) -> None:
    model = model_of(two_inputs)
    assert_same_in_both_modes(model, assembled(assembled(model, inputs), inputs), second=Y, first=X)


def test_a_default_argument_stays_an_argument() -> None:
    model = model_of(two_inputs)
    result = assembled(model, (X, Y))
    assert_same_in_both_modes(model, result, X, Y, 5.0)
    assert_same_in_both_modes(model, result, X, Y, scale=5.0)


def keyword_only(self: Any, x: Tensor, *, other: Tensor, scale: float = 2.0) -> Tensor:
    return self.head(self.layer(x)) * scale - other  # type: ignore[no-any-return]


def test_keyword_only_inputs() -> None:
    model = model_of(keyword_only)
    result = assembled(model, {"other": Y, "x": X})
    assert_same_in_both_modes(model, result, X, other=Y)
    assert_same_in_both_modes(model, result, X, scale=3.0, other=Y)


def optional_mask(self: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    hidden = self.layer(x)
    if mask is not None:
        hidden = hidden * mask
    return self.head(hidden)  # type: ignore[no-any-return]


def test_an_optional_input_that_is_given() -> None:
    model = model_of(optional_mask)
    mask = normal(3, 6, seed=2)
    assert_same_in_both_modes(model, assembled(model, (X, mask)), X, mask)


def test_an_optional_input_that_is_not_given() -> None:
    model = model_of(optional_mask)
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_an_optional_mask_of_a_transformer_that_is_not_given() -> None:
    model = lively(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True))
    x = normal(2, 3, 8)
    assert_same_in_both_modes(model, assembled(model, x), x)


def any_number(self: Any, *inputs: Tensor) -> Tensor:
    return self.head(sum(self.layer(x) for x in inputs))  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_inputs(count: int) -> None:
    model = model_of(any_number)
    inputs = (X, Y, X + Y)[:count]
    assert_same_in_both_modes(model, assembled(model, inputs), *inputs)


def one_and_more(self: Any, x: Tensor, *more: Tensor) -> Tensor:
    return self.head(self.layer(x)) + more[0]  # type: ignore[no-any-return]


def test_one_input_and_more() -> None:
    model = model_of(one_and_more)
    assert_same_in_both_modes(model, assembled(model, (X, Y)), X, Y)


def test_recapturing_any_number_of_inputs() -> None:
    model = model_of(one_and_more)
    assert_same_in_both_modes(model, assembled(assembled(model, (X, Y)), (X, Y)), X, Y)


def any_keywords(self: Any, x: Tensor, **more: Tensor) -> Tensor:
    return self.head(self.layer(x)) + more["other"]  # type: ignore[no-any-return]


def test_any_keywords() -> None:
    model = model_of(any_keywords)
    assert_same_in_both_modes(model, assembled(model, {"x": X, "other": Y}), X, other=Y)


def nested(self: Any, batch: list[Any]) -> Tensor:
    return self.head(self.layer(batch[0])) + batch[1]["other"][0]  # type: ignore[no-any-return]


def test_inputs_in_lists_dictionaries_and_tuples() -> None:
    model = model_of(nested)
    batch = [X, {"other": (Y,)}]
    assert_same_in_both_modes(model, assembled(model, (batch,)), batch)
    assert_same_in_both_modes(model, assembled(model, {"batch": batch}), batch)


def unpacking(self: Any, batch: list[Tensor]) -> Tensor:
    first, second = batch
    return self.head(self.layer(first)) + second  # type: ignore[no-any-return]


def test_a_list_of_inputs_can_be_unpacked() -> None:
    model = model_of(unpacking)
    assert_same_in_both_modes(model, assembled(model, ([X, Y],)), [X, Y])


def test_outputs_in_lists_and_dictionaries() -> None:
    def forward(self: Any, x: Tensor) -> dict[str, Any]:
        hidden = self.layer(x)
        return {"hidden": [hidden, (hidden + 1,)], "out": self.head(hidden)}

    model = model_of(forward)
    output = assembled(model, X)(X)
    assert [type(part) for part in (output, output["hidden"], output["hidden"][1])] == [dict, list, tuple]
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_inputs_that_the_forward_does_not_take_are_refused() -> None:
    text = (
        "the model's forward does not take these inputs: got an unexpected keyword argument 'third' "
        "(at Written): pass example_inputs as the model is called"
    )
    with pytest.raises(CaptureError, match=f"^{re.escape(text)}$"):
        capture(model_of(two_inputs), {"first": X, "second": Y, "third": X})


# -- functions with a backward of their own ------------------------------------------------------------------


class Reverse(torch.autograd.Function):
    """Identity whose gradient is turned around and scaled."""

    @staticmethod
    def forward(context: Any, x: Tensor, scale: float) -> Tensor:
        context.scale = scale
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.scale * gradients[0], None


class Taught(torch.autograd.Function):
    """As the identity, and fxgrow has a rule for it."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return 3.0 * gradients[0]


fxgrow.rule(Taught, Pointwise("linear"))


def reversing(self: Any, x: Tensor) -> Tensor:
    return self.head(Reverse.apply(self.layer(Reverse.apply(x, 1.0)), 0.25))  # type: ignore[no-any-return]


def taught(self: Any, x: Tensor) -> Tensor:
    return self.head(torch.relu(Taught.apply(self.layer(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [reversing, taught])
@pytest.mark.parametrize("copied", [lambda module: module, copy.deepcopy, saved_and_loaded])
def test_a_function_keeps_its_backward(forward: Forward, copied: Callable[[Any], Any]) -> None:
    model = model_of(forward)
    result = copied(assembled(model, X))
    for module in (model, result):
        module.zero_grad()
        module(X).square().sum().backward()
    expected = model.get_parameter("layer.weight").grad
    torch.testing.assert_close(result.get_parameter("layer.weight").grad, expected, rtol=EXACT, atol=EXACT)
    assert_same_in_both_modes(model, result, X)


def test_a_function_used_twice_is_one_module() -> None:
    result = assembled(model_of(reversing), X)
    assert [name for name, part in result.named_modules() if isinstance(part, CustomFunction)] == ["_function_0"]


def test_a_function_stays_what_it_was_for_others() -> None:
    apply = torch.autograd.Function.__dict__["apply"]
    assembled(model_of(reversing), X)
    assert torch.autograd.Function.__dict__["apply"] is apply


def test_a_function_with_a_rule_lets_its_dimension_grow() -> None:
    model = model_of(taught)
    grown = fxgrow.grow(model, width=2, example_inputs=X)
    for module in (model, grown):
        module(X).square().sum().backward()
    assert grown.get_submodule("layer").out_features == 12
    torch.testing.assert_close(
        grown.get_parameter("layer.weight").grad[:6], model.get_parameter("layer.weight").grad, rtol=1e-10, atol=1e-12
    )


# -- parametrisations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("copied", [lambda module: module, copy.deepcopy])
def test_parametrised_weights(parametrised: Callable[[nn.Module], nn.Module], copied: Callable[[Any], Any]) -> None:
    model = lively(nn.Sequential(parametrised(nn.Linear(4, 6)), nn.ReLU(), parametrised(nn.Linear(6, 2))))
    result = copied(assembled(model, X))
    assert list(result.state_dict()) == list(model.state_dict())
    assert_same_in_both_modes(model, result, X)


@pytest.mark.parametrize("parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_are_saved_and_loaded(parametrised: Callable[[nn.Module], nn.Module]) -> None:
    model = lively(nn.Sequential(parametrised(nn.Linear(4, 6)), nn.ReLU()))
    assert_same_in_both_modes(model, saved_and_loaded(assembled(model, X)), X)


@pytest.mark.parametrize("parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_gradients_of_parametrised_weights(parametrised: Callable[[nn.Module], nn.Module]) -> None:
    model = lively(nn.Sequential(parametrised(nn.Linear(4, 6)), nn.Tanh())).eval()
    result = assembled(model, X).eval()
    for module in (model, result):
        module(X).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(result.get_parameter(name).grad, parameter.grad, rtol=1e-10, atol=1e-12)


def test_spectral_norm_goes_on_with_its_power_iteration_in_train_mode() -> None:
    model = lively(nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU())).train()
    result = assembled(model, X).train()
    for _ in range(3):
        torch.testing.assert_close(result(X), model(X), rtol=EXACT, atol=EXACT)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(result.get_buffer(name), buffer, rtol=EXACT, atol=EXACT)


# -- constants -----------------------------------------------------------------------------------------------


class Constants(nn.Module):
    """A tensor of every kind that a forward can hold on to."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = normal(4, seed=3)
        self.below = nn.Module()
        self.below.plain = normal(4, seed=4)
        self.listed = [normal(4, seed=5)]
        self.free = nn.Parameter(normal(4, seed=6))
        self.register_buffer("saved", normal(4, seed=7))
        self.register_buffer("scratch", normal(4, seed=8), persistent=False)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) * self.plain + self.below.plain * self.listed[0]  # type: ignore[operator]
        constant = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        return (y * self.free + self.saved) * self.scratch - constant  # type: ignore[operator]


@pytest.mark.parametrize("copied", [lambda module: module, copy.deepcopy, saved_and_loaded])
def test_constants_of_every_kind(copied: Callable[[Any], Any]) -> None:
    model = lively(Constants())
    result = copied(assembled(model, X))
    assert list(result.state_dict()) == list(model.state_dict())
    assert_same_in_both_modes(model, result, X)


def test_plain_tensors_follow_the_dtype_of_the_result() -> None:
    named = dict(assembled(lively(Constants()), X).float().named_buffers())
    made = {name for name in named if name.startswith("_constant_")}  # by the code, which says in which dtype
    assert {named[name].dtype for name in named.keys() - made} == {torch.float32}
    assert made and {named[name].dtype for name in made} == {torch.float64}


def test_constants_are_captured_again() -> None:
    model = lively(Constants())
    assert_same_in_both_modes(model, assembled(assembled(model, X), X), X)


class Placed(nn.Module):
    """Coordinates made on a device that the code names, then sent to where the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, z = torch.meshgrid(*[torch.arange(size, device="cpu") for size in x.shape[:2]], indexing="ij")
        return self.map(x) + (y + z)[:, :1].to(x.device).to(x.dtype)  # type: ignore[no-any-return]


def test_what_is_made_on_a_named_device_is_captured_again() -> None:
    model = lively(Placed())
    assert_same_in_both_modes(model, assembled(assembled(model, X), X), X)


def test_plain_tensors_of_the_original_stay_its_own() -> None:
    model = lively(Constants())
    before = model.plain.clone()  # type: ignore[operator]
    result = assembled(model, X)
    with torch.no_grad():
        result.get_buffer("plain").zero_()
    assert torch.equal(model.plain, before)  # type: ignore[arg-type]


# -- hooks ---------------------------------------------------------------------------------------------------


def doubling(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2.0 * output


def halving(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (0.5 * args[0],)


@pytest.mark.parametrize("path", ["0", "1", "1.0"])
def test_hooks_of_parts_keep_their_effect(path: str) -> None:
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())))
    model.get_submodule(path).register_forward_hook(doubling)
    model.get_submodule(path).register_forward_pre_hook(halving)
    assert_same_in_both_modes(model, assembled(model, X), X)


@pytest.mark.parametrize("hook", [doubling, halving])
def test_hooks_of_the_model_itself_keep_their_effect(hook: Callable[..., Any]) -> None:
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    register = model.register_forward_hook if hook is doubling else model.register_forward_pre_hook
    register(hook)
    assert_same_in_both_modes(model, assembled(model, X), X)


# -- writing in place ----------------------------------------------------------------------------------------


def test_writing_in_place_is_kept() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        same = hidden
        hidden += 1.0
        hidden[:, 0] = 0.5
        hidden.mul_(2.0)
        return same  # type: ignore[no-any-return]

    model = model_of(forward)
    assert_same_in_both_modes(model, assembled(model, X), X)


def test_the_class_of_the_result_is_named_after_the_original() -> None:
    result = assembled(PLAIN["unet"][0](), PLAIN["unet"][1])
    assert isinstance(result, GrownGraphModule)
    assert type(result).__name__ == "UNet"


def test_another_batch_than_at_capture() -> None:
    make, inputs = PLAIN["unet"]
    model = lively(make())
    assert difference(model, assembled(model, inputs), False, normal(5, 3, 24, 24)) <= EXACT


def test_tensors_of_sizes_that_are_measured_follow_the_input() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        count = x.shape[0]
        position = torch.arange(count, dtype=x.dtype)[:, None]
        return (
            self.head(self.layer(x) + position)
            + torch.ones(count, 1)
            + torch.zeros((count, 1))
            + torch.eye(count)[:1, :1]
        )

    model = model_of(forward)
    result = assembled(model, X)
    assert_same_in_both_modes(model, result, normal(9, 4))


def test_torch_is_itself_again_after_capture() -> None:
    apply = torch.autograd.Function.__dict__["apply"]
    with pytest.raises(CaptureError):
        assembled(model_of(lambda self, x: self.head(x) if x.sum() > 0 else x), X)
    assert torch.autograd.Function.__dict__["apply"] is apply
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in (torch.ones(2), torch.arange(3), torch.empty(1), torch.full((2,), 1.0)))


def test_no_model_is_kept_once_it_is_let_go() -> None:
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](torch.relu(self[0](x)))  # type: ignore[no-any-return]

    model: nn.Module = Net(nn.Linear(4, 8), nn.Linear(8, 4))
    kept = [weakref.ref(model.get_submodule("0"))]
    for amount in (1.5, 1.5):
        model = fxgrow.grow(model, amount, example_inputs=torch.randn(2, 4))
        kept.append(weakref.ref(model.get_submodule("0")))
    gc.collect()
    assert [layer() is not None for layer in kept] == [False, False, True]


# -- how often a forward is run ------------------------------------------------------------------------------------


class BySetting(Model):
    """A model whose mode is kept in a setting of its own."""

    sign = 1.0

    def train(self, mode: bool = True) -> Any:
        self.sign = -1.0 if mode else 1.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu()) * self.sign  # type: ignore[no-any-return]


def by_name(self: Any, x: Tensor) -> Tensor:
    h = self.layer(x)
    return self.head(h.relu() if getattr(self.norm, "training") else h.tanh())  # type: ignore[no-any-return] # noqa: B009


def by_function(self: Any, x: Tensor) -> Tensor:
    return self.head(F.dropout(self.layer(x), 0.5, self.head.training))  # type: ignore[no-any-return]


def by_copy(self: Any, x: Tensor) -> Tensor:
    return copy.copy(self.head)(self.layer(x).mul(1 + copy.copy(self.norm).training))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "model",
    [BySetting, *(lambda f=f: model_of(f) for f in (by_name, by_function, by_copy))],
    ids=["setting", "name", "function", "copy"],
)
def test_a_forward_that_asks_for_the_mode_in_any_way_is_recorded_in_both(model: Callable[[], nn.Module]) -> None:
    network = model().double()
    captured = capture(network, X)
    assert "train" in captured.graphs or any(isinstance(part, ByMode) for part in captured.model.modules())
    assert_same_in_both_modes(assembled(network, X), network, X)


def records_of(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> list[str]:
    """The modes in which models are recorded meanwhile."""
    modes: list[str] = []
    plainly = Recording.record

    def noted(self: Recording, mode: str, *rest: Any) -> Any:
        modes.append(mode)
        return plainly(self, mode, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Recording, "record", noted)
        work()
    return modes


def test_a_forward_that_asks_for_nothing_is_recorded_once_and_once_on_other_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))
    x = torch.randn(2, 3, 8, 8)
    assert records_of(monkeypatch, lambda: capture(plain, x)) == ["eval", "eval"]
    assert records_of(monkeypatch, lambda: fxgrow.plan(plain, 2, example_inputs=x)) == ["eval"] * 3  # and the grown one
    asking = nn.Sequential(
        plain, lively(type("Cut", (nn.Module,), {"forward": lambda self, x: x[:, :, : x.shape[2]]})())
    )
    # a forward of the user's own is recorded once more on the same inputs
    assert records_of(monkeypatch, lambda: fxgrow.plan(asking, 2, example_inputs=x)) == ["eval"] * 5


def test_what_a_layer_refuses_in_train_mode_alone_is_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
    with pytest.raises(CaptureError, match="more than 1 value per channel"):
        capture(model, torch.randn(1, 3, 4, 4))
    capture(model, torch.randn(2, 3, 4, 4))


def test_the_mode_of_modules_is_an_ordinary_attribute_again_afterwards() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    capture(model, X.float())
    assert "training" not in vars(nn.Module)
    assert not model.training
    assert model.train().training


def test_layers_alike_are_worked_out_once_and_others_for_themselves() -> None:
    x = torch.randn(2, 4)
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    values = [
        tuple(node.meta["value"].shape) for node in capture(deep, x).graphs["both"].nodes if node.op == "call_module"
    ]
    assert values == [(2, 4), (2, 4), (2, 4), (2, 6), (2, 6), (2, 2)]
    deep[0].register_forward_hook(lambda module, args, output: torch.cat([output, output], 1)[:, 2:6])
    hooked = [node.op for node in capture(deep, x).graphs["both"].nodes]
    assert hooked.count("call_module") == 6


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("name", ["code", "graph", "meta", "to_folder"])
def test_parts_may_have_names_that_graph_modules_of_torch_have(name: str, form: str) -> None:
    model = nn.Sequential()
    for part, layer in (("enter", nn.Linear(3, 6)), (name, nn.Linear(6, 6)), ("leave", nn.Linear(6, 2))):
        model.add_module(part, layer)
    x = normal(2, 3)
    model = lively(model).double()
    grown = fxgrow.grow(model, 2, example_inputs=x, form=form)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    for twin in (grown, copy.deepcopy(grown), pickle.loads(pickle.dumps(grown)), fxgrow.grow(grown, 1.5, verify=False)):
        assert getattr(twin, name) is twin.get_submodule(name)
        torch.testing.assert_close(twin(x), model(x), rtol=1e-12, atol=1e-12)


def test_parts_that_take_what_graph_modules_run_by_are_refused_by_name() -> None:
    model = nn.Sequential()
    model.add_module("recompile", nn.Linear(3, 6))
    model.add_module("leave", nn.Linear(6, 2))
    with pytest.raises(CaptureError, match="a part of the model is called recompile"):
        fxgrow.grow(model, 2, example_inputs=torch.randn(2, 3))


class Pooled(nn.Module):
    """Has a second end, which its forward works out and leaves aside, as where a model is taken for its features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.aside, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        _ = hidden + self.norm(self.aside(hidden))
        return self.head(hidden)


def test_what_is_worked_out_and_left_aside_grows_along() -> None:
    grown: Any = fxgrow.grow(lively(Pooled()), 2, example_inputs=X)
    assert fxgrow.report(grown).plan.form == "module"
    assert (grown.layer.out_features, grown.aside.out_features) == (12, 12)


class HandedOn(nn.Module):
    """An `nn.Identity` for a neck, which is given a list; and a parameter without entries."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.neck, self.head = nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2)
        self.registers = nn.Parameter(torch.empty(1, 0, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.cat([self.layer(x)[:, None], self.registers.expand(len(x), -1, -1)], 1)
        first, second = self.neck([torch.relu(hidden), torch.tanh(hidden)])
        return self.head(first + second)  # type: ignore[no-any-return]


def test_lists_through_an_identity_and_parameters_without_entries() -> None:
    grown: Any = fxgrow.grow(lively(HandedOn()), 2, example_inputs=X)
    assert grown.layer.out_features == 12
    assert grown.registers.shape == (1, 0, 12)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def _is_healthy(model: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(model.layer(x))
    if torch.isnan(hidden).any() or not hidden.isfinite().all():
        hidden = hidden.clamp(-1, 1)
    return model.head(hidden)  # type: ignore[no-any-return]


def _asserts_health(model: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(model.layer(x))
    assert (~torch.isinf(hidden) & torch.isfinite(hidden)).all().item()
    return model.head(hidden)  # type: ignore[no-any-return]


def _has_whole_mask(model: Any, x: Tensor) -> Tensor:
    mask = F.interpolate(torch.ones(1, 1, len(x), device=x.device), size=2).bool()
    return model.head(torch.relu(model.layer(x)) * (2 if mask.all() else 3))  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [_is_healthy, _asserts_health, _has_whole_mask])
def test_questions_to_values_that_have_one_answer(forward: Forward) -> None:
    grown: Any = fxgrow.grow(model_of(forward), 2, example_inputs=X)
    assert grown.layer.out_features == 12
    certificate = fxgrow.report(grown).certificate
    assert str(certificate.verdict) == "PROVED"
    assert any("values are finite" in text for leaf in certificate.leaves() for text in leaf.conditions) == (
        forward is not _has_whole_mask
    )


def test_a_graph_that_would_not_ask_whether_values_are_finite_is_refused() -> None:
    with pytest.raises(fxgrow.FxgrowError, match="that values are finite, which the forward asks"):
        fxgrow.grow(model_of(_is_healthy), 2, example_inputs=X, form="graph")


def _asks_of_weights(model: Any, x: Tensor) -> Tensor:
    return model.head(model.layer(x)) if model.layer.weight.mean() > 0 else x  # type: ignore[no-any-return]


def _asks_of_what_is_written(model: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(len(x), device=x.device)
    mask[0] = x[0, 0]
    return model.head(model.layer(x)) if mask.any() else x  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [_asks_of_weights, _asks_of_what_is_written])
def test_questions_to_other_values_are_refused(forward: Forward) -> None:
    with pytest.raises(CaptureError, match="control flow needs the values"):
        capture(model_of(forward), X)


def _of_both(model: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(model.layer(x))
    return model.head(hidden * ((hidden > -0.5) & (hidden < 0.5) | (hidden > 0.9) ^ (hidden > 0.95)))  # type: ignore[no-any-return]


def _of_both_in_place(model: Any, x: Tensor) -> Tensor:
    hidden = torch.tanh(model.layer(x))
    mask = hidden > -0.5
    shown = mask
    mask &= hidden < 0.5
    mask |= hidden > 0.9
    mask ^= hidden > 0.95
    return model.head(hidden * shown)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("forward", [_of_both, _of_both_in_place])
def test_truth_values_are_combined(forward: Forward, form: str) -> None:
    grown: Any = fxgrow.grow(model_of(forward), 2, example_inputs=X, form=form)
    assert grown.layer.out_features == 12
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


class Changing(nn.Module):
    """Computes something else in train mode, so that two graphs stand for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h.relu() if self.training else h.tanh().abs())


def test_what_a_graph_runs_goes_by_its_own_mode_and_not_by_that_of_a_twin() -> None:
    model, x = Changing().double(), torch.randn(2, 4).double()
    grown = fxgrow.grow(model, width=2, example_inputs=x, form="graph").eval()
    twin = twin_of(grown, share=True)
    twin.train()
    torch.testing.assert_close(grown(x), model.eval()(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(twin(x), model.train()(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(grown(x), model.eval()(x), rtol=0, atol=1e-14)
    grown.training = True  # as where a part's mode is put back
    torch.testing.assert_close(grown(x), model.train()(x), rtol=0, atol=1e-14)
