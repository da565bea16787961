"""Rows for the layers and helper functions that torchvision brings itself; never for models."""

from __future__ import annotations

from torchvision.models import swin_transformer as windows
from torchvision.ops import (
    DeformConv2d,
    StochasticDepth,
    deform_conv2d,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_pool,
)

from fxgrow.rules.attention import BiasTable, WindowAttention
from fxgrow.rules.convolution import Deformable
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import rule, rules
from fxgrow.rules.spatial import Rearranged, Regions

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
rule(roi_align, Regions("linear"))
rule(roi_pool, Regions("zero"))
rules((ps_roi_align, ps_roi_pool), Regions("linear", by_cell=True))
rule(windows._patch_merging_pad, Rearranged(times=4))
rule(windows._get_relative_position_bias, BiasTable())
rule(windows.shifted_window_attention, WindowAttention())
