"""Rows for the layers and helper functions that torchvision brings itself; never for models."""

from __future__ import annotations

from torchvision.models import swin_transformer as windows
from torchvision.ops import StochasticDepth

from fxgrow.rules.attention import BiasTable, WindowAttention
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import rule
from fxgrow.rules.spatial import Rearranged

rule(StochasticDepth, Pointwise("linear"))
rule(windows._patch_merging_pad, Rearranged(times=4))
rule(windows._get_relative_position_bias, BiasTable())
rule(windows.shifted_window_attention, WindowAttention())
