"""Training in two processes with growth in the middle, beside the same training in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import fxgrow
from tests.models import lively
from tests.pairing import slow

WORLD = 2
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TARGETS = torch.arange(8) % 5
SIZES: dict[str, int] = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
GROWTHS: list[dict[str, Any]] = [{"width": 1.5}, {"depth": 1.5, "init": "mirror"}]


def vit() -> Any:
    torch.manual_seed(3)
    return lively(timm.models.VisionTransformer(**SIZES, num_classes=5)).double()


def shard(model: Any) -> None:
    """As people write it: every block, then the rest."""
    mesh = init_device_mesh("cpu", (WORLD,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> list[float]:
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def alone() -> tuple[list[float], dict[str, Tensor]]:
    """All of it in one process."""
    model = vit()
    optimizer = optimizer_for(model)
    losses = steps(model, optimizer, IMAGES, TARGETS)
    for options in GROWTHS:
        model = fxgrow.grow(model, example_inputs=IMAGES[:2], verify=False, **options)
        fxgrow.replace_parameters(optimizer, model)
        fxgrow.adapt_rates(optimizer, model, every=1)
        losses += steps(model, optimizer, IMAGES, TARGETS)
    return losses, {name: parameter.detach() for name, parameter in model.named_parameters()}


def data_parallel(images: Tensor, targets: Tensor) -> tuple[list[float], nn.Module]:
    model = DistributedDataParallel(vit())
    optimizer = optimizer_for(model)
    losses = steps(model, optimizer, images, targets)
    for options in GROWTHS:
        model = DistributedDataParallel(fxgrow.grow(model.module, example_inputs=IMAGES[:2], verify=False, **options))
        fxgrow.replace_parameters(optimizer, model)
        fxgrow.adapt_rates(optimizer, model, every=1)
        losses += steps(model, optimizer, images, targets)
    return losses, model.module


def fully_sharded(images: Tensor, targets: Tensor) -> tuple[list[float], nn.Module]:
    model = vit()
    kind = type(model)
    shard(model)
    optimizer = optimizer_for(model)
    losses = steps(model, optimizer, images, targets)
    for options in GROWTHS:
        model = fxgrow.grow_sharded(model, shard=shard, example_inputs=IMAGES[:2], verify=False, **options)
        assert isinstance(model, kind)
        assert all(isinstance(block, FSDPModule) for block in (model, *model.blocks))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        fxgrow.replace_parameters(optimizer, model)
        moments = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
        assert moments
        assert all(isinstance(value, DTensor) for value in moments)
        fxgrow.adapt_rates(optimizer, model, every=1)
        losses += steps(model, optimizer, images, targets)
    return losses, model


def shard_graph(model: Any) -> None:
    """A graph calls the layers of a block and not the block: they are divided together."""
    mesh = init_device_mesh("cpu", (WORLD,))
    called = {model.get_submodule(node.target) for node in model.graph.nodes if node.op == "call_module"}
    for block in model.blocks.children():
        fully_shard([part for part in block.modules() if part in called], mesh=mesh)
    fully_shard(model, mesh=mesh)


def fully_sharded_graph(images: Tensor, targets: Tensor) -> tuple[list[float], nn.Module]:
    """From the first growth on it is a graph, whose norms are modules as those of blocks are."""
    model = vit()
    shard(model)
    optimizer = optimizer_for(model)
    losses = steps(model, optimizer, images, targets)
    for options in GROWTHS:
        more: dict[str, Any] = {"example_inputs": IMAGES[:2], "form": "graph", **options}
        model = fxgrow.grow_sharded(model, shard=shard_graph, **more)
        certificate = fxgrow.report(model).certificate
        assert str(certificate.verdict) == "PROVED", str(certificate)
        norm = model.get_submodule("blocks.1.norm1")
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(norm, FSDPModule)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        fxgrow.replace_parameters(optimizer, model)
        fxgrow.adapt_rates(optimizer, model, every=1)
        losses += steps(model, optimizer, images, targets)
    return losses, model


def whole_then_sharded(images: Tensor, targets: Tensor) -> tuple[list[float], nn.Module]:
    """Trained whole on every process, and divided when it first grows."""
    model = vit()
    optimizer = optimizer_for(model)
    losses = steps(model, optimizer, IMAGES, TARGETS)
    for options in GROWTHS:
        model = fxgrow.grow_sharded(model, shard=shard, example_inputs=IMAGES[:2], verify=False, **options)
        fxgrow.replace_parameters(optimizer, model)
        fxgrow.adapt_rates(optimizer, model, every=1)
        losses += steps(model, optimizer, images, targets)
    return losses, model


Way = Callable[[Tensor, Tensor], tuple[list[float], nn.Module]]


def in_processes(rank: int, folder: str, ways: tuple[Way, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    half = slice(4 * rank, 4 * rank + 4)
    expected, reference = torch.load(f"{folder}/alone.pt")
    wanted = torch.tensor(expected, dtype=torch.float64)
    try:
        for work in ways:
            losses, model = work(IMAGES[half], TARGETS[half])
            shared = torch.tensor(losses, dtype=torch.float64)
            torch.distributed.all_reduce(shared)
            told = f"{work.__name__}: {shared / WORLD} in place of {wanted}"
            torch.testing.assert_close(shared / WORLD, wanted, rtol=1e-9, atol=1e-12, msg=told)
            assert [name for name, _ in model.named_parameters()] == list(reference), work.__name__
            for name, parameter in model.named_parameters():
                entries = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                told = f"{work.__name__}: {name}"
                torch.testing.assert_close(entries, reference[name], rtol=1e-7, atol=1e-9, msg=told)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param((data_parallel, fully_sharded), id="from the start"),
        slow((fully_sharded_graph,), id="as a graph"),
        slow((whole_then_sharded,), id="from the first growth"),
    ],
)
def test_training_with_growth_is_that_of_one_process(ways: tuple[Way, ...], tmp_path: Path) -> None:
    """In each of the ways, one after the other: two processes are long in starting."""
    torch.save(alone(), tmp_path / "alone.pt")
    torch.multiprocessing.start_processes(in_processes, (str(tmp_path), ways), nprocs=WORLD, start_method="fork")
