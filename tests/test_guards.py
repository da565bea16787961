"""Norms over the old units only: torch's own where the old units are all units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from fxgrow import guards

Ranges = tuple[tuple[int, int], ...]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def chosen(ranges: Ranges) -> list[int]:
    return [unit for start, stop in ranges for unit in range(start, stop)]


@st.composite
def ranges_within(draw: st.DrawFn, size: int) -> Ranges:
    """One to three ranges, in order and apart."""
    ends = sorted(draw(st.sets(st.integers(0, size), min_size=2, max_size=6)))
    return tuple(zip(ends[::2], ends[1::2], strict=False))


shapes = st.lists(st.integers(1, 4), max_size=3)
affines = st.tuples(st.booleans(), st.booleans())


# -- core ----------------------------------------------------------------------------------------------------


@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_core_picks_the_units_in_the_ranges(data: st.DataObject, shape: list[int], from_the_end: bool) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    ranges = data.draw(ranges_within(shape[dim]))
    x = normal(*shape)
    output = guards.core(x, dim - len(shape) if from_the_end else dim, ranges)
    assert torch.equal(output, x.index_select(dim, torch.tensor(chosen(ranges))))


def test_core_of_one_range_copies_nothing() -> None:
    x = normal(3, 6)
    assert guards.core(x, 1, ((1, 4),)).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_core_takes_ranges_as_lists() -> None:
    assert guards.core(torch.arange(6), 0, [[0, 2], [4, 5]]).tolist() == [0, 1, 4]


def test_core_passes_gradients_to_its_units_only() -> None:
    x = normal(6).requires_grad_()
    guards.core(x, 0, ((0, 2), (4, 5))).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0, 1, 0]


# -- all units are core --------------------------------------------------------------------------------------


@given(shapes, st.integers(1, 9), affines)
def test_layer_norm_over_all_units_is_torch_s(shape: list[int], size: int, affine: tuple[bool, bool]) -> None:
    x = normal(*shape, size)
    weight, bias = (normal(size, seed=k + 1) if present else None for k, present in enumerate(affine))
    output = guards.layer_norm(x, (size,), weight, bias, 1e-5, ((0, size),))
    assert_near(output, F.layer_norm(x, (size,), weight, bias, 1e-5))


@given(shapes, st.integers(1, 9), st.booleans(), st.sampled_from([None, 1e-6, 1e-2]))
def test_rms_norm_over_all_units_is_torch_s(shape: list[int], size: int, affine: bool, eps: float | None) -> None:
    x = normal(*shape, size)
    weight = normal(size, seed=1) if affine else None
    assert_near(guards.rms_norm(x, (size,), weight, eps, ((0, size),)), F.rms_norm(x, (size,), weight, eps))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(2, 4), max_size=3), affines)
def test_group_norm_over_all_units_is_torch_s(
    batch: int, groups: int, size: int, space: list[int], affine: tuple[bool, bool]
) -> None:
    x = normal(batch, groups * size, *space)
    weight, bias = (normal(groups * size, seed=k + 1) if present else None for k, present in enumerate(affine))
    output = guards.group_norm(x, groups, weight, bias, 1e-5, ((0, size),))
    if size > 1 or space:
        assert_near(output, F.group_norm(x, groups, weight, bias, 1e-5))
    else:  # torch refuses the statistics of a single value
        assert_near(output, torch.zeros_like(x) if bias is None else bias.expand_as(x))


@DTYPES
def test_layer_norm_in_each_dtype(dtype: torch.dtype) -> None:
    x, weight, bias = normal(5, 16, dtype=dtype), normal(16, seed=1, dtype=dtype), normal(16, seed=2, dtype=dtype)
    output = guards.layer_norm(x, (16,), weight, bias, 1e-5, ((0, 16),))
    assert_near(output, F.layer_norm(x, (16,), weight, bias, 1e-5))


@DTYPES
@pytest.mark.parametrize("eps", [None, 1e-6])
def test_rms_norm_in_each_dtype(dtype: torch.dtype, eps: float | None) -> None:
    x, weight = normal(5, 16, dtype=dtype), normal(16, seed=1, dtype=dtype)
    assert_near(guards.rms_norm(x, (16,), weight, eps, ((0, 16),)), F.rms_norm(x, (16,), weight, eps))


@DTYPES
def test_rms_norm_without_an_epsilon_takes_that_of_torch_for_tiny_inputs(dtype: torch.dtype) -> None:
    x = normal(5, 16, dtype=dtype) * 1e-3
    assert_near(guards.rms_norm(x, (16,), None, None, ((0, 16),)), F.rms_norm(x, (16,), None, None))


@DTYPES
def test_group_norm_in_each_dtype(dtype: torch.dtype) -> None:
    x, weight, bias = normal(2, 8, 3, 3, dtype=dtype), normal(8, seed=1, dtype=dtype), normal(8, seed=2, dtype=dtype)
    assert_near(guards.group_norm(x, 2, weight, bias, 1e-5, ((0, 4),)), F.group_norm(x, 2, weight, bias, 1e-5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_statistics_are_taken_in_float32(dtype: torch.dtype) -> None:
    x = (100 + normal(3, 64)).to(dtype)
    assert_near(guards.layer_norm(x, (64,), None, None, 1e-5, ((0, 64),)), F.layer_norm(x, (64,), None, None, 1e-5))


def test_values_far_from_zero_keep_their_variance() -> None:
    x = 1e6 + normal(3, 16)
    output = guards.layer_norm(x, (16,), None, None, 1e-5, ((0, 16),))
    torch.testing.assert_close(output, F.layer_norm(x, (16,), None, None, 1e-5), rtol=1e-8, atol=1e-8)


# -- some units are core -------------------------------------------------------------------------------------


@given(st.data(), shapes, st.integers(1, 9), affines)
def test_layer_norm_takes_mean_and_variance_of_the_core(
    data: st.DataObject, shape: list[int], size: int, affine: tuple[bool, bool]
) -> None:
    ranges = data.draw(ranges_within(size))
    x = normal(*shape, size)
    weight, bias = (normal(size, seed=k + 1) if present else None for k, present in enumerate(affine))
    old = x[..., chosen(ranges)]
    expected = (x - old.mean(-1, keepdim=True)) / (old.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = expected * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)
    assert_near(guards.layer_norm(x, (size,), weight, bias, 1e-5, ranges), expected)


@given(st.data(), shapes, st.integers(1, 9), st.booleans())
def test_rms_norm_takes_the_mean_square_of_the_core(
    data: st.DataObject, shape: list[int], size: int, affine: bool
) -> None:
    ranges = data.draw(ranges_within(size))
    x = normal(*shape, size)
    weight = normal(size, seed=1) if affine else None
    expected = x / (x[..., chosen(ranges)].square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = expected * (1.0 if weight is None else weight)
    assert_near(guards.rms_norm(x, (size,), weight, 1e-6, ranges), expected)


@given(st.data(), st.integers(1, 3), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=2))
def test_group_norm_takes_the_statistics_of_the_core_of_each_group(
    data: st.DataObject, groups: int, size: int, space: list[int]
) -> None:
    ranges = data.draw(ranges_within(size))
    x = normal(2, groups * size, *space)
    expected = torch.empty_like(x)
    for sample in range(2):
        for group in range(groups):
            part = x[sample, group * size : (group + 1) * size]
            old = part[chosen(ranges)]
            normalised = (part - old.mean()) / (old.var(correction=0) + 1e-5).sqrt()
            expected[sample, group * size : (group + 1) * size] = normalised
    assert_near(guards.group_norm(x, groups, None, None, 1e-5, ranges), expected)


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
def test_old_units_do_not_see_new_ones(data: st.DataObject, size: int, more: int) -> None:
    ranges = data.draw(ranges_within(size))
    x = normal(3, size)
    wider = torch.cat([x, 100 * normal(3, more, seed=1)], -1)
    output = guards.layer_norm(wider, (size + more,), None, None, 1e-5, ranges)[:, :size]
    assert_near(output, guards.layer_norm(x, (size,), None, None, 1e-5, ranges))


def test_a_wide_layer_norm_is_the_narrow_one_on_the_core() -> None:
    x = normal(3, 9)
    core = chosen(((0, 2), (5, 8)))
    output = guards.layer_norm(x, (9,), None, None, 1e-5, ((0, 2), (5, 8)))[:, core]
    assert_near(output, F.layer_norm(x[:, core], (5,), None, None, 1e-5))


def test_a_wide_rms_norm_is_the_narrow_one_on_the_core() -> None:
    x = normal(3, 9)
    assert_near(guards.rms_norm(x, (9,), None, None, ((0, 6),))[:, :6], F.rms_norm(x[:, :6], (6,)))


def test_a_wide_group_norm_is_the_narrow_one_on_the_core() -> None:
    x = normal(2, 3, 4, 5)
    output = guards.group_norm(x.flatten(1, 2), 3, None, None, 1e-5, ((0, 2),)).unflatten(1, (3, 4))[:, :, :2]
    assert_near(output.flatten(1, 2), F.group_norm(x[:, :, :2].flatten(1, 2), 3, None, None, 1e-5))


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: guards.layer_norm(x, (6,), None, None, 1e-5, ((0, 2), (3, 5))),
        lambda x: guards.rms_norm(x, (6,), None, 1e-5, ((0, 4),)),
        lambda x: guards.group_norm(x, 2, None, None, 1e-5, ((0, 2),)),
        lambda x: guards.core(x, 1, ((0, 2), (3, 5))),
    ],
    ids=["layer_norm", "rms_norm", "group_norm", "core"],
)
def test_gradients(norm: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(norm, (normal(2, 6).requires_grad_(),))


# -- one node ------------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "core": (guards.core, lambda x, w: guards.core(x, 1, ((0, 2),))),
    "layer_norm": (guards.layer_norm, lambda x, w: guards.layer_norm(x, (4,), w, w, 1e-5, ((0, 2),))),
    "rms_norm": (guards.rms_norm, lambda x, w: guards.rms_norm(x, (4,), w, None, ((0, 2),))),
    "group_norm": (guards.group_norm, lambda x, w: guards.group_norm(x, 2, w, w, 1e-5, ((0, 1),))),
    "keywords": (
        guards.rms_norm,
        lambda x, w: guards.rms_norm(x=x, normalized_shape=(4,), weight=w, eps=None, core=((0, 2),)),
    ),
}


class Calling(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(normal(4, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight)


@pytest.mark.parametrize("name", CALLS)
def test_a_guard_is_one_node_to_tracing(name: str) -> None:
    function, call = CALLS[name]
    graph = fx.symbolic_trace(Calling(call)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [function]


@pytest.mark.parametrize("name", CALLS)
def test_a_traced_guard_computes_the_same(name: str) -> None:
    model = Calling(CALLS[name][1])
    assert torch.equal(fx.symbolic_trace(model)(normal(3, 4)), model(normal(3, 4)))


@pytest.mark.parametrize("name", CALLS)
def test_a_guard_is_one_op_to_modes(name: str) -> None:
    class Listening(torch.overrides.TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[Any] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.heard.append(function)
            return function(*args, **(kwargs or {}))

    model = Calling(CALLS[name][1])
    x = normal(3, 4)
    with Listening() as mode:
        model(x)
    assert mode.heard == [CALLS[name][0]]


@pytest.mark.parametrize("name", CALLS)
def test_a_guard_runs_on_meta(name: str) -> None:
    model = Calling(CALLS[name][1])
    x = normal(3, 4)
    assert model.to("meta")(x.to("meta")).shape == Calling(CALLS[name][1])(x).shape


def test_guards_keep_their_names_and_documentation() -> None:
    for name in ("core", "layer_norm", "rms_norm", "group_norm"):
        function = getattr(guards, name)
        assert function.__name__ == name
        assert function.__module__ == "fxgrow.guards"
        assert function.__doc__
