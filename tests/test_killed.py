"""Killed at twenty moments of writing: what was there before is there, or what was to be, and never a part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROLOGUE = """
import os, shutil, signal, sys, time, torch
from pathlib import Path
from torch import nn
import fxgrow
torch.set_num_threads(1)
folder = Path(sys.argv[1])

def torn():
    return [*folder.glob("*.partial*"), *folder.glob(".tmp*")]  # the latter are of safetensors

def started(work):
    '''A process that does the work, once it has begun to write.'''
    process = os.fork()
    if not process:
        work()
        os._exit(0)
    while not torn() and not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(1e-4)
    return process

def killed_at_moments(work, found):
    '''What is found after a process that does the work was killed at twenty moments of writing.'''
    process, start = started(work), time.perf_counter()
    os.waitpid(process, 0)
    lasts = time.perf_counter() - start
    seen, caught = [found()], 0
    for moment in range(20):
        process = started(work)
        time.sleep(lasts * moment / 19)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        seen.append(found())
        caught += bool(torn())
        for left in torn():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    print(caught, *seen)

model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
x = torch.empty(1, 512, device="meta")
"""

SAVE = """
grown = fxgrow.grow(model, 1.25, example_inputs=x, verify=False)
fxgrow.save(grown, folder / "old")
old = (folder / "old").read_bytes()
with torch.no_grad():
    for parameter in grown.parameters():
        parameter.add_(1.0)
fxgrow.save(grown, folder / "new")
new = (folder / "new").read_bytes()
target = folder / "target"
target.write_bytes(old)

def found():
    now = target.read_bytes()
    target.write_bytes(old)
    return {old: "old", new: "new"}.get(now, "neither")

killed_at_moments(lambda: fxgrow.save(grown, target), found)
"""

GROW_FILES = """
from safetensors.torch import save_file
fxgrow.plan(model, 1.25, example_inputs=x)
save_file(model.state_dict(), folder / "source.safetensors")
target = folder / "target"

def work():
    fxgrow.grow_files(folder / "source.safetensors", target, model, 1.25, example_inputs=x, shard_size=2**21)

def found():
    if not target.exists():
        return "old"
    loaded = fxgrow.load(target, model)
    whole = sum(parameter.isfinite().all().item() for parameter in loaded.parameters()) == 16
    target.rename(folder / f"done-{time.monotonic_ns()}")
    return "new" if whole else "neither"

killed_at_moments(work, found)
"""


@pytest.mark.parametrize("script", [SAVE, GROW_FILES], ids=["save", "grow_files"])
def test_what_is_found_is_old_or_new(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROLOGUE + script, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    caught, *seen = ended.stdout.split()
    assert len(seen) == 21
    assert set(seen) == {"old", "new"}, seen
    assert int(caught) > 0, "no moment was in the middle of writing"
