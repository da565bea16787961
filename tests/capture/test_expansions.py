"""Torch's attention and transformer layers, spelled out, compute what torch's own forwards compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import fxgrow
from fxgrow.capture.expansions import EXPANSIONS
from tests.capture.assembled import EXACT, assembled, assert_same_in_both_modes, difference, normal
from tests.models import lively
from tests.pairing import in_turn

WIDTH, HEADS, BATCH, LENGTH, MEMORY = 8, 2, 3, 4, 5
BOTH = pytest.mark.parametrize("batch_first", [True, False])


class Around(nn.Module):
    """A layer called with its inputs by name, and with further options that are no tensors."""

    def __init__(self, inner: nn.Module, names: tuple[str, ...], **options: Any) -> None:
        super().__init__()
        self.inner = inner
        self.names = names
        self.options = options

    def forward(self, *args: Any) -> Any:
        return self.inner(**dict(zip(self.names, args, strict=True)), **self.options)


def assert_expands(inner: nn.Module, tensors: dict[str, Tensor], **options: Any) -> None:
    """The layer is taken apart, and computes the same in eval and in train mode."""
    model = lively_but_noisy(Around(inner, tuple(tensors), **options))
    graphs = assembled(model, tuple(tensors.values()))
    called = {type(graphs.get_submodule(str(n.target))) for n in graphs.graph.nodes if n.op == "call_module"}
    assert not called & EXPANSIONS.keys()
    assert_same_in_both_modes(model, graphs, *tensors.values())


def lively_but_noisy(model: nn.Module) -> nn.Module:
    """`lively`, with the rates of dropout as they were."""
    rates = [(m, "p", m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    rates += [(m, "dropout", m.dropout) for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    model = lively(model)
    for module, name, rate in rates:
        setattr(module, name, rate)
    return model


def sequence(length: int, batch_first: bool, width: int = WIDTH, seed: int = 0) -> Tensor:
    return normal(BATCH, length, width, seed=seed) if batch_first else normal(length, BATCH, width, seed=seed)


def hiding(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A boolean mask that leaves every row something to look at."""
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0] = False
    return mask


def mask_of(kind: str, rows: int, columns: int) -> dict[str, Tensor]:
    hidden = hiding(rows, columns)
    if kind == "none":
        return {}
    if kind == "boolean":
        return {"attn_mask": hidden}
    if kind == "infinite":
        return {"attn_mask": torch.zeros(rows, columns, dtype=torch.float64).masked_fill(hidden, float("-inf"))}
    return {"attn_mask": normal(rows, columns, seed=5)}


def padding_of(kind: str) -> dict[str, Tensor]:
    if kind == "none":
        return {}
    if kind == "boolean":
        return {"key_padding_mask": hiding(BATCH, MEMORY, seed=1)}
    return {"key_padding_mask": normal(BATCH, MEMORY, seed=6)}


def causal(length: int) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)


# -- attention -----------------------------------------------------------------------------------------------


@settings(max_examples=2 * settings.default.max_examples // 5)
@given(
    batch_first=st.booleans(),
    bias=st.booleans(),
    dimensions=st.sampled_from([(None, None), (6, None), (None, 7), (6, 7)]),
    mask=st.sampled_from(["none", "boolean", "infinite", "float"]),
    padding=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
)
def test_attention_over_all_options(
    batch_first: bool,
    bias: bool,
    dimensions: tuple[int | None, int | None],
    mask: str,
    padding: bool,
    need_weights: bool,
    average: bool,
) -> None:
    key_width, value_width = dimensions
    inner = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, kdim=key_width, vdim=value_width, batch_first=batch_first)
    tensors = {
        "query": sequence(LENGTH, batch_first, seed=1),
        "key": sequence(MEMORY, batch_first, key_width or WIDTH, seed=2),
        "value": sequence(MEMORY, batch_first, value_width or WIDTH, seed=3),
        **mask_of(mask, LENGTH, MEMORY),
        **padding_of(("float" if mask in ("infinite", "float") else "boolean") if padding else "none"),
    }
    assert_expands(inner, tensors, need_weights=need_weights, average_attn_weights=average)


@BOTH
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_boolean_mask_and_a_float_padding_add_up(batch_first: bool, need_weights: bool) -> None:
    inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
    memory = sequence(MEMORY, batch_first, seed=2)
    tensors = {"query": sequence(LENGTH, batch_first), "key": memory, "value": memory}
    assert_expands(
        inner, {**tensors, **mask_of("boolean", LENGTH, MEMORY), **padding_of("float")}, need_weights=need_weights
    )


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        attended: tuple[Tensor, Tensor | None] = self.attention(x, x, x)
        return attended


@BOTH
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_projects_once(batch_first: bool, bias: bool) -> None:
    model = lively(SelfAttention(batch_first=batch_first, bias=bias))
    x = sequence(LENGTH, batch_first)
    graphs = assembled(model, x)
    assert sum("linear" in str(node.target) for node in graphs.graph.nodes) == 2
    assert_same_in_both_modes(model, graphs, x)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_causal_hint_beside_its_mask(need_weights: bool, padded: bool) -> None:
    x = sequence(MEMORY, True)
    tensors = {"query": x, "key": x, "value": x, "attn_mask": causal(MEMORY)}
    tensors |= padding_of("float") if padded else {}
    assert_expands(
        nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), tensors, is_causal=True, need_weights=need_weights
    )


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_a_mask_for_each_sample_and_head(need_weights: bool, kind: str) -> None:
    memory = sequence(MEMORY, True, seed=2)
    flat = mask_of(kind, BATCH * HEADS * LENGTH, MEMORY)["attn_mask"]
    tensors = {
        "query": sequence(LENGTH, True),
        "key": memory,
        "value": memory,
        "attn_mask": flat.reshape(BATCH * HEADS, LENGTH, MEMORY),
    }
    assert_expands(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), tensors, need_weights=need_weights)


@pytest.mark.parametrize("need_weights", [True, False])
@BOTH
def test_attention_with_dropout_once_the_noise_is_off(batch_first: bool, need_weights: bool) -> None:
    memory = sequence(MEMORY, batch_first, seed=2)
    tensors = {"query": sequence(LENGTH, batch_first), "key": memory, "value": memory}
    inner = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=batch_first)
    assert_expands(inner, tensors, need_weights=need_weights)


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_keeps_its_dropout_in_train_mode_only(need_weights: bool) -> None:
    x = normal(4, 16, WIDTH)
    model = lively_but_noisy(
        Around(nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5), ("query", "key", "value"), need_weights=need_weights)
    )
    graphs = assembled(model, (x, x, x))
    assert torch.equal(graphs.eval()(x, x, x)[0], graphs(x, x, x)[0])
    assert not torch.equal(graphs.train()(x, x, x)[0], graphs(x, x, x)[0])


def test_unbatched_attention() -> None:
    memory = normal(MEMORY, WIDTH, seed=2)
    assert_expands(
        nn.MultiheadAttention(WIDTH, HEADS), {"query": normal(LENGTH, WIDTH), "key": memory, "value": memory}
    )


@BOTH
@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "kdim": 6}])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_further_keys(options: dict[str, Any], masked: bool, batch_first: bool) -> None:
    query, memory = sequence(LENGTH, batch_first), sequence(MEMORY, batch_first, seed=2)
    tensors = {"query": query, "key": memory[..., : options.get("kdim", WIDTH)], "value": memory}
    masks: dict[str, Tensor] = {
        "attn_mask": normal(LENGTH, MEMORY),
        "key_padding_mask": torch.arange(MEMORY).expand(BATCH, -1) > 3,
    }
    inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, **options)
    for need_weights in (False, True):
        assert_expands(inner, {**tensors, **(masks if masked else {})}, need_weights=need_weights)


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, add_zero_attn=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(self.attention(h, h, h)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["zero", "mirror"])
def test_further_keys_grow(init: str) -> None:
    model, x = lively(Attended()), normal(LENGTH, BATCH, 6)
    grown = fxgrow.grow(model, 2, init=init, example_inputs=x)
    assert isinstance(grown, Attended) and grown.attention.bias_k.shape == (1, 1, 2 * WIDTH)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    torch.testing.assert_close(grown(x), model(x), rtol=1e-10, atol=1e-12)


def test_a_hook_on_attention_still_changes_its_output() -> None:
    model = lively(SelfAttention())
    model.get_submodule("attention").register_forward_hook(lambda module, args, output: (2.0 * output[0], output[1]))
    x = sequence(LENGTH, True)
    assert_same_in_both_modes(model, assembled(model, x), x)


# -- layers and stacks ---------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Any] = {"relu": "relu", "gelu": "gelu", "function": F.silu, "module": nn.Tanh()}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "encoder": nn.TransformerEncoderLayer,
    "decoder": nn.TransformerDecoderLayer,
}


def layer_inputs(name: str, batch_first: bool) -> dict[str, Tensor]:
    x = sequence(LENGTH, batch_first)
    return {"src": x} if name == "encoder" else {"tgt": x, "memory": sequence(MEMORY, batch_first, seed=2)}


def layer_masks(name: str, kind: str) -> dict[str, Tensor]:
    if kind == "none":
        return {}
    prefix = "src" if name == "encoder" else "tgt"
    boolean = kind == "boolean"
    padding = hiding(BATCH, LENGTH, seed=3)
    masks = {
        f"{prefix}_mask": torch.isinf(causal(LENGTH)) if boolean else causal(LENGTH),
        f"{prefix}_key_padding_mask": padding if boolean else 0.3 * padding.double(),
    }
    if name == "decoder":
        masks["memory_mask"] = mask_of("boolean" if boolean else "float", LENGTH, MEMORY)["attn_mask"]
        masks["memory_key_padding_mask"] = padding_of(kind)["key_padding_mask"]
    return masks


@settings(max_examples=2 * settings.default.max_examples // 5)
@given(
    name=st.sampled_from(list(LAYERS)),
    batch_first=st.booleans(),
    norm_first=st.booleans(),
    bias=st.booleans(),
    activation=st.sampled_from(list(ACTIVATIONS)),
    masks=st.sampled_from(["none", "boolean", "float"]),
)
def test_layers_over_all_options(
    name: str, batch_first: bool, norm_first: bool, bias: bool, activation: str, masks: str
) -> None:
    assume((name, activation) != ("decoder", "module"))  # torch's copies of this one forget the activation
    inner = LAYERS[name](
        WIDTH,
        HEADS,
        12,
        dropout=0.0,
        activation=ACTIVATIONS[activation],
        batch_first=batch_first,
        norm_first=norm_first,
        bias=bias,
        layer_norm_eps=1e-3,
    )
    assert_expands(inner, {**layer_inputs(name, batch_first), **layer_masks(name, masks)})


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_decoder_layer_whose_activation_is_a_module(norm_first: bool) -> None:
    model = lively(
        nn.TransformerDecoderLayer(
            WIDTH, HEADS, 12, dropout=0.0, activation=nn.Tanh(), batch_first=True, norm_first=norm_first
        )
    )
    tensors = tuple(layer_inputs("decoder", True).values())
    output = assembled(Around(model, ("tgt", "memory")), tensors)(*tensors)
    torch.testing.assert_close(output, model(*tensors), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_dropout_once_the_noise_is_off(name: str, norm_first: bool) -> None:
    inner = LAYERS[name](WIDTH, HEADS, 12, dropout=0.5, batch_first=True, norm_first=norm_first)
    assert_expands(inner, layer_inputs(name, True))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_causal_hints_beside_their_masks(name: str) -> None:
    inner = LAYERS[name](WIDTH, HEADS, 12, dropout=0.0, batch_first=True)
    prefix, option = ("src", "is_causal") if name == "encoder" else ("tgt", "tgt_is_causal")
    tensors = {**layer_inputs(name, True), f"{prefix}_mask": causal(LENGTH)}
    assert_expands(inner, tensors, **{option: True})


def stack(name: str, batch_first: bool, norm: bool) -> nn.Module:
    layer = LAYERS[name](WIDTH, HEADS, 12, dropout=0.0, batch_first=batch_first, norm_first=norm)
    last = nn.LayerNorm(WIDTH) if norm else None
    if name == "encoder":
        return nn.TransformerEncoder(layer, 2, last)  # type: ignore[arg-type]
    return nn.TransformerDecoder(layer, 2, last)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "how"),
    in_turn(itertools.product(LAYERS, ("none", "boolean", "float")), list(itertools.product((True, False), repeat=2))),
    ids=lambda values: "-".join(map(str, values)),
)
def test_stacks(case: tuple[str, str], how: tuple[bool, bool]) -> None:
    (name, masks), (norm, batch_first) = case, how
    tensors = {**layer_inputs(name, batch_first), **layer_masks(name, masks)}
    if name == "encoder" and "src_mask" in tensors:
        tensors["mask"] = tensors.pop("src_mask")
    assert_expands(stack(name, batch_first, norm), tensors)


@BOTH
@pytest.mark.parametrize(("norm_first", "masked"), in_turn((True, False), (True, False)))
def test_the_whole_transformer(batch_first: bool, norm_first: bool, masked: bool) -> None:
    inner = nn.Transformer(
        WIDTH, HEADS, 1, 1, 12, dropout=0.0, batch_first=batch_first, norm_first=norm_first, activation="gelu"
    )
    tensors = {"src": sequence(MEMORY, batch_first, seed=2), "tgt": sequence(LENGTH, batch_first)}
    if masked:
        tensors |= {
            "tgt_mask": causal(LENGTH),
            "memory_mask": mask_of("float", LENGTH, MEMORY)["attn_mask"],
            "src_key_padding_mask": padding_of("float")["key_padding_mask"],
        }
    assert_expands(inner, tensors)


@pytest.mark.parametrize(
    ("dim", "sizes"), [(1, (2, 4)), (-1, (2, 2, 2)), (1, (-1, 2)), (1, torch.Size([4, 2]))], ids=str
)
def test_unflatten(dim: int, sizes: tuple[int, ...]) -> None:
    assert_expands(nn.Unflatten(dim, sizes), {"input": normal(BATCH, 8)})


def test_unflatten_called_by_position() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.ReLU()).double()
    assert_same_in_both_modes(model, assembled(model, normal(BATCH, 4)), normal(BATCH, 4))


def test_gradients_reach_every_parameter_as_they_do_in_torch() -> None:
    model = lively(nn.TransformerDecoderLayer(WIDTH, HEADS, 12, dropout=0.0, batch_first=True))
    x, memory = sequence(LENGTH, True), sequence(MEMORY, True, seed=2)
    graphs = assembled(model, (x, memory))
    for module in (model, graphs):
        module(x, memory).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(graphs.get_parameter(name).grad, parameter.grad, rtol=1e-10, atol=1e-12)


def test_another_batch_and_length_than_at_capture() -> None:
    model = lively(nn.TransformerEncoderLayer(WIDTH, HEADS, 12, dropout=0.0, batch_first=True))
    graphs = assembled(model, normal(2, 3, WIDTH))
    assert difference(model, graphs, False, normal(5, 7, WIDTH)) <= EXACT


class UnderBias(nn.Module):
    """Attention under an object of torch's in place of a causal mask, which has no values."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        super().__init__()
        self.to_q, self.to_kv, self.make = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), make

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, (k, v) = self.to_q(x), self.to_kv(memory).chunk(2, -1)
        bias = self.make(x.shape[1], memory.shape[1])
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=bias)[:, 0]


OUTSIDE = causal_lower_right(LENGTH, MEMORY)


@pytest.mark.parametrize("make", [causal_lower_right, causal_upper_left, lambda *sizes: OUTSIDE])
def test_attention_under_an_object_in_place_of_a_mask(make: Callable[[int, int], Any]) -> None:
    model = lively(UnderBias(make))
    x, memory = sequence(LENGTH, True), sequence(MEMORY, True, seed=2)
    graphs = assembled(model, (x, memory))
    assert difference(model, graphs, False, x, memory) <= EXACT
    if make in (causal_lower_right, causal_upper_left):
        assert difference(model, graphs, False, x[:, :3], sequence(7, True, seed=3)) <= EXACT
