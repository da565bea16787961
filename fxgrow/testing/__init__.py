"""Tests of rules: each rule is judged by the op that it describes."""

from fxgrow.testing.checking import check_rule
from fxgrow.testing.judging import Judgement, WrongRule

__all__ = ["Judgement", "WrongRule", "check_rule"]
