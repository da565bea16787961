"""What growing a sharded model holds at its peak: python -m benchmarks.sharded [--width FACTOR] [--layers N]

Processes of gloo share a ViT of the given number of layers, and grow it. The table has what the process that takes
most has more in memory at the peak than before, when it has its shard of the small model. Of that its shard of the
grown model is what stays. It reads Linux's own count of resident memory.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timm.models import VisionTransformer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fxgrow
from fxgrow.modules.shards import local_part

MIB = 2**20


def resident(which: str) -> int:
    """Bytes of memory that this process has ("VmRSS"), or had at its peak ("VmHWM")."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def build(width: float, layers: int) -> nn.Module:
    heads = round(16 * width)
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "num_classes": 10}
    return VisionTransformer(**sizes, embed_dim=64 * heads, depth=layers, num_heads=heads)


def shard(model: Any) -> None:
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def grow_one(rank: int, folder: str, options: argparse.Namespace, verify: bool) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store-{verify}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=options.processes)
    images = torch.empty(2, 3, 32, 32)
    tiny = build(1 / 16, 2)
    shard(tiny)
    fxgrow.grow_sharded(tiny, 2, shard=shard, example_inputs=images)  # what is imported and cached once
    model = build(1, options.layers)
    shard(model)
    forget_peak()
    before = resident("VmRSS")
    grown = fxgrow.grow_sharded(model, options.width, shard=shard, example_inputs=images, verify=verify)
    peak, kept = resident("VmHWM") - before, bytes_of(map(local_part, grown.parameters()))
    assert not verify or str(fxgrow.report(grown).certificate.verdict) == "PROVED"  # type: ignore[union-attr]
    torch.save((peak, kept), f"{folder}/{verify}-{rank}.pt")
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.5)
    parser.add_argument("--layers", type=int, default=8, help="12.6 M parameters each, before growth")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with torch.device("meta"):
        small, large = (build(width, options.layers) for width in (1, options.width))
    table = Table("MiB", "small model", "grown model", "a block of it", "more at the peak", "its shard", "beside that")
    for verify in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            context: Any = torch.multiprocessing.start_processes
            context(grow_one, (folder, options, verify), nprocs=options.processes, start_method="spawn")
            ranks = range(options.processes)
            peak, kept = max(torch.load(f"{folder}/{verify}-{rank}.pt") for rank in ranks)
        whole = [bytes_of(nn.Module.parameters(part)) for part in (small, large, large.blocks[0])]  # type: ignore[index]
        sizes = (f"{number / MIB:,.0f}" for number in (*whole, peak, kept, peak - kept))
        table.add_row("proved" if verify else "not proved", *sizes)
    Console().print(table)


if __name__ == "__main__":
    main()
