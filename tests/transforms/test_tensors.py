"""Growing one tensor: old entries in their places, new ones as the fill says."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from fxgrow.transforms.tensors import drawn, grow_tensor
from torch import Tensor

from fxgrow.errors import PlanError
from fxgrow.planning.plan import Axis, TensorGrowth


def keep(size: int) -> Axis:
    return Axis("keep", size, size)


def grows(old: int, new: int, fill: str) -> Axis:
    return Axis("grow", old, new, "d0", fill)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grown(old: Tensor, *axes: Axis, draw: str = "normal", scale: float = 1.0, seed: str = "0") -> Tensor:
    return grow_tensor(old, TensorGrowth("w", axes, draw, scale), seed)


OLD = random(4, 6)
X = random(6, 5)


@pytest.mark.parametrize("fill", ["draw", "zero", "mean", "pair", "copy"])
def test_old_entries_keep_their_places_where_units_are_made(fill: str) -> None:
    new = grown(OLD, grows(4, 8, fill), keep(6))
    assert torch.equal(new[:4], OLD)
    expected = {
        "zero": torch.zeros(4, 6, dtype=torch.float64),
        "mean": OLD.mean(0).expand(4, 6),
        "copy": OLD,
    }
    if fill in expected:
        torch.testing.assert_close(new[4:], expected[fill], rtol=1e-15, atol=1e-15)
    elif fill == "pair":
        assert torch.equal(new[4:6], new[6:8])
    assert fill == "zero" or new[4:].abs().min() > 0


def test_zero_out_silences_new_inputs_for_old_outputs_only() -> None:
    new = grown(OLD, grows(4, 5, "draw"), grows(6, 9, "silence"))
    assert torch.equal(new[:4, :6], OLD)
    assert not new[:4, 6:].any()
    assert new[4].abs().min() > 0


def test_opposite_weights_cancel_what_pairs_send() -> None:
    new = grown(OLD, keep(4), grows(6, 10, "opposite"))
    sent = torch.cat([X, *[random(2, 5)] * 2])
    assert new[:, 6:].abs().min() > 0
    torch.testing.assert_close(new @ sent, OLD @ X, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [8, 12, 15])
def test_shares_add_up_to_what_the_original_weighed(size: int) -> None:
    new = grown(OLD, keep(4), grows(6, size, "share"))
    sent = torch.stack([X[k % 6] for k in range(size)])
    torch.testing.assert_close(new @ sent, OLD @ X, rtol=1e-12, atol=1e-12)


def test_shares_are_uneven() -> None:
    new = grown(OLD, keep(4), grows(6, 12, "share"))
    assert ((new[:, :6] / OLD - 0.5).abs() > 1e-3).all()


def test_old_entries_are_rescaled_where_the_plan_says_so() -> None:
    assert torch.equal(grown(OLD[0], grows(6, 9, "draw"), draw="level", scale=0.5)[:6], OLD[0] * 0.5)


@pytest.mark.parametrize(("draw", "value"), [("zeros", 0.0), ("level", 2.5)])
def test_levels(draw: str, value: float) -> None:
    old = torch.full((4,), 2.5, dtype=torch.float64)
    assert grown(old, grows(4, 7, "draw"), draw=draw)[4:].tolist() == [value] * 3


def test_the_seed_and_the_name_decide_the_bytes() -> None:
    axes = (grows(4, 8, "draw"), keep(6))
    first, same, second = (grown(OLD, *axes, seed=seed) for seed in ("0", "0", "1"))
    named = grow_tensor(OLD, TensorGrowth("v", axes, "normal"), "0")
    assert torch.equal(first, same)
    assert not torch.equal(first[4:], second[4:])
    assert not torch.equal(first[4:], named[4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_draw_is_the_same_in_every_precision(dtype: torch.dtype) -> None:
    old = OLD.to(dtype).double()
    axes = (grows(4, 8, "draw"), grows(6, 8, "draw"))
    assert torch.allclose(grown(old.to(dtype), *axes).double(), grown(old, *axes), rtol=4 * torch.finfo(dtype).eps)


def test_new_rows_of_a_wider_input_keep_the_variance_of_the_sum() -> None:
    """Variance transfer: a new unit that sums over twice the inputs varies as much as the old ones."""
    old = random(64, 512) * 0.3
    new = grown(old, grows(64, 128, "draw"), grows(512, 1024, "silence"))
    x = random(1024, 400)
    assert (new[64:] @ x).std() == pytest.approx((old @ x[:512]).std().item(), rel=0.02)


def test_parameters_that_are_no_weights_are_drawn_like_their_old_entries() -> None:
    old = random(1, 50, 64) * 0.02 + 0.3
    added = grown(old, keep(1), keep(50), grows(64, 128, "draw"), draw="alike")[..., 64:]
    assert added.mean() == pytest.approx(0.3, abs=0.005)
    assert added.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("draw", ["normal", "alike", "level", "zeros"])
@pytest.mark.parametrize("old", [torch.zeros(3), torch.zeros(1), torch.full((2,), float("nan"))], ids=str)
def test_degenerate_tensors_give_finite_entries_where_they_can(old: Tensor, draw: str) -> None:
    new = grown(old, grows(len(old), 6, "draw"), draw=draw)
    assert draw == "alike" or bool(torch.isfinite(new[len(old) :]).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_are_kept(dtype: torch.dtype) -> None:
    new = grown(OLD.to(dtype), grows(4, 8, "mean"), grows(6, 8, "draw"))
    assert new.dtype is dtype
    assert torch.equal(new[:4, :6], OLD.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_means_of_many_units_are_rounded_once(dtype: torch.dtype) -> None:
    old = torch.full((1000,), 0.02, dtype=dtype)  # sums in this precision stray, all in one direction
    assert (grown(old, grows(1000, 1003, "mean"))[1000:] == old[0]).all()


def test_a_tensor_without_data_grows_without_data() -> None:
    new = grown(torch.empty(4, 6, device="meta"), grows(4, 8, "draw"), keep(6))
    assert new.is_meta
    assert new.shape == (8, 6)


def test_a_tensor_of_another_shape_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        grown(OLD, grows(5, 8, "draw"), keep(6))
    assert str(caught.value) == (
        "the plan grows a tensor of shape [5, 6], here it has [4, 6] (at w): apply a plan to the model it was made for"
    )


@pytest.mark.parametrize("count", [5, 15, 16, 17, 300])
@pytest.mark.parametrize("draw", ["normal", "alike"])
def test_draws_are_what_torch_draws_on_the_cpu_at_that_scale(count: int, draw: str) -> None:
    like = random(count).float() + 0.5
    mean, size = like.double().mean().item(), torch.linalg.vector_norm(like.double()).item() / math.sqrt(count)
    at = (0.0, size) if draw == "normal" else (mean, math.sqrt(size**2 - mean**2))
    wanted = torch.empty(count).normal_(*at, generator=torch.Generator().manual_seed(zlib.crc32(b"0:w")))
    if draw == "normal":  # brought to the size exactly, the whole as one unit
        wanted *= size / torch.linalg.vector_norm(wanted) * math.sqrt(count)
    torch.testing.assert_close(drawn(like, "w", draw, "0"), wanted, rtol=1e-6, atol=1e-7)


def test_complex_weights_are_drawn_at_the_size_of_the_old_ones() -> None:
    new = grown(torch.complex(random(40, 6), random(40, 6)), grows(40, 80, "draw"), keep(6))
    assert new[40:].imag.std() > 0
    torch.testing.assert_close(new[40:].abs().square().mean(), new[:40].abs().square().mean())


def test_complex_gains_have_the_mean_of_the_old_ones() -> None:
    gain = torch.complex(random(40), random(40) + 3)
    for draw in ("level", "alike"):
        new = grown(gain, grows(40, 400, "draw"), draw=draw)
        torch.testing.assert_close(new[40:].mean(), gain.mean(), rtol=0.1, atol=0.1)


def test_what_has_no_scale_is_drawn_by_the_number_of_inputs() -> None:
    for old in (torch.zeros(4, 9), torch.full((4, 9), torch.inf)):
        new = grown(old, grows(4, 8, "draw"), keep(9))
        torch.testing.assert_close(new[4:].square().mean().sqrt(), torch.tensor(1 / 3))
        assert torch.equal(grown(old, grows(4, 8, "draw"), keep(9), draw="level")[4:], torch.ones(4, 9))
