"""Example inputs: brought into form, described as data and recalled, derived from what libraries know."""

from __future__ import annotations

import copy
import json
import re
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.capture.inputs import GIVEN, described, example_inputs_for, fitted, recalled, registered_inputs
from fxgrow.errors import CaptureError
from fxgrow.modules.containers import each_tensor, flat_tensors

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]

tensors = st.builds(
    lambda shape, dtype: torch.empty(shape, dtype=dtype, device="meta"),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(DTYPES),
)
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4))


def containers(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
        max_leaves=8,
    )


inputs = containers(st.one_of(tensors, plain))


class Pair(NamedTuple):
    left: Any
    right: Any


def assert_alike(first: Any, second: Any) -> None:
    """The same containers, types and values, and tensors of the same shape and dtype."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert (first.shape, first.dtype, first.device) == (second.shape, second.dtype, second.device)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_alike(first[key], second[key])
    elif isinstance(first, (tuple, list)):
        for left, right in zip(first, second, strict=True):
            assert_alike(left, right)
    else:
        assert first == second


# -- each_tensor ---------------------------------------------------------------------------------------------


@given(inputs)
def test_each_tensor_with_nothing_to_do_changes_nothing(value: Any) -> None:
    assert_alike(each_tensor(value, lambda tensor: tensor), value)


@given(inputs)
def test_each_tensor_visits_tensors_in_the_order_of_flat_tensors(value: Any) -> None:
    visited: list[Tensor] = []
    each_tensor(value, visited.append)
    assert [id(tensor) for tensor in visited] == [id(tensor) for tensor in flat_tensors(value)]


@given(inputs)
def test_each_tensor_leaves_its_argument_alone(value: Any) -> None:
    before = copy.deepcopy(value)
    each_tensor(value, lambda tensor: None)
    assert_alike(value, before)


def test_each_tensor_replaces_tensors_by_anything() -> None:
    value = {"a": [torch.ones(2), 3], "b": (torch.ones(4),)}
    assert each_tensor(value, lambda tensor: tensor.numel()) == {"a": [2, 3], "b": (4,)}


def test_each_tensor_keeps_named_tuples() -> None:
    assert each_tensor(Pair(torch.ones(2), [torch.ones(3)]), Tensor.numel) == Pair(2, [3])


def test_each_tensor_keeps_named_tuples_made_without_a_class() -> None:
    point = namedtuple("point", ["x", "y"])
    assert each_tensor(point(torch.ones(2), None), Tensor.numel) == point(2, None)


def test_each_tensor_keeps_the_order_of_dictionaries() -> None:
    assert list(each_tensor({"z": torch.ones(1), "a": 1}, Tensor.numel).items()) == [("z", 1), ("a", 1)]


def test_each_tensor_reaches_into_every_mapping() -> None:
    assert each_tensor(OrderedDict(a=torch.ones(2)), Tensor.numel) == {"a": 2}


# -- described, recalled -------------------------------------------------------------------------------------


@given(inputs)
def test_what_is_described_is_recalled(value: Any) -> None:
    assert_alike(recalled(described(value)), value)


@given(inputs)
def test_a_description_survives_json(value: Any) -> None:
    assert_alike(recalled(json.loads(json.dumps(described(value)))), value)


@given(inputs)
def test_describing_again_gives_the_same_description(value: Any) -> None:
    assert described(recalled(described(value))) == described(value)


@given(inputs)
def test_a_description_holds_no_tensors(value: Any) -> None:
    assert list(flat_tensors(described(value))) == []


@given(inputs)
def test_a_description_can_be_compared_and_hashed(value: Any) -> None:
    assert hash(described(value)) == hash(described(copy.deepcopy(value)))


def test_keys_that_are_no_strings_are_recalled() -> None:
    assert_alike(recalled(described({0: 1.5, "a": 2.5})), {0: 1.5, "a": 2.5})


def test_descriptions_tell_lists_from_tuples() -> None:
    assert described([1]) != described((1,))


def test_values_are_not_described() -> None:
    assert described(torch.ones(2, 3)) == described(torch.zeros(2, 3)) == ("tensor", (2, 3), "float32")


def test_named_tuples_are_recalled_as_such() -> None:
    pair = recalled(described(Pair(1, torch.tensor([3, 2]))))
    assert type(pair) is Pair and pair[0] == 1
    assert pair[1].is_meta and getattr(pair[1], GIVEN, None) is None


def test_complex_inputs_are_no_indices() -> None:
    (waves,), _ = example_inputs_for(nn.Linear(2, 2), (torch.randn(3, dtype=torch.complex64),))
    assert recalled(json.loads(json.dumps(described(waves)))).dtype is torch.complex64


def test_a_few_indices_that_were_given_are_kept() -> None:
    (lengths,), _ = example_inputs_for(nn.Linear(2, 2), (torch.tensor([3, 2]),))
    kept = recalled(json.loads(json.dumps(described(lengths))))
    assert kept.is_meta and getattr(kept, GIVEN).tolist() == [3, 2]
    assert described(kept) == described(lengths)


@pytest.mark.parametrize("value", [{1, 2}, object()], ids=["set", "object"])
def test_an_argument_that_is_not_data_is_described_and_not_recalled(value: Any) -> None:
    description = described((value,))
    text = f"an input was a {type(value).__name__}, which is not kept: pass example_inputs"
    with pytest.raises(CaptureError, match=f"^{re.escape(text)}$"):
        recalled(description)


def test_the_inputs_of_a_plan_survive_its_json() -> None:
    class Gathered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, batch: list[Any], flag: bool = True) -> Tensor:
            return self.leave(torch.relu(self.enter(batch[0] + batch[1]["more"])))

    batch = [torch.randn(2, 4), {"more": torch.randn(2, 4)}]
    planned = fxgrow.plan(Gathered(), width=2, example_inputs=(batch,))
    again = json.loads(json.dumps(planned.inputs))
    assert_alike(
        recalled(again), (([torch.empty(2, 4, device="meta"), {"more": torch.empty(2, 4, device="meta")}],), {})
    )


# -- given inputs --------------------------------------------------------------------------------------------


def test_a_tensor_is_the_only_argument() -> None:
    assert_alike(example_inputs_for(nn.Linear(4, 4), torch.randn(2, 4)), ((torch.empty(2, 4, device="meta"),), {}))


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_sequence_is_the_arguments(kind: type) -> None:
    args, kwargs = example_inputs_for(nn.Linear(4, 4), kind([torch.randn(2, 4), 3]))
    assert_alike(args, (torch.empty(2, 4, device="meta"), 3))
    assert kwargs == {}


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_mapping_of_names_is_keyword_arguments(kind: type) -> None:
    args, kwargs = example_inputs_for(nn.Linear(4, 4), kind(input=torch.randn(2, 4)))
    assert args == ()
    assert_alike(kwargs, {"input": torch.empty(2, 4, device="meta")})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_floating_point_inputs_get_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 4).to(dtype)
    for given_dtype in (torch.float32, torch.float64, torch.float16):
        (tensor,), _ = example_inputs_for(model, torch.zeros(2, 4, dtype=given_dtype))
        assert tensor.dtype is dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_other_inputs_keep_their_dtype(dtype: torch.dtype) -> None:
    (tensor,), _ = example_inputs_for(nn.Linear(4, 4).double(), torch.zeros(2, 4, dtype=dtype))
    assert (tensor.dtype, tensor.is_meta) == (dtype, True)


def test_nested_inputs_are_fitted_too() -> None:
    value = [torch.zeros(2), {"a": (torch.zeros(3), 1, None)}]
    ((nested,), _) = example_inputs_for(nn.Linear(4, 4).double(), (value,))
    assert [(tensor.dtype, tensor.is_meta) for tensor in flat_tensors(nested)] == [(torch.float64, True)] * 2


def test_a_model_without_parameters_takes_inputs_as_they_are() -> None:
    (tensor,), _ = fitted(nn.ReLU(), ((torch.zeros(2, dtype=torch.float16),), {}))
    assert (tensor.dtype, tensor.is_meta) == (torch.float16, True)


def test_given_inputs_are_left_alone() -> None:
    x = torch.randn(2, 4)
    before = x.clone()
    example_inputs_for(nn.Linear(4, 4).double(), x)
    assert torch.equal(x, before)
    assert x.dtype is torch.float32


@pytest.mark.parametrize(
    ("given_inputs", "text"),
    [
        (3, "example_inputs is a int: pass a tensor, a tuple of arguments or a dict of keyword arguments"),
        (
            {1: torch.zeros(2)},
            "example_inputs has the key 1, which is not the name of an argument: pass a dict of keyword arguments",
        ),
    ],
    ids=["number", "key"],
)
def test_what_is_not_inputs_is_refused(given_inputs: Any, text: str) -> None:
    with pytest.raises(CaptureError, match=f"^{re.escape(text)}$"):
        example_inputs_for(nn.Linear(4, 4), given_inputs)


# -- derived inputs ------------------------------------------------------------------------------------------


@pytest.fixture
def on_meta() -> Iterator[None]:
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(("name", "size"), [("test_resnet", 160), ("test_vit", 160), ("resnet18", 224)])
def test_timm_says_the_size_of_its_models(name: str, size: int) -> None:
    (image,), kwargs = example_inputs_for(timm.create_model(name))
    assert (tuple(image.shape), kwargs) == ((2, 3, size, size), {})


@pytest.mark.usefixtures("on_meta")
def test_a_size_that_timm_was_given_is_the_one_of_the_model() -> None:
    (image,), _ = example_inputs_for(timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1))
    assert tuple(image.shape) == (2, 3, 96, 96)


@pytest.mark.usefixtures("on_meta")
def test_channels_that_timm_was_given_are_the_ones_of_the_model() -> None:
    (image,), _ = example_inputs_for(timm.create_model("test_resnet", in_chans=1))
    assert tuple(image.shape) == (2, 1, 160, 160)


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("inception_v3", 299)])
def test_torchvision_says_the_size_of_its_models(name: str, size: int) -> None:
    (image,), kwargs = example_inputs_for(torchvision.models.get_model(name))
    assert (tuple(image.shape), kwargs) == ((2, 3, size, size), {})


@pytest.mark.usefixtures("on_meta")
def test_derived_inputs_have_the_dtype_of_the_model() -> None:
    (image,), _ = example_inputs_for(timm.create_model("test_resnet").half())
    assert image.dtype is torch.float16


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", [(2, 3, 224, 224)]),
        ("inception_v3", [(2, 3, 299, 299)]),
        ("r3d_18", [(1, 3, 16, 112, 112)]),
        ("fcn_resnet50", [(2, 3, 224, 224)]),
        ("raft_small", [(2, 3, 128, 128), (2, 3, 128, 128)]),
        ("retinanet_resnet50_fpn", [(3, 240, 320), (3, 240, 320)]),
    ],
)
def test_the_registered_inputs_of_a_torchvision_model(name: str, shapes: list[tuple[int, ...]]) -> None:
    assert [tuple(tensor.shape) for tensor in flat_tensors(registered_inputs(name))] == shapes


def test_a_plain_model_says_nothing_of_its_inputs() -> None:
    text = (
        "the shape of the inputs of Sequential cannot be derived: "
        "pass example_inputs, a tensor or a tuple of tensors of the right shapes"
    )
    with pytest.raises(CaptureError, match=f"^{re.escape(text)}$"):
        example_inputs_for(nn.Sequential(nn.Linear(4, 4)))


def test_a_grown_model_remembers_its_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    grown = fxgrow.grow(model, width=2, example_inputs={"input": torch.randn(3, 4)})
    assert_alike(example_inputs_for(grown), ((), {"input": torch.empty(3, 4, device="meta")}))
