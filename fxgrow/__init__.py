"""Grow trained PyTorch models: wider, same function, ready to train on."""

from fxgrow.births import Birth, births
from fxgrow.errors import FxgrowError
from fxgrow.files import load, save
from fxgrow.growing import grow, plan, report
from fxgrow.planning.plan import Plan
from fxgrow.rules.table import rule
from fxgrow.version import __version__

__all__ = [
    "Birth",
    "FxgrowError",
    "Plan",
    "__version__",
    "births",
    "grow",
    "load",
    "plan",
    "report",
    "rule",
    "save",
]
