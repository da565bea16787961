"""The proof rule of each law: how a grown node is proved to do what the original's did, by the law of its op.

The planner (`fxgrow.rules`) and the proof share what a law says of its op, such as the patterns of a contraction. Each
side works out by itself what follows from that. A law of a user's own may bring a method `prove`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules import attention, contraction, movement, normalisation, pointwise, recurrent, reduction, spatial
from fxgrow.proof.rules.picking import item, written
from fxgrow.rules import picking, weights
from fxgrow.rules.attention import Attention, WindowAttention
from fxgrow.rules.complexes import ComplexPart, Pairs
from fxgrow.rules.contraction import Gather, GatherBags, SumOfProducts
from fxgrow.rules.convolution import Convolution, Deformable, Transposed
from fxgrow.rules.law import Law
from fxgrow.rules.normalisation import BatchNorm, GroupNorm, GuardedReduction, OverUnits
from fxgrow.rules.pointwise import GatedUnit, ParametricRelu, Pointwise
from fxgrow.rules.products import CoreReadout
from fxgrow.rules.recurrent import PackedParts, Packing, Recurrent, RecurrentCell
from fxgrow.rules.reduction import Across, Compared, CoreUnits, OverItsNorm, Reduction
from fxgrow.rules.shape import Shape
from fxgrow.rules.spatial import AffineGrid, Pad, Spatial, Unpooled
from fxgrow.rules.stretching import NewTensors


@dataclass(frozen=True)
class Rule:
    """How nodes of a law are proved: by which function, and what proofs call it, if it does not say so itself.

    besides, places: settings that need not be what they were, by name and, of functions, by place; the function looks
    at these. open: it looks at all of them, or runs both nodes with their own.
    """

    function: Callable[[Any, Use], Any]
    says: str = ""
    besides: Sequence[str] = ()
    places: Sequence[int] = ()
    open: bool = False


_OF_TABLE = ("num_embeddings", "embedding_dim")
_OF_STATE = ("input_size", "hidden_size")

RULES: dict[type[Law], Rule] = {
    **dict.fromkeys((Shape, picking.Select, picking.Narrow, CoreUnits), Rule(movement.moved, open=True)),
    picking.GetItem: Rule(item, open=True),
    picking.IndexedWrite: Rule(written, open=True),
    NewTensors: Rule(movement.made, open=True),
    Pairs: Rule(spatial.paired, "the same for every channel"),
    SumOfProducts: Rule(contraction.summed),
    **dict.fromkeys((Convolution, Transposed), Rule(contraction.convolved, "convolution", ("groups",), (6,))),
    Deformable: Rule(contraction.deformed, "deformable convolution"),
    CoreReadout: Rule(contraction.readout, "readout", ("core",), (3,)),
    Gather: Rule(contraction.gather, "rows picked by index", _OF_TABLE),
    GatherBags: Rule(contraction.gather_bags, "rows picked by index", _OF_TABLE),
    Pointwise: Rule(pointwise.pointwise),
    ParametricRelu: Rule(pointwise.parametric_relu, "pointwise", ("num_parameters",)),
    GatedUnit: Rule(pointwise.gated_unit, "one half times the sigmoid of the other"),
    ComplexPart: Rule(pointwise.complex_part, "a part of complex numbers"),
    **dict.fromkeys(
        (BatchNorm, weights.BatchNormFunction),
        Rule(normalisation.batch_norm, "norm of each channel", ("num_features",)),
    ),
    OverUnits: Rule(normalisation.over_units, "", ("normalized_shape", "eps"), (1, 3, 4)),
    GroupNorm: Rule(normalisation.group_norm, "", ("num_channels", "num_groups"), (1, 4)),
    GuardedReduction: Rule(normalisation.guarded, open=True),
    weights.SpectralNorm: Rule(normalisation.spectral_norm, "computed from parameters", ("core",)),
    weights.WeightNorm: Rule(normalisation.weight_norm, "computed from parameters"),
    Reduction: Rule(reduction.reduced, "reduction"),
    Compared: Rule(reduction.compared, "compared along an axis"),
    OverItsNorm: Rule(reduction.over_its_norm, open=True),
    Across: Rule(spatial.across, "the same for every channel"),
    Spatial: Rule(spatial.channelwise, "the same for every channel"),
    Pad: Rule(spatial.padded, "the same for every channel", ("pad",), (1,)),
    Unpooled: Rule(spatial.unpooled, "the same for every channel", open=True),
    AffineGrid: Rule(spatial.affine_grid, "points of a grid", ("size",), (1,)),
    Attention: Rule(attention.attention, "attention", ("scale",), (6,)),
    WindowAttention: Rule(attention.window_attention, "window attention", ("num_heads",), (5,)),
    PackedParts: Rule(recurrent.packed, "a packed sequence of these parts", open=True),
    Packing: Rule(recurrent.packing, "moves positions"),
    Recurrent: Rule(recurrent.recurrent, "recurrent layer, by induction over time", _OF_STATE),
    RecurrentCell: Rule(recurrent.cell, "a step of a recurrence", _OF_STATE),
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
    rule = next((RULES[kind] for kind in type(law).__mro__ if kind in RULES), None)
    if rule is None:
        raise no_rule(use)
    use.rule = rule.says
    if not rule.open:
        use.same_module({*rule.besides, *getattr(law, "attributes", ())})
        use.same_numbers(rule.besides, rule.places)
    return rule.function(law, use)
