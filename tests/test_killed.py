"""Killed at many moments of writing: what was there before is there, or what was to be, and never a part of it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxgrow

X = torch.empty(1, 512, device="meta")


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))


def torn(folder: Path) -> list[Path]:
    return [*folder.glob("*.partial*"), *folder.glob(".tmp*")]  # the latter are of safetensors


def started(work: Callable[[], object], folder: Path) -> int:
    """A process that does the work, once it has begun to write."""
    process = os.fork()
    if not process:
        try:
            work()
        finally:
            os._exit(0)
    while not torn(folder) and not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(1e-4)
    return process


def killed_at_moments(work: Callable[[], object], look: Callable[[], str], folder: Path) -> None:
    """Look at what is found after a process that does the work was killed, at ten moments of writing."""
    process, start = started(work, folder), time.perf_counter()
    os.waitpid(process, 0)
    lasts = time.perf_counter() - start
    seen, caught = [look()], 0
    for moment in range(10):
        process = started(work, folder)
        time.sleep(lasts * moment / 9)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        seen.append(look())
        caught += bool(torn(folder))
        for left in torn(folder):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert set(seen) == {"old", "new"}, seen
    assert caught > 0, "no moment was in the middle of writing"


def test_a_saved_model_is_the_old_one_or_the_new_one(model: nn.Module, tmp_path: Path) -> None:
    grown = fxgrow.grow(model, 1.25, example_inputs=X, verify=False)
    fxgrow.save(grown, tmp_path / "old")
    old = (tmp_path / "old").read_bytes()
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(1.0)
    fxgrow.save(grown, tmp_path / "new")
    new = (tmp_path / "new").read_bytes()
    target = tmp_path / "target"
    target.write_bytes(old)

    def found() -> str:
        now = target.read_bytes()
        target.write_bytes(old)
        return {old: "old", new: "new"}.get(now, "neither")

    killed_at_moments(lambda: fxgrow.save(grown, target), found, tmp_path)


@pytest.mark.slow
def test_shards_are_all_there_or_none(model: nn.Module, tmp_path: Path) -> None:
    fxgrow.plan(model, 1.25, example_inputs=X)  # what is imported late has been
    source, target = tmp_path / "source.safetensors", tmp_path / "target"
    save_file(model.state_dict(), source)

    def found() -> str:
        if not target.exists():
            return "old"
        loaded = fxgrow.load(target, model)
        complete = sum(parameter.isfinite().all().item() for parameter in loaded.parameters()) == 16
        target.rename(tmp_path / f"done-{time.monotonic_ns()}")
        return "new" if complete else "neither"

    def work() -> None:
        fxgrow.grow_files(source, target, model, 1.25, example_inputs=X, shard_size=2**21)

    killed_at_moments(work, found, tmp_path)
