"""Grow trained PyTorch models: wider, same function, ready to train on."""

from fxgrow.births import Birth
from fxgrow.errors import FxgrowError
from fxgrow.files import load, save
from fxgrow.growing import grow, plan, report
from fxgrow.history import births
from fxgrow.planning.plan import Plan
from fxgrow.proof.certifying import certify
from fxgrow.proof.coordinates import coordinate_check
from fxgrow.rules.registry import rule
from fxgrow.version import __version__

__all__ = [
    "Birth",
    "FxgrowError",
    "Plan",
    "__version__",
    "births",
    "certify",
    "coordinate_check",
    "grow",
    "load",
    "plan",
    "report",
    "rule",
    "save",
]
