"""Models that are not on the CPU: a pretended device everywhere, a GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.modules.devices import _switches_of_tf32, whole_float32
from tests.commands import run_script
from tests.on_device import all_checks

DEVICES = [
    "elsewhere --quick",
    *(pytest.param(f"elsewhere{option}", marks=pytest.mark.slow) for option in ("", " --without-float64")),
    *(["cuda"] if torch.cuda.is_available() else []),
]


@pytest.mark.parametrize("device", DEVICES)
def test_all_that_is_done_with_tensors_is_done_on_their_device(device: str) -> None:
    ran = run_script("tests.on_device", *device.split())
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == list(all_checks(*device.split()))


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_whole_inside_and_as_it_was_afterwards(allowed: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        with pytest.raises(ZeroDivisionError), whole_float32():
            assert {getattr(owner, name) for owner, name, _ in _switches_of_tf32()} in ({"ieee"}, {False})
            raise ZeroDivisionError
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def test_growing_starts_no_generator_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds_every_device(seed: int) -> None:
        raise AssertionError("the generators of all devices are seeded")

    monkeypatch.setattr(torch, "manual_seed", seeds_every_device)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))
    state = torch.get_rng_state()
    fxgrow.grow(model, 2, example_inputs=torch.empty(3, 4, device="meta"))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_grows_in_inference_mode_can_be_trained() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    with torch.inference_mode():
        grown = fxgrow.grow(model, 2, example_inputs=x)
        again = fxgrow.plan(model, 2, example_inputs=x).apply(model)
    for wider in (grown, again):
        assert str(fxgrow.report(wider).certificate.verdict) == "PROVED"
        wider(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in wider.parameters())


def test_a_default_device_without_data_is_the_caller_s_alone() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    with torch.device("meta"):
        grown = fxgrow.grow(model, 2, example_inputs=x)
    assert {parameter.device.type for parameter in grown.parameters()} == {"cpu"}
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def test_float32_is_whole_until_the_last_of_several_threads_leaves() -> None:
    owners = [(owner, name, getattr(owner, name)) for owner, name, _ in _switches_of_tf32()]
    first, second = whole_float32(), whole_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [getattr(owner, name) for owner, name, _ in owners] == [off for *_, off in _switches_of_tf32()]
    second.__exit__(None, None, None)
    assert all(getattr(owner, name) == before for owner, name, before in owners)
