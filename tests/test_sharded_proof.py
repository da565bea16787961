"""Proofs of growth that no process holds all of: in two of them, over gloo, beside those of one process."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.modules import shards
from fxgrow.modules.shards import local_part
from tests.models import lively
from tests.pairing import slow

WORLD = 2


def convolutional() -> nn.Module:
    """With batch norms, whose statistics every process has."""

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    blocks = [block() for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def vit() -> nn.Module:
    sizes: dict[str, int] = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model: nn.Module = timm.models.VisionTransformer(**sizes, num_classes=5)
    return model


def shard(model: Any) -> None:
    mesh = init_device_mesh("cpu", (WORLD,))
    for part in getattr(model, "blocks", model.children()):
        if next(part.parameters(), None) is not None:
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
GROWTHS: list[tuple[Callable[[], nn.Module], dict[str, Any]]] = [
    (convolutional, {"width": 1.5}),
    (convolutional, {"width": 2, "depth": "+1", "init": "mirror", "parameterization": "variance-transfer"}),
    (vit, {"width": 1.5, "depth": "+1", "init": "replicate"}),
    (vit, {"width": 2, "form": "graph", "depth_init": "random"}),
]


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return lively(make()).eval()


def work(rank: int, folder: str, numbers: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        for number in numbers:
            make, how = GROWTHS[number]
            model = made(make)
            shard(model)
            grown = fxgrow.grow_sharded(model, shard=shard, example_inputs=IMAGES, **how)
            proved(model, grown, alone=fxgrow.grow(made(make), example_inputs=IMAGES, **how))
            for fault in faults(grown, rank, 3 if len(numbers) > 1 else 2):
                certificate = fxgrow.certify(grown, model)
                assert str(certificate.verdict) in ("REFUTED", "UNKNOWN"), (make, how, fault)
                assert str(fxgrow.certify(grown).verdict) == "UNKNOWN", (make, how, fault)
            assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
            if number == 1:
                told(model, grown)
        if 3 in numbers:
            few_at_a_time(model, grown)
    finally:
        torch.distributed.destroy_process_group()


def proved(model: nn.Module, grown: nn.Module, alone: nn.Module) -> None:
    """With the steps of the proof that one process makes, and with the entries, of which never many are gathered."""
    certificate, alone_certificate = fxgrow.report(grown).certificate, fxgrow.report(alone).certificate
    assert certificate is not None
    assert alone_certificate is not None
    assert str(certificate.verdict) == "PROVED", str(certificate)
    assert certificate.children[0].claim == "every process has the same models"
    steps, expected = str(certificate), str(alone_certificate)
    assert [line for line in expected.splitlines() if line not in steps and "TESTED" not in line] == []
    for name, tensor in grown.named_parameters():
        assert torch.equal(shards.whole(tensor), alone.get_parameter(name)), name
    assert str(fxgrow.certify(grown).verdict) == "PROVED"


class Watch:
    """How many entries were there at a time, at most, of all that has been gathered."""

    def __init__(self) -> None:
        self.there: list[weakref.ref[Tensor]] = []
        self.most = 0

    def whole(self, tensor: Tensor) -> Tensor:
        gathered = shards.whole(tensor)
        if shards.is_divided(tensor):
            self.there = [reference for reference in self.there if reference() is not None] + [weakref.ref(gathered)]
            self.most = max(
                self.most, sum(entries.numel() for reference in self.there if (entries := reference()) is not None)
            )
        return gathered


def faults(grown: nn.Module, rank: int, count: int) -> Any:
    """One after the other: what an old unit reads of an old and of a new one, in each process, and a buffer of one."""
    weight: Any = grown.get_parameter("blocks.0.mlp.fc2.weight" if hasattr(grown, "blocks") else "1.0.weight")
    part = local_part(weight)
    for owner, entry in ((0, (0, 0)), (1, (0, -1)), (0, (0, -1)))[:count]:
        with torch.no_grad():
            before = part[entry].clone()
            part[entry] += 0.5 * (rank == owner)
            yield owner, entry
            part[entry] = before
    for name, buffer in list(grown.named_buffers())[:1]:
        before = buffer.clone()
        buffer += 0.5 * (rank == 1)
        yield name
        buffer.copy_(before)


def few_at_a_time(model: nn.Module, grown: nn.Module) -> None:
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            shards.Gathered, "__getitem__", lambda gathered, name: watch.whole(gathered.tensors[name].detach())
        )
        assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert 0 < watch.most < sum(p.numel() for network in (model, grown) for p in network.parameters()) / 2


def told(model: nn.Module, grown: nn.Module) -> None:
    """What cannot be proved is refused."""
    twice = fxgrow.grow_sharded(grown, "+2", shard=shard, example_inputs=IMAGES, verify=False)
    assert fxgrow.report(twice).certificate is None
    try:
        fxgrow.certify(twice, model)
    except FxgrowError as error:
        assert str(error) == (
            "the model is divided among processes and grew 2 times since this original: pass the model before the last "
            "growth, or gather both"
        )
    else:
        raise AssertionError
    assert str(fxgrow.certify(twice, grown).verdict) == "PROVED"


@pytest.mark.parametrize("numbers", [(0,), slow((1, 2, 3))])
def test_the_proof_of_divided_models_is_that_of_one_process(numbers: tuple[int, ...], tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(work, (str(tmp_path), numbers), nprocs=WORLD, start_method="fork")
