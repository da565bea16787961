"""One thread a process: tests run side by side, and small tensors gain nothing from more.

What has been imported is kept out of garbage collection, most of whose time would go into it.
"""

from __future__ import annotations

import gc

import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
