"""The proof rule of each law: how a grown node is proved to do what the original's did, by the law of its op.

The planner (`fxgrow.rules`) and the proof share what a law says of its op, such as the patterns of a contraction. Each
side works out by itself what follows from that. A law of a user's own may bring a method `prove`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fxgrow import guards
from fxgrow.proof.claims import Claim, Held, Refuted, Unproved, inserted, spare_copies, unchanged
from fxgrow.proof.node_pair import Both, Use, claims_in, plain
from fxgrow.proof.products import Operand, contract, dropped
from fxgrow.proof.rules import attention as attentions
from fxgrow.proof.rules import contraction, normalisation, recurrent, reduction, spatial
from fxgrow.proof.rules.movement import filled, halves, movement, written
from fxgrow.proof.rules.picking import picked
from fxgrow.proof.rules.pointwise import combined, pointwise
from fxgrow.proof.values import exact
from fxgrow.rules import convolution
from fxgrow.rules.attention import Attention
from fxgrow.rules.comparing import Compared
from fxgrow.rules.complexes import Pairs, Part, is_part
from fxgrow.rules.contraction import Contraction, MatrixProduct
from fxgrow.rules.convolution import Convolution, Slide, Transposed
from fxgrow.rules.gated import GatedUnit
from fxgrow.rules.law import Fact, Law, Terms
from fxgrow.rules.lookup import Gather, GatherBags
from fxgrow.rules.normalisation import BatchNorm, GroupNorm, Guarded, OverUnits
from fxgrow.rules.parametrized import Parametrized, SpectralNorm, WeightNorm
from fxgrow.rules.picking import GetItem, Narrow, Select, Written, picking_axes
from fxgrow.rules.pointwise import ParametricRelu, Pointwise
from fxgrow.rules.products import AddedProduct
from fxgrow.rules.readout import Readout
from fxgrow.rules.recurrent import Recurrent, RecurrentCell
from fxgrow.rules.reduction import Across, CoreUnits, OverItsNorm, Reduction
from fxgrow.rules.shape import Shape, axis_of
from fxgrow.rules.spatial import Pad, PixelShuffle, Rearranged, Spatial, Unfold
from fxgrow.rules.standardisation import BatchNormFunction
from fxgrow.rules.stretching import Made
from fxgrow.rules.windows import BiasTable, WindowAttention


def prove(law: Law, use: Use) -> Any:
    """What is claimed of the outputs of a grown node beside the original's, from its operands and values.

    Raises
    ------
    Unproved: there is no proof. Refuted: a condition does not hold.
    """
    own = law.prove(use)
    return _proved(law, use) if own is NotImplemented else own


@functools.singledispatch
def _proved(law: Law, use: Use) -> Any:
    raise _no_rule(use)


def _no_rule(use: Use) -> Unproved:
    return Unproved(f"{use.name} has no proof rule, and something that it is given has grown")


# -- sums of products ----------------------------------------------------------------------------------------


@_proved.register
def _(law: Contraction, use: Use) -> Any:
    use.rule = "linear" if len(law.inputs) == 2 else "multilinear"
    use.same_settings(law.attributes)
    factors = len(law.inputs) - (1 if use.new_module is not None else 0)
    names = ("input1", "input2") if factors > 1 and use.new_module is not None else ("input", "weight", "bias")
    operands = [use.claim(k, name) for k, name in enumerate(names[:factors])]
    if use.new_module is not None:
        weight, bias = use.parameter("weight"), use.parameter("bias")
        operands += [weight] if weight is not None else []
    else:
        bias = use.optional(factors, "bias") if law.bias is not None else None
    if len(use.claims()) != factors + (use.new_module is None and bias is not None):
        raise Unproved(f"{use.name} is given other tensors than its patterns say")
    return contraction.by_patterns(use, operands, bias, law.inputs, law.output, law.bias)


def _convolved(law: Contraction, use: Use) -> tuple[Claim, Claim, Claim | None, tuple[int, int]]:
    """Input, weight, bias and groups of a convolution; all other arguments have to be what they were."""
    use.same_module(law.attributes)
    use.same_numbers({"groups"}, (6,))
    weight, groups = use.weight(1, "weight"), use.setting(6, "groups", 1)
    assert weight is not None
    return use.claim(), weight, use.weight(2, "bias"), (int(groups.old), int(groups.new))


@_proved.register
def _(law: Convolution, use: Use) -> Any:
    x, weight, bias, groups = _convolved(law, use)
    if use.new_module is not None:
        slides = convolution.slides_of_module(use.new_module)
    else:
        arguments = (plain(use.argument(*place)).new for place in convolution.ARGUMENTS)
        slides = convolution.slides(weight.new[2:], *arguments)
    return contraction.convolution(use, x, weight, bias, groups, slides)


@_proved.register
def _(law: Transposed, use: Use) -> Any:
    x, weight, bias, groups = _convolved(law, use)
    slides = [Slide.FIXED] * (weight.rank - 2)
    return contraction.convolution(use, x, weight, bias, groups, slides, transposed=True)


@_proved.register
def _(law: MatrixProduct, use: Use) -> Any:
    use.rule = law.called
    use.same_numbers()
    argument = plain(use.argument(*law.argument)).new if law.argument is not None else None
    operands = _in_order(use)
    inputs, output = law.patterns([claim.rank for claim in operands], argument)
    return contraction.by_patterns(use, operands, None, inputs, output)


def _in_order(use: Use) -> list[Claim]:
    """The tensors among the arguments; those given by name in the order of torch's names (input, mat1, mat2; other)."""
    named = sorted(use.kwargs.items(), key=lambda item: (item[0] != "input", item[0]))
    return [*claims_in(use.args), *(claim for _, item in named for claim in claims_in(item))]


@_proved.register
def _(law: AddedProduct, use: Use) -> Any:
    use.rule = "matrix product"
    use.same_numbers()
    added, first, second = _in_order(use)
    left, right, made = (tuple(letters) for letters in law.letters)
    letters = made[len(made) - added.rank :]
    for axis in reversed(range(added.rank)):
        if added.new[axis] == 1 != use.value.shape[len(made) - len(letters) + axis]:
            added, letters = dropped(added, axis), (*letters[:axis], *letters[axis + 1 :])
    return contract(use, [Operand(first, left), Operand(second, right)], made, Operand(added, letters))


@_proved.register
def _(law: Readout, use: Use) -> Any:
    use.same_numbers({"core"}, (3,))
    axis, core = int(plain(use.argument(2, "dim")).new), plain(use.argument(3, "core"))
    return contraction.readout(use, use.claim(0, "x"), use.claim(1, "weight"), axis, core)


@_proved.register
def _(law: Gather, use: Use) -> Any:
    use.same_settings({"embedding_dim"})
    table = use.weight(1, "weight")
    assert table is not None
    return contraction.gather(use, use.claim(), table)


@_proved.register
def _(law: GatherBags, use: Use) -> Any:
    use.same_settings({"embedding_dim"})
    table = use.parameter("weight")
    assert table is not None
    for claim in use.claims():
        if not use.equal(claim).same:
            raise Unproved("an index has grown")
    return replace(contraction.gather(use, unchanged(use.value.shape[:1]), table), means={})


# -- pointwise -----------------------------------------------------------------------------------------------


@_proved.register
def _(law: Pointwise, use: Use) -> Any:
    kind = law.kind if isinstance(law.kind, str) else "other"
    if kind == "none":
        raise _no_rule(use)
    return pointwise(use, kind, lambda count: Terms(*law.split(count)).silencing())


@_proved.register
def _(law: ParametricRelu, use: Use) -> Any:
    use.rule = "pointwise"
    use.same_module({"num_parameters"})
    x, slope = use.equal(use.claim()), use.parameter("weight")
    assert slope is not None
    slope = use.equal(slope)
    if slope.new[0] != 1:
        for axis in range(x.rank):
            slope = inserted(slope, axis) if axis != 1 else slope
    return replace(combined(use, [x, slope], "other"), zero=x.zero)  # max(0, 0) + a min(0, 0) = 0


@_proved.register
def _(law: GatedUnit, use: Use) -> Any:
    use.same_settings()
    x = use.equal(use.claim())
    axis = axis_of(use.setting(1, "dim", -1).new, x.rank)
    if x.old[axis] % 2 or x.new[axis] % 2:
        raise Unproved("an axis of odd size has no halves")
    gated, gate = halves(x, axis)
    use.rule = "one half times the sigmoid of the other"
    return combined(use, [gated, gate], "other", [[0]])


# -- movement ------------------------------------------------------------------------------------------------


@_proved.register
def _(law: GetItem, use: Use) -> Any:
    claims = use.claims()
    if isinstance(use.args[0], Claim) and len(claims) > 1 and not all(index.constant for index in claims[1:]):
        index = use.argument(1, "index")
        items = list(index) if isinstance(index, tuple) else [index]
        values = [item.old if isinstance(item, Claim) else plain(item).old for item in items]
        axes = picking_axes([torch.empty(v) if isinstance(v, tuple) else v for v in values], claims[0].rank)
        if axes is not None:
            return picked(use, axes)
    return movement(use)


@_proved.register
def _(law: Part, use: Use) -> Any:
    if use.new.target is getattr and not is_part(plain(use.argument(1, "name")).new):
        raise _no_rule(use)
    use.rule = "a part of complex numbers"
    return combined(use, [use.equal(use.claim())], "linear", [[0]])


@_proved.register
def _(law: Pairs, use: Use) -> Any:
    return spatial.paired(use, law.inverse)


@_proved.register
def _(law: Made, use: Use) -> Any:
    if not law.why_not:
        return filled(use)
    use.rule = "made of sizes alone"
    use.same_numbers()
    return unchanged(use.value.shape)


# -- norms ---------------------------------------------------------------------------------------------------


@_proved.register
def _(law: BatchNorm, use: Use) -> Any:
    claim = _batch_norm(use)
    return claim if law.activation is None else normalisation.activated(use, claim, law.activation)


def _batch_norm(use: Use) -> Claim:
    use.same_settings({"num_features"})
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, gain, bias = (use.weight(k + 1, name) for k, name in enumerate(names))
    return normalisation.batch_norm(use, use.claim(), (mean, variance), gain, bias)


@_proved.register
def _(law: OverUnits, use: Use) -> Any:
    use.same_module({"normalized_shape", "eps"})
    fits = normalisation.MEAN if law.fits is Fact.MEAN else normalisation.ZERO
    shape, eps = use.setting(1, "normalized_shape"), use.setting(*law.eps_place)
    eps = Both(*(law.default_eps if e is None else e for e in (eps.old, eps.new)))
    gain, bias = use.weight(2, "weight"), use.weight(3, "bias") if law.fits is Fact.MEAN else None
    x = use.claim()
    if len(shape.old) != 1 or tuple(shape.new) != x.new[-1:]:
        raise Unproved(f"{use.name} is taken over {tuple(shape.new)}, the units of its input are {x.new[-1]}")
    return normalisation.over_units(use, x, gain, bias, eps, fits)


@_proved.register
def _(law: GroupNorm, use: Use) -> Any:
    use.same_module({"num_channels", "num_groups"})
    count, eps = use.setting(1, "num_groups"), use.setting(4, "eps", 1e-5)
    gain, bias = use.weight(2, "weight"), use.weight(3, "bias")
    return normalisation.group_norm(use, use.claim(), (count.old, count.new), gain, bias, eps)


@_proved.register
def _(law: Guarded, use: Use) -> Any:
    """Beside the guard itself, or beside the norm that it took the place of; arguments are in the guard's order."""
    x, eps_place = use.claim(0, "x"), law.core[0] - 1
    eps, core = plain(use.argument(eps_place, "eps")), plain(use.argument(*law.core))
    gain = use.optional(2, "weight")
    bias = use.optional(3, "bias") if eps_place == 4 else None
    if law.grouped:
        count = plain(use.argument(1, "num_groups"))
        return normalisation.group_norm(use, x, (count.old, count.new), gain, bias, eps, core)
    fits = normalisation.MEAN if eps_place == 4 else normalisation.ZERO
    return normalisation.over_units(use, x, gain, bias, eps, fits, core)


@_proved.register
def _(law: Parametrized, use: Use) -> Any:
    use.same_module()
    raise _no_rule(use)


@_proved.register
def _(law: SpectralNorm, use: Use) -> Any:
    return normalisation.spectral(use)


@_proved.register
def _(law: WeightNorm, use: Use) -> Any:
    """The values are worked out, in both models."""
    use.rule = "computed from parameters"
    use.same_module()
    module: Any = use.new_module
    gain, direction = use.parameter("original0"), use.parameter("original1")
    if gain is None or direction is None:
        raise _no_rule(use)
    g, v = gain.held, direction.held
    assert g is not None and v is not None
    old, new = (
        torch._weight_norm(exact(vectors), exact(gains), module[0].dim)
        for vectors, gains in ((v.old, g.old), (v.new, g.new))
    )
    kept = Held(old, new, use.new.name, False, max(g.precision, v.precision), v.fills, v.rounded or g.rounded)
    return Claim(direction.old, direction.new, direction.maps, held=kept)


# -- reductions ----------------------------------------------------------------------------------------------


@_proved.register
def _(law: Reduction, use: Use) -> Any:
    if len(use.claims()) > 1:  # `torch.max(x, y)`
        return pointwise(use, "zero")
    return reduction.reduced(use, law.kind, law.place, law.keeps_zero)


@_proved.register
def _(law: Across, use: Use) -> Any:
    argument = functools.partial(_found, use)
    axes, index = law.axes(use.new_module, argument, use.claims()[0].rank), argument(2, "index")
    if axes is None:
        raise _no_rule(use)
    return spatial.across(use, axes, law.kind_of(argument), index if isinstance(index, Claim) else None)


def _found(use: Use, index: int, name: str, default: Any = None) -> Any:
    """The claim of a tensor at a position or under a name, or the number that the grown node has there."""
    value = use.argument(index, name, default)
    return value if isinstance(value, Claim) else plain(value).new


@_proved.register
def _(law: OverItsNorm, use: Use) -> Any:
    """Beside the guard itself, or beside the op that it took the place of; arguments are in the guard's order."""
    axis = plain(use.argument(2, "dim", 1))
    if use.new.target is guards.normalize:
        use.same_numbers(places=(2, 4))
        x = use.claim(0, "x")
        if axis.old % x.rank != axis.new % x.rank:
            raise Refuted(f"the guard is taken over axis {axis.new}, the norm over axis {axis.old}")
        return reduction.over_its_core(use, x, int(axis.new), plain(use.argument(4, "core")))
    use.same_numbers()
    return reduction.over_its_norm(use, int(axis.new))


@_proved.register
def _(law: Compared, use: Use) -> Any:
    use.rule = "compared along an axis"
    use.same_settings()
    first, second = map(use.equal, use.claims())
    rank = max(first.rank, second.rank)
    axis = law.axis(use.new_module, functools.partial(_found, use), rank)
    if first.maps[axis] is not None or second.maps[axis] is not None:
        raise Unproved(f"{use.name} is taken over new units")
    if law.pairs:
        if any(m is not None for claim in (first, second) for m in claim.maps[:-2]):
            raise Unproved("batch has grown")
        lead, old, new = use.value.shape[:-2], (first.old[-2], second.old[-2]), (first.new[-2], second.new[-2])
        copies = {len(lead) + k: claim.copies_of(claim.rank - 2) for k, claim in enumerate((first, second))}
        maps = (*[None] * len(lead), first.maps[-2], second.maps[-2])
        return Claim((*lead, *old), (*lead, *new), maps, copies=spare_copies(copies))
    reduced = reduction.of_one(combined(use, [first, second], "other"), rank + axis)
    return dropped(reduced, rank + axis) if len(use.value.shape) < rank else reduced


# -- attention, recurrence, space ----------------------------------------------------------------------------


@_proved.register
def _(law: Recurrent, use: Use) -> Any:
    return recurrent.recurrent(use, law.gates)


@_proved.register
def _(law: RecurrentCell, use: Use) -> Any:
    return recurrent.cell(use, law.gates)


@_proved.register
def _(law: Spatial, use: Use) -> Any:
    rank = use.claims()[0].rank if use.claims() else 0
    spatial_axes = law.rank or rank - 2
    return spatial.channelwise(use, range(rank - spatial_axes, rank), law.kind)


@_proved.register
def _(law: Rearranged, use: Use) -> Any:
    rank = use.claims()[0].rank if use.claims() else 1
    if law.times > 1 or getattr(use.value, "ndim", rank) != rank:
        return movement(use)
    return spatial.channelwise(use, range(rank - 1), law.kind)


@_proved.register
def _(law: Pad, use: Use) -> Any:
    module: Any = use.new_module
    amounts = module.padding if module is not None else plain(use.argument(1, "pad")).new
    filler = use.setting(3, "value").new
    padded = [k for k in range(len(amounts) // 2) if amounts[2 * k] or amounts[2 * k + 1]]
    return spatial.channelwise(use, [-1 - k for k in padded], law.kind, filler in (None, 0))


@_proved.register
def _(law: Unfold, use: Use) -> Any:
    return spatial.windowed(use, law.inverse)


_OF_THE_PAIR_ALONE: dict[Callable[[Use], Any], tuple[type[Law], ...]] = {
    movement: (Shape, Select, Narrow, CoreUnits, PixelShuffle),
    written: (Written,),
    _batch_norm: (BatchNormFunction,),
    attentions.attention: (Attention,),
    attentions.window_attention: (WindowAttention,),
    attentions.bias_table: (BiasTable,),
}
"""Rules that ask nothing of the law."""


for _rule, _laws in _OF_THE_PAIR_ALONE.items():
    for _law in _laws:
        _proved.register(_law, functools.partial(lambda rule, law, use: rule(use), _rule))
