"""Rows for the layers and helper functions that timm and torchvision bring themselves; never for models."""

from __future__ import annotations

import timm.layers as layers
from timm.models import _features_fx as timm_registry
from torchvision.models import swin_transformer as torchvision_windows
from torchvision.ops import StochasticDepth

from fxgrow.rules.normalisation import BatchNorm
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_function, rule, rules
from fxgrow.rules.spatial import Rearranged
from fxgrow.rules.windows import BiasTable, WindowAttention

rule(layers.BatchNormAct2d, BatchNorm(activation="act"))
rule(layers.DropPath, Pointwise("linear"))
rule(StochasticDepth, Pointwise("linear"))
rules((layers.GELU, layers.GELUTanh, layers.Swish, layers.HardSwish, layers.Mish, layers.Tanh), Pointwise("zero"))
rules((layers.Sigmoid, layers.HardSigmoid), Pointwise("other"))

_REARRANGING = ("window_reverse", "grid_reverse", "window_partition", "resample_abs_pos_embed")
"""Helpers timm keeps out of tracing that move or resample entries over space, the last axis untouched."""

for _function in timm_registry.get_notrace_functions():
    if _function.__name__ in _REARRANGING and law_of_function(_function) is None:
        rule(_function, Rearranged())

rule(torchvision_windows._patch_merging_pad, Rearranged(times=4))
rule(torchvision_windows._get_relative_position_bias, BiasTable())
rule(torchvision_windows.shifted_window_attention, WindowAttention())
