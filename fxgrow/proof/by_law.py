"""The proof rule of each law: how a grown node is proved to do what the original's did, by the law of its op.

The planner (`fxgrow.rules`) and the proof share what a law says of its op, such as the patterns of a contraction. Each
side works out by itself what follows from that. A law of a user's own may bring a method `prove`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules import attention, contraction, movement, normalisation, pointwise, recurrent, reduction, spatial
from fxgrow.proof.rules.picking import item, written
from fxgrow.rules import picking, weights
from fxgrow.rules.attention import Attention, WindowAttention
from fxgrow.rules.complexes import Pairs, Part
from fxgrow.rules.contraction import Gather, GatherBags, SumOfProducts
from fxgrow.rules.convolution import Convolution, Deformable, Transposed
from fxgrow.rules.law import Law
from fxgrow.rules.normalisation import BatchNorm, GroupNorm, Guarded, OverUnits
from fxgrow.rules.pointwise import GatedUnit, ParametricRelu, Pointwise
from fxgrow.rules.products import Readout
from fxgrow.rules.recurrent import Packed, Packing, Recurrent, RecurrentCell
from fxgrow.rules.reduction import Across, Compared, CoreUnits, OverItsNorm, Reduction
from fxgrow.rules.shape import Shape
from fxgrow.rules.spatial import AffineGrid, Pad, Spatial, Unpooled
from fxgrow.rules.stretching import Made

RULES: dict[type[Law], Callable[[Any, Use], Any]] = {
    **dict.fromkeys((Shape, picking.Select, picking.Narrow, CoreUnits), movement.moved),
    picking.GetItem: item,
    picking.Written: written,
    Made: movement.made,
    Pairs: spatial.paired,
    SumOfProducts: contraction.summed,
    **dict.fromkeys((Convolution, Transposed), contraction.convolved),
    Deformable: contraction.deformed,
    Readout: contraction.readout,
    Gather: contraction.gather,
    GatherBags: contraction.gather_bags,
    Pointwise: pointwise.pointwise,
    ParametricRelu: pointwise.parametric_relu,
    GatedUnit: pointwise.gated_unit,
    Part: pointwise.complex_part,
    **dict.fromkeys((BatchNorm, weights.BatchNormFunction), normalisation.batch_norm),
    OverUnits: normalisation.over_units,
    GroupNorm: normalisation.group_norm,
    Guarded: normalisation.guarded,
    weights.SpectralNorm: normalisation.spectral_norm,
    weights.WeightNorm: normalisation.weight_norm,
    Reduction: reduction.reduced,
    Compared: reduction.compared,
    OverItsNorm: reduction.over_its_norm,
    Across: spatial.across,
    Spatial: spatial.channelwise,
    Pad: spatial.padded,
    Unpooled: spatial.unpooled,
    AffineGrid: spatial.affine_grid,
    Attention: attention.attention,
    WindowAttention: attention.window_attention,
    Packed: recurrent.packed,
    Packing: recurrent.packing,
    Recurrent: recurrent.recurrent,
    RecurrentCell: recurrent.cell,
}
"""By the class of a law; one that is not among them has the rule of its base class."""


def prove(law: Law, use: Use) -> Any:
    """What is claimed of the outputs of a grown node beside the original's, from its operands and values.

    Raises
    ------
    Unproved: there is no proof. Refuted: a condition does not hold.
    """
    own = law.prove(use)
    if own is not NotImplemented:
        return own
    for kind in type(law).__mro__:
        if kind in RULES:
            return RULES[kind](law, use)
    raise no_rule(use)
