"""Everything that fxgrow does with tensors, on models that are not on the CPU: `python -m tests.on_device cuda`.

Where there is no GPU, `python -m tests.on_device elsewhere` runs it on a pretended device, and with `--without-float64`
on one that has none, as those of Apple. `--quick` leaves out networks and inits that check nothing of another kind.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fxgrow.zoo.nontrivial import lively
from torch import nn

import fxgrow
from fxgrow.catalogue import find, on_device
from fxgrow.measure.liveness import unmoved
from fxgrow.modules.devices import exact_dtype
from tests.checks import worst_error

INITS = ("zero", "mirror", "replicate")
NETWORKS = ("timm/test_vit2", "timm/test_convnext", "timm/test_nfnet", "timm/test_efficientnet")


def model_on(device: str, name: str = "timm/test_resnet", dtype: torch.dtype | None = None) -> nn.Module:
    """A lively model, as exact as the device can be."""
    dtype = dtype or exact_dtype(torch.device(device))
    if dtype is torch.float64:
        return lively(on_device(device, name))
    return lively(find(name)).to(dtype).to(device)


def images(device: str, count: int = 2, dtype: torch.dtype | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(count, 3, 64, 64, generator=generator, dtype=torch.float64)
    return drawn.to(dtype or exact_dtype(torch.device(device))).to(device)


def assert_there(model: nn.Module, device: str) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    elsewhere = [name for name, tensor in tensors.items() if tensor.device.type != torch.device(device).type]
    assert not elsewhere, elsewhere


def assert_same(model: nn.Module, grown: nn.Module, x: torch.Tensor) -> None:
    tolerance = 1e-10 if x.dtype is torch.float64 else 1e-4
    for training in (False, True):
        assert worst_error(model, grown, (x,), training) <= tolerance, training


def grows(device: str, name: str, init: str = "zero", **amounts: Any) -> None:
    """A growth: where its tensors are, the function, the proof, and that all of it learns."""
    model, x = model_on(device, name), images(device)
    grown = fxgrow.grow(model, init=init, example_inputs=x, verify="full", **(amounts or {"width": 1.5}))
    assert_there(grown, device)
    assert_there(model, device)
    assert_same(model, grown, x)
    verification = fxgrow.report(grown).verification
    assert verification is not None and verification.verdict == "TESTED" and verification.precision == "float64", (
        verification
    )
    certificate = fxgrow.certify(grown, model)
    assert str(certificate.verdict) == "PROVED", certificate
    if x.dtype is torch.float64:  # float32 rounds the smallest steps away
        assert unmoved(grown, (x,)) == []


def grows_in_float32(device: str) -> None:
    model, x = model_on(device, dtype=torch.float32), images(device, dtype=torch.float32)
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    assert str(fxgrow.certify(grown).verdict) == "PROVED"


def draws_what_the_cpu_draws(device: str) -> None:
    model = lively(find("timm/test_resnet")).to(exact_dtype(torch.device(device)))
    here = fxgrow.grow(model, 1.5, example_inputs=images("cpu"), seed=3, verify=False)
    there = fxgrow.grow(copy.deepcopy(model).to(device), 1.5, example_inputs=images(device), seed=3, verify=False)
    rounding = 1e-12 if exact_dtype(torch.device(device)) is torch.float64 else 1e-5
    for (name, first), second in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        torch.testing.assert_close(second.cpu(), first, rtol=rounding, atol=rounding, msg=name)


def draws_and_places_without_waiting_for_the_device(device: str) -> None:
    from tests.elsewhere import Waits

    model, x = model_on(device, dtype=torch.float32), images(device, dtype=torch.float32)
    with Waits() as seen:
        x.mean().item()
        x.cpu()
        x.copy_(torch.zeros(x.shape))
        x[torch.zeros(2, dtype=torch.long)]
        x.nonzero()
    assert seen.names == ["_local_scalar_dense", "_to_copy", "copy_", "index", "nonzero"], seen.names
    more: list[dict[str, Any]] = [{}, {"depth": 1.5, "depth_init": "random"}, {"parameterization": "mup"}]
    for init, options in zip(INITS, more, strict=True):
        with Waits() as growing:
            fxgrow.grow(model, 1.5, init=init, example_inputs=x, verify=False, **options)
        assert growing.names == [], (init, options, growing.names)


def trains_through_growth(device: str) -> None:
    model, x = model_on(device, dtype=torch.float32), images(device, 4, torch.float32)
    optimizer = torch.optim.AdamW(fxgrow.param_groups(model, weight_decay=0.05), lr=1e-3)

    def train(model: nn.Module) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(x).square().mean().backward()
            optimizer.step()

    train(model)
    grown = fxgrow.grow(model, 1.5, 1.5, example_inputs=x, parameterization="variance-transfer", verify=False)
    transfer = fxgrow.replace_parameters(optimizer, grown)
    assert transfer.carried
    rates = fxgrow.adapt_rates(optimizer, grown)
    train(grown)
    assert all(0 < rate < float("inf") for rate in rates.by_stage().values())
    grown.train()(x).square().mean().backward()
    assert set(fxgrow.vitality(grown, optimizer).update_shares()) == {0, 1}


def calibrates_and_measures(device: str) -> None:
    model, x = model_on(device), images(device, 4)
    grown = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=x, init="mirror")
    assert_same(model, grown, x)
    certificate = fxgrow.certify(grown, model)
    assert str(certificate.verdict) == "PROVED", certificate
    assert all(layer.measured for layer in certificate.scale.measured(x).layers)


def saves_and_loads(device: str) -> None:
    model, x = model_on(device), images(device)
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    with tempfile.TemporaryDirectory() as folder:
        fxgrow.save(grown, Path(folder) / "grown.safetensors", base="timm/test_resnet")
        read = fxgrow.load(Path(folder) / "grown.safetensors").to(device)
    with torch.no_grad():
        assert torch.equal(read.eval()(x), grown.eval()(x))
    certificate = fxgrow.certify(read, model)
    assert str(certificate.verdict) == "PROVED", certificate


def keeps_the_random_state(device: str) -> None:
    model, x = model_on(device), images(device)
    torch.manual_seed(0)
    wanted = torch.rand(4, device=device)
    torch.manual_seed(0)
    fxgrow.grow(model, 1.5, example_inputs=x)
    assert torch.equal(torch.rand(4, device=device), wanted)


def mixes_with_nothing_of_the_cpu(device: str) -> None:
    try:
        torch.ones(2, device=device) + torch.ones(2)
    except RuntimeError:
        return
    raise AssertionError(f"{device} is not told from the CPU")


class Masked(nn.Module):
    """Makes tensors where the default is."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.place = nn.Linear(6, 8), nn.Embedding(10, 8)
        self.attend, self.leave = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        x = self.enter(x) + self.place(torch.arange(length))
        q, k, v = self.attend(x).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) * torch.ones(length, length).tril()).softmax(-1)
        return self.leave(x + weights @ v)


def grows_where_it_is_the_default(device: str) -> None:
    place = torch.empty(0, device=device).device
    for switched in (place, contextlib.nullcontext()):
        with switched:
            if not isinstance(switched, torch.device):
                torch.set_default_device(place)
            try:
                model, x = Masked().to(place), torch.randn(2, 5, 6, device=place)
                grown = fxgrow.grow(model, 2, example_inputs=x)
                assert str(fxgrow.certify(grown, model).verdict) == "PROVED", fxgrow.certify(grown, model)
                assert_there(grown, device)
                error = float((grown(x) - model(x)).abs().max().cpu())
                assert error < 1e-5, error
            finally:
                torch.set_default_device(None)


def all_checks(device: str, *options: str) -> dict[str, Callable[[], None]]:
    """What is checked, in words, and how."""
    quick = "--quick" in options
    checks: dict[str, Callable[[], None]] = {
        f"a ResNet grows with init={init}": partial(grows, device, "timm/test_resnet", init)
        for init in (() if quick else INITS)
    }
    checks |= {f"{name} grows": partial(grows, device, name) for name in (() if quick else NETWORKS)}
    deeper = ("timm/test_resnet", "mirror") if quick else ("timm/test_convnext", "zero")
    checks[f"{deeper[0]} grows in depth"] = partial(grows, device, *deeper, width=1.25 if quick else None, depth=1.5)
    for check in (
        mixes_with_nothing_of_the_cpu,
        grows_in_float32,
        draws_what_the_cpu_draws,
        trains_through_growth,
        *(() if quick else (calibrates_and_measures,)),
        saves_and_loads,
        keeps_the_random_state,
        grows_where_it_is_the_default,
    ):
        checks[check.__name__.replace("_", " ")] = partial(check, device)
    if device == "elsewhere":
        waiting = draws_and_places_without_waiting_for_the_device
        checks[waiting.__name__.replace("_", " ")] = partial(waiting, device)
    return checks


def main(device: str, *options: str) -> None:
    """Run every check and say so; ends the process, since pretended devices do not end well."""
    pretended: Any = contextlib.nullcontext()
    if device == "elsewhere":
        from tests.elsewhere import pretend

        pretended = pretend(float64="--without-float64" not in options)
    with pretended:
        for name, check in all_checks(device, *options).items():
            check()
            print(name, flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
