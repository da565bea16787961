"""Norms over old units as eager training runs them: what their steps compute, forward, backward and beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from fxgrow import fused, guards
from tests.test_guards import normal

UNITS = 12
NORMS = {
    "layer_norm": lambda x, w, b, core: guards.layer_norm(x, (UNITS,), w, b, 1e-5, core),
    "rms_norm": lambda x, w, b, core: guards.rms_norm(x, (UNITS,), w, 1e-5, core),
}
NORM = pytest.mark.parametrize("norm", NORMS.values(), ids=list(NORMS))
Norm = Callable[..., Tensor]
CORES: list[guards.Ranges] = [((0, 6),), ((0, 2), (5, 8)), ((0, UNITS),)]
CORE = pytest.mark.parametrize("core", CORES, ids=str)
GRADIENTS = [
    pytest.param(norm, core, id=f"{core}-{name}", marks=() if number == quick else pytest.mark.slow)
    for (name, norm), quick in zip(NORMS.items(), (2, 1), strict=True)
    for number, core in enumerate(CORES)
]


@contextmanager
def in_steps() -> Iterator[None]:
    """What compilers see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "applies", lambda *tensors: False)
        yield


def inputs(moved: bool, affine: tuple[bool, bool], dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    x = 3 * normal(2, 3, 5, UNITS, dtype=dtype) + 4
    if moved:
        x = x.movedim(-1, 1).contiguous().movedim(1, -1)
    weight, bias = (normal(UNITS, seed=k, dtype=dtype) if there else None for k, there in enumerate(affine, start=1))
    return [None if tensor is None else tensor.requires_grad_() for tensor in (x, weight, bias)]


def gradients(output: Tensor, tensors: list[Tensor | None]) -> list[Tensor]:
    wanted = [tensor for tensor in tensors if tensor is not None]
    computed = torch.autograd.grad(output, wanted, normal(*output.shape, seed=7, dtype=output.dtype), allow_unused=True)
    return [gradient for gradient in computed if gradient is not None]


@NORM
@CORE
@pytest.mark.parametrize("moved", [False, True], ids=["contiguous", "moved"])
@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 2e-6)], ids=str)
def test_it_is_what_the_steps_compute(
    norm: Norm, core: guards.Ranges, moved: bool, affine: tuple[bool, bool], dtype: torch.dtype, error: float
) -> None:
    operands = inputs(moved, affine, dtype)
    output = norm(*operands, core)
    with in_steps():
        expected = norm(*operands, core)
    assert "OverCore" in type(output.grad_fn).__name__
    assert "OverCore" not in type(expected.grad_fn).__name__
    pairs = zip((output, *gradients(output, operands)), (expected, *gradients(expected, operands)), strict=True)
    for actual, wanted in pairs:
        assert float((actual - wanted).norm()) <= error * float(wanted.norm())


@pytest.mark.parametrize(("norm", "core"), GRADIENTS)
def test_gradients_of_gradients(norm: Norm, core: guards.Ranges) -> None:
    operands = inputs(False, (True, norm is NORMS["layer_norm"]))
    wanted = tuple(tensor for tensor in operands if tensor is not None)
    run = lambda *tensors: norm(*tensors, *(None,) * (3 - len(tensors)), core)  # noqa: E731
    assert torch.autograd.gradcheck(run, wanted)
    assert torch.autograd.gradgradcheck(run, wanted)


@NORM
@pytest.mark.parametrize("frozen", range(3))
def test_nothing_is_computed_for_what_is_frozen(norm: Norm, frozen: int) -> None:
    operands = inputs(False, (True, True))
    fixed = operands[frozen]
    assert fixed is not None
    every = norm(*operands, ((0, 6),))
    every.sum().backward()
    expected = [None if tensor is None else tensor.grad for tensor in operands]
    for tensor in operands:
        assert tensor is not None
        tensor.grad = None
    fixed.requires_grad_(False)
    norm(*operands, ((0, 6),)).sum().backward()
    for k, tensor in enumerate(operands):
        assert tensor is not None
        if k == frozen or expected[k] is None:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, expected[k], rtol=1e-12, atol=1e-12)


@NORM
def test_transforms_of_functions_go_through_it(norm: Norm) -> None:
    x, core = normal(3, UNITS), ((0, 6),)
    run = lambda row: norm(row, None, None, core).sin().sum()  # noqa: E731
    batched = torch.func.vmap(torch.func.grad(run))(x)
    expected = torch.autograd.grad(run(leaf := x.clone().requires_grad_()), leaf)[0]
    torch.testing.assert_close(batched, expected)
    tangent = torch.func.jvp(run, (x,), (x.cos(),))[1]
    torch.testing.assert_close(tangent, (expected * x.cos()).sum())
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, x.cos())))
    torch.testing.assert_close(dual.tangent, tangent)


@NORM
def test_a_compiler_sees_the_steps(norm: Norm) -> None:
    operands = inputs(False, (True, False))
    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: norm(*tensors, ((0, 6),)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*operands), norm(*operands, ((0, 6),)), rtol=1e-12, atol=1e-12)


@NORM
def test_a_tracer_of_operators_sees_the_steps(norm: Norm) -> None:
    operands = inputs(False, (True, False))
    graph = make_fx(lambda *tensors: norm(*tensors, ((0, 6),)))(*operands)
    torch.testing.assert_close(graph(*operands), norm(*operands, ((0, 6),)), rtol=1e-12, atol=1e-12)


def test_autocast_does_not_make_gradients_coarse() -> None:
    x, weight = normal(4, UNITS, dtype=torch.float32).requires_grad_(), nn.Parameter(torch.ones(UNITS))
    (expected,) = torch.autograd.grad(guards.rms_norm(x, (UNITS,), weight, 1e-5, ((0, 6),)).sin().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        (gradient,) = torch.autograd.grad(guards.rms_norm(x, (UNITS,), weight, 1e-5, ((0, 6),)).sin().sum(), x)
    torch.testing.assert_close(gradient, expected)


@NORM
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(norm: Norm, reentrant: bool) -> None:
    operands = inputs(moved=False, affine=(True, True))

    def block(*tensors: Tensor) -> Tensor:
        return norm(*tensors, ((0, 6),)).tanh()

    plain = gradients(block(*operands), operands)  # type: ignore[arg-type]
    saving = checkpoint(block, *operands, use_reentrant=reentrant)
    saving.backward(normal(*saving.shape, seed=7))
    wanted = [tensor for tensor in operands if tensor is not None and tensor.grad is not None]
    assert len(wanted) == len(plain)
    for tensor, expected in zip(wanted, plain, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, expected, rtol=0, atol=0)
