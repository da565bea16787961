"""Grow trained PyTorch models: wider, same function, ready to train on."""

from fxgrow.births import Birth
from fxgrow.errors import FxgrowError
from fxgrow.files import load, save
from fxgrow.folding import fold
from fxgrow.growing import grow, plan, report
from fxgrow.history import births
from fxgrow.planning.plan import Plan
from fxgrow.proof.certifying import certify
from fxgrow.proof.coordinates import coordinate_check
from fxgrow.rules.registry import rule
from fxgrow.schedule import Schedule
from fxgrow.training.groups import param_groups
from fxgrow.training.rates import adapt_rates
from fxgrow.training.state import replace_parameters, transfer_state
from fxgrow.training.vitality import vitality
from fxgrow.version import __version__ as __version__

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
    "load",
    "param_groups",
    "plan",
    "replace_parameters",
    "report",
    "rule",
    "save",
    "transfer_state",
    "vitality",
]
