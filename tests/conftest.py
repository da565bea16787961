"""One thread a process: tests run side by side, and small tensors gain nothing from more; nor are examples timed.

`pytest --hypothesis-profile many` draws four times as many of them.

What has been imported is kept out of garbage collection, most of whose time would go into it; and there is less of it.
"""

from __future__ import annotations

import gc

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("many", deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("fxgrow", settings.get_profile("many"), max_examples=25)
settings.load_profile("fxgrow")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
