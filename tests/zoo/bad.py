"""Models that no sweep should stumble over."""

from __future__ import annotations

import ctypes
import time

import torch
from torch import nn


def crashes() -> nn.Module:
    """Takes the process down."""
    ctypes.string_at(0)
    return nn.Linear(1, 1)


def hangs() -> nn.Module:
    """Takes longer than anyone waits."""
    time.sleep(600)
    return nn.Linear(1, 1)


def eats() -> nn.Module:
    """Wants more memory than a model may have."""
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(2)), Hoarder())


class Hoarder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hoard = [torch.ones(2**28, device="cpu") for _ in range(64)]


def raises() -> nn.Module:
    """Fails to build."""
    raise RuntimeError("no such day")
