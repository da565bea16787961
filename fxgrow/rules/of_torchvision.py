"""Rows for the layers and helper functions that torchvision brings itself; never for models."""

from __future__ import annotations

from torchvision.models import swin_transformer as windows
from torchvision.ops import DeformConv2d, StochasticDepth, deform_conv2d, ps_roi_align, ps_roi_pool, roi_align, roi_pool

from fxgrow.rules.attention import WindowAttention
from fxgrow.rules.convolution import Deformable
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import rule, rules
from fxgrow.rules.spatial import Spatial

rule(StochasticDepth, Pointwise("linear"))
rules(
    (DeformConv2d, deform_conv2d),
    Deformable(
        ("... (g i) *s", "(g o) i *k"),
        "... (g o) *t",
        "(g o)",
        attributes={"in_channels": "(g i)", "out_channels": "(g o)", "groups": "g"},
    ),
)
rule(roi_align, Spatial("linear", pattern="n c h w -> boxes c y x"))
rule(roi_pool, Spatial("zero", pattern="n c h w -> boxes c y x"))
rules((ps_roi_align, ps_roi_pool), Spatial("linear", pattern="n (c cells) h w -> boxes c y x"))
rule(windows._get_relative_position_bias, Spatial("linear", pattern="entries heads -> b heads n m"))
rule(windows.shifted_window_attention, WindowAttention())
