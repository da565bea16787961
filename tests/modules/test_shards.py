"""Rates by age on models divided among processes: two of them, over gloo."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import fxgrow
from fxgrow.errors import CaptureError, TrainingError
from fxgrow.modules.shards import local_ranges
from fxgrow.training import tracking
from tests.training.small import convolutional, grown, train

WORLD = 2


def work(rank: int, folder: str) -> None:
    """In one of the processes: with blocks cut into rectangles, and joined into one vector."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        for least in (0, 4096):
            tracking._LEAST_ENTRIES["cpu"] = least
            compare(rank)
    finally:
        torch.distributed.destroy_process_group()


def compare(rank: int) -> None:
    """Train a divided model and its undivided twin, and compare."""
    model = grown(convolutional(), 1.5, 4 / 3, init="mirror")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of a batch would be those of each process's own
    divided = copy.deepcopy(model)
    fully_shard(divided, mesh=init_device_mesh("cpu", (WORLD,)))
    weight = divided.get_parameter("3.weight")
    assert isinstance(weight, DTensor)
    assert local_ranges(weight)[0] == ((0, 8), (8, 16))[rank]
    trained = []
    for net in (model, divided):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        rates = fxgrow.adapt_rates(optimizer, net, every=1)
        train(net, optimizer, 3)
        trained.append(rates.current())
    assert trained[0].keys() == trained[1].keys()
    for name, expected in trained[0].items():
        assert trained[1][name] == pytest.approx(expected, rel=1e-9), name
    for name, parameter in divided.named_parameters():
        assert isinstance(parameter, DTensor)
        torch.testing.assert_close(parameter.full_tensor(), model.get_parameter(name).data, rtol=1e-9, atol=1e-12)
    with pytest.raises(TrainingError) as error:
        fxgrow.vitality(divided)
    assert str(error.value) == (
        "the parameter is divided among processes, and vitality needs all of it (at 0.weight): gather the model "
        "and its optimizer's state first (torch.distributed.checkpoint.state_dict)"
    )
    with pytest.raises(CaptureError) as uncaptured:
        fxgrow.grow(divided, 1.5)
    assert str(uncaptured.value) == (
        "weight of Conv2d is a DTensor, of which this process holds a shard (at 0): use fxgrow.grow_sharded, or "
        "grow the model before fully_shard"
    )


def test_rates_of_a_divided_model_are_those_of_the_whole(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(work, (str(tmp_path),), nprocs=WORLD, start_method="fork")
