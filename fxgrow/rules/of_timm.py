"""Rows for the layers and helper functions that timm brings itself; never for models."""

from __future__ import annotations

import timm.layers as layers
from timm.models import _features_fx as timm_registry

from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_function, rule, rules
from fxgrow.rules.spatial import Spatial

rule(layers.BatchNormAct2d, BatchNorm(activation="act"))
rule(layers.DropPath, Pointwise("linear"))
rules((layers.GELU, layers.GELUTanh, layers.Swish, layers.HardSwish, layers.Mish, layers.Tanh), Pointwise("zero"))
rules((layers.Sigmoid, layers.HardSigmoid), Pointwise("other"))

_WINDOWS = ("window_reverse", "grid_reverse", "window_partition")
"""Helpers timm keeps out of tracing that move entries over space, the last axis untouched."""

for _function in timm_registry.get_notrace_functions():
    if _function.__name__ in _WINDOWS and law_of_function(_function) is None:
        rule(_function, Spatial("linear", pattern="... c -> n y x c", moves=True))
rule(layers.resample_abs_pos_embed, Spatial("linear", pattern="a n c -> b m c"))
