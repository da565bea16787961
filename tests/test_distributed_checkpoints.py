"""Distributed checkpoints of grown models: written by two processes, read by one, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor

import fxgrow
from tests.growth.test_sharded import IMAGES, TARGETS, WORLD, optimizer_for, shard, steps, vit

GROWTH: dict[str, Any] = {"width": 1.5, "depth": 1.5, "example_inputs": IMAGES[:2]}


def test_training_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    model = fxgrow.grow(vit(), verify=False, **GROWTH)
    optimizer = optimizer_for(model)
    rates = fxgrow.adapt_rates(optimizer, model)
    steps(model, optimizer, IMAGES, TARGETS)
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments, "rates": rates}, checkpoint_id=tmp_path / "step", no_dist=True)
    expected = steps(model, optimizer, IMAGES, TARGETS)

    plan = fxgrow.Plan.from_json(fxgrow.report(model).plan.to_json())
    resumed = plan.apply(vit(), seed=7, verify=False)
    optimizer = optimizer_for(resumed)
    rates = fxgrow.adapt_rates(optimizer, resumed)
    weights, moments = get_state_dict(resumed, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments, "rates": rates}
    dcp.load(state, checkpoint_id=tmp_path / "step", no_dist=True)
    set_state_dict(resumed, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    assert fxgrow.births(resumed) == fxgrow.births(model)
    assert steps(resumed, optimizer, IMAGES, TARGETS) == expected


def in_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        model = vit()
        shard(model)
        grown: Any = fxgrow.grow_sharded(model, shard=shard, **GROWTH)
        dcp.save(dict(grown.state_dict()), checkpoint_id=f"{folder}/divided")
        with torch.no_grad():
            for parameter in grown.parameters():
                parameter.zero_()
        dcp.load(grown.state_dict(), storage_reader=HuggingFaceStorageReader(f"{folder}/grown"))
        expected = fxgrow.grow(vit(), verify=False, **GROWTH)
        for name, parameter in grown.named_parameters():
            assert isinstance(parameter, DTensor)
            assert torch.equal(parameter.full_tensor(), expected.get_parameter(name)), name
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_divided_and_whole_models_read_each_others_checkpoints(tmp_path: Path) -> None:
    """What two processes wrote is read into a whole model; shards that `grow_files` wrote, into a divided one."""
    dcp.save(dict(vit().state_dict()), storage_writer=HuggingFaceStorageWriter(str(tmp_path / "small")), no_dist=True)
    fxgrow.grow_files(tmp_path / "small", tmp_path / "grown", vit(), shard_size=10**5, **GROWTH)
    torch.multiprocessing.start_processes(in_processes, (str(tmp_path),), nprocs=WORLD, start_method="fork")
    expected = fxgrow.grow(vit(), verify=False, **GROWTH)
    model = fxgrow.grow(vit(), seed=9, verify=False, **GROWTH)
    dcp.load(model.state_dict(), checkpoint_id=tmp_path / "divided", no_dist=True)
    assert all(torch.equal(left, right) for left, right in zip(model.parameters(), expected.parameters(), strict=True))
