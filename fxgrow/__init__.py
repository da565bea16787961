"""Grow trained PyTorch models: wider or deeper, same function, ready to train on."""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from fxgrow.version import __version__ as __version__

if TYPE_CHECKING:
    from fxgrow.birth import Birth
    from fxgrow.coordinates import coordinate_check
    from fxgrow.errors import FxgrowError
    from fxgrow.files.saving import load, save
    from fxgrow.files.streaming import grow_files
    from fxgrow.growth.certifying import certify
    from fxgrow.growth.folding import fold
    from fxgrow.growth.growing import grow, plan
    from fxgrow.growth.settling import settle
    from fxgrow.growth.sharded import grow_sharded
    from fxgrow.history import births, report
    from fxgrow.planning.plan import Plan
    from fxgrow.rules.registry import rule
    from fxgrow.schedule import Schedule
    from fxgrow.training.groups import param_groups
    from fxgrow.training.rates import adapt_rates
    from fxgrow.training.state import replace_parameters, transfer_state
    from fxgrow.training.vitality import vitality

__all__ = [
    "Birth",
    "FxgrowError",
    "Plan",
    "Schedule",
    "adapt_rates",
    "births",
    "certify",
    "coordinate_check",
    "fold",
    "grow",
    "grow_files",
    "grow_sharded",
    "load",
    "param_groups",
    "plan",
    "replace_parameters",
    "report",
    "rule",
    "save",
    "settle",
    "transfer_state",
    "vitality",
]

_HOMES = {
    "birth": ("Birth",),
    "errors": ("FxgrowError",),
    "files.saving": ("load", "save"),
    "growth.folding": ("fold",),
    "growth.growing": ("grow", "plan"),
    "history": ("births", "report"),
    "planning.plan": ("Plan",),
    "growth.certifying": ("certify",),
    "coordinates": ("coordinate_check",),
    "rules.registry": ("rule",),
    "schedule": ("Schedule",),
    "growth.settling": ("settle",),
    "growth.sharded": ("grow_sharded",),
    "files.streaming": ("grow_files",),
    "training.groups": ("param_groups",),
    "training.rates": ("adapt_rates",),
    "training.state": ("replace_parameters", "transfer_state"),
    "training.vitality": ("vitality",),
}
"""Modules and the public names in them: imported when they are first asked for, so that the command line starts fast.

No module of the package itself may be called like a public name: it would stand in the name's place.
"""


if not TYPE_CHECKING:  # to a type checker, names that are not there are mistakes

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                drawn = random.getstate()  # of which rich, once it is imported, takes some
                globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
                random.setstate(drawn)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
