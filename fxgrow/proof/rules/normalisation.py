"""Norms: which units a statistic is taken over, and how gain and eps make up for new units among them.

Let D' positions stand for each of D old units n times, and otherwise hold the mean of the old units (LayerNorm) or
zero (RMSNorm). Then the mean stays, and variance or mean square become r = n D/D' times what they were; gain x sqrt(r)
and eps x r undo that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fxgrow.modules.containers import along
from fxgrow.proof.atoms import atoms_of
from fxgrow.proof.claims import Claim, HeldValues, Map, Refuted, Unproved, both_copies, is_new, merge_axes, split_axis
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.known_values import repeated
from fxgrow.proof.node_pair import Use, no_rule
from fxgrow.proof.rules.pointwise import combined
from fxgrow.proof.rules.reduction import positions
from fxgrow.proof.values import exact
from fxgrow.rules.law import Fact, Law
from fxgrow.rules.normalisation import BatchNorm, GuardedReduction, OverUnits

Fits = Literal["mean", "zero"]


def batch_norm(law: Law, use: Use) -> Claim:
    """Each channel (axis 1) by itself, over batch and space; then an activation, where the layer has one."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, gain, bias = (use.weight(k + 1, name) for k, name in enumerate(names))
    x = _of_channels(use, use.claim())
    for tensor in (mean, variance, gain, bias):
        _own(use, tensor, x.maps[1])
    zero = x.zeros_along([1])
    if mean is not None:
        zero = zero & _channels(mean, x, 1)
    claim = _affine(x, 1, zero, gain, bias, (mean, variance))
    if not isinstance(law, BatchNorm) or law.activation is None:
        return claim
    with torch.no_grad():  # the activation has been compared with the original's
        activated = getattr(use.new_module, law.activation)(torch.zeros(1, dtype=torch.float64))
    return combined(use, [claim], "other", [[0]] if bool((activated == 0).all()) else ())


def _of_channels(use: Use, x: Claim) -> Claim:
    x = use.equal(x)
    use.fixed(x, [k for k in range(x.rank) if k != 1], "an axis that the norm is taken over")
    return x


def over_units(law: OverUnits, use: Use) -> Claim:
    shape, eps = use.setting(1, "normalized_shape"), use.setting(*law.eps_place)
    eps = Both(*(law.default_eps if e is None else e for e in (eps.old, eps.new)))
    x = use.claim()
    if len(shape.old) != 1 or tuple(shape.new) != x.new[-1:]:
        raise Unproved(f"{use.name} is taken over {tuple(shape.new)}, the units of its input are {x.new[-1]}")
    return _over_units(use, x, eps, "mean" if law.fits is Fact.MEAN else "zero")


def guarded(law: GuardedReduction, use: Use) -> Claim:
    """A guard beside itself, or beside the norm that it took the place of; arguments are in the guard's order."""
    x, eps_place = use.claim(0, "x"), law.core[0] - 1
    eps, core = plain(use.argument(eps_place, "eps")), plain(use.argument(*law.core))
    if law.grouped:
        return _group_norm(use, x, plain(use.argument(1, "num_groups")), eps, core)
    return _over_units(use, x, eps, "mean" if eps_place == 4 else "zero", core)


def _over_units(use: Use, x: Claim, eps: Both, fits: Fits, core: Both | None = None) -> Claim:
    """LayerNorm ("mean") or RMSNorm ("zero") over the last axis.

    core: the ranges that a guarded norm takes its statistic over; None for either model: all units.
    """
    use.rule = "LayerNorm" if fits == "mean" else "RMSNorm"
    gain, bias = use.weight(2, "weight"), use.weight(3, "bias") if fits == "mean" else None
    x = use.equal(x)
    axis = x.rank - 1
    ratio = _ratio(x, axis, fits, core, use)
    _check_eps(use, eps, ratio)
    for tensor, factor in ((gain, math.sqrt(ratio)), (bias, 1.0)):
        _own(use, tensor, x.maps[axis], factor)
    if gain is None and ratio != 1.0:
        raise Refuted(f"{use.name} has no gain to make up for {x.new[axis]} units that were {x.old[axis]}")
    quiet = torch.zeros(1, dtype=torch.bool)
    if fits == "zero":
        quiet = x.zeros_along([axis]).flatten()
    elif core is None or core.new is None:
        quiet = x.means.get(axis, quiet)
    return _affine(x, axis, along(quiet, axis, x.rank), gain, bias)


def _ratio(x: Claim, axis: int, fits: Fits, core: Both | None, use: Use) -> float:
    """By how much the variance or mean square of the old units counts, now that there are more."""
    old_core = positions(core.old if core is not None else None, x.old[axis])
    new_core = positions(core.new if core is not None else None, x.new[axis])
    if x.maps[axis] is None and torch.equal(old_core, new_core):
        return 1.0
    atoms = atoms_of(x, axis)
    index = atoms.index[new_core]
    if bool((index >= atoms.size).any()):
        where = int(new_core[(index >= atoms.size).nonzero()[0]])
        raise Unproved(f"{use.name} takes its statistic over unit {where}, which is new and can be anything")
    wrong = -1 if fits == "mean" else -2
    if bool((index == wrong).any()):
        where = int(new_core[(index == wrong).nonzero()[0]])
        raise Refuted(
            f"{use.name} takes its statistic over unit {where}, which is {'zero' if wrong == -1 else 'the mean'}"
        )
    counts = torch.bincount(index[index >= 0], minlength=atoms.size)
    each = torch.zeros(atoms.size, dtype=torch.long).index_fill_(0, old_core, 1)
    if atoms.twins is not None:  # of equal units, only how many there are counts
        counts, each = (torch.zeros_like(each).index_add_(0, atoms.twins, tensor) for tensor in (counts, each))
    times = int(counts.sum()) // max(1, int(each.sum()))
    wanted = each * times
    if times == 0 or not torch.equal(counts, wanted):
        raise Refuted(f"{use.name} does not take its statistic over every old unit equally often")
    if len(new_core) == times * len(old_core):
        use.checked("its statistic is that of the old units" + (f", each {times} times" if times > 1 else ""))
        return 1.0
    if len(old_core) != x.old[axis]:
        raise Unproved("a guarded norm is taken over new units")
    use.checked(f"the new units that it is taken over are {'the mean of the old' if fits == 'mean' else 'zero'}")
    return times * len(old_core) / len(new_core)


def spectral_norm(law: Law, use: Use) -> Claim:
    """A weight over its spectral norm, which is that of the old entries: a number that is the same in both models.

    Its values are not told, so that pairs which cancel (`init="mirror"`) are not seen.
    """
    weight, u, v = (use.parameter_of(f"{use.new.target}.{name}") for name in ("original", "0._u", "0._v"))
    assert weight is not None and u is not None and v is not None
    x = use.equal(weight)
    use.unchanged((u, v), "a vector of the power iteration")
    old_cores, new_cores = (getattr(m[0], "core", [None] * x.rank) for m in (use.old_module, use.new_module))  # type: ignore[index]
    for axis, position in enumerate(x.maps):
        old, new = positions(old_cores[axis], x.old[axis]), positions(new_cores[axis], x.new[axis])
        if not torch.equal(old, new if position is None else position[new]):
            raise Refuted(f"the spectral norm is not taken over the old entries along axis {axis} alone")
    use.checked("the spectral norm is that of the old entries")
    return combined(use, [x], "linear", [[0]])


def weight_norm(law: Law, use: Use) -> Claim:
    """The values are worked out, in both models."""
    module: Any = use.new_module
    gain, direction = use.parameter("original0"), use.parameter("original1")
    if gain is None or direction is None:
        raise no_rule(use)
    g, v = gain.held, direction.held
    assert g is not None and v is not None
    old, new = (
        torch._weight_norm(exact(vectors), exact(gains), module[0].dim)
        for vectors, gains in ((v.old, g.old), (v.new, g.new))
    )
    kept = HeldValues(old, new, use.new.name, False, max(g.precision, v.precision), v.fills, v.rounded or g.rounded)
    return Claim(direction.old, direction.new, direction.maps, held=kept)


def _check_eps(use: Use, eps: Both, ratio: float) -> None:
    if eps.old is None or eps.new is None:
        if ratio != 1.0 or eps.old is not eps.new:
            raise Refuted(f"eps of {use.name} depends on the precision of its input, and cannot make up for new units")
        return
    if not math.isclose(float(eps.new), float(eps.old) * ratio, rel_tol=1e-12, abs_tol=0.0):
        raise Refuted(f"eps of {use.name} is {eps.new:.12g}, it should be {float(eps.old) * ratio:.12g}")
    use.checked(f"eps is the original's{f' x {ratio:.6g}' if ratio != 1.0 else ''}")


def group_norm(law: Law, use: Use) -> Claim:
    return _group_norm(use, use.claim(), use.setting(1, "num_groups"), use.setting(4, "eps", 1e-5))


def _group_norm(use: Use, x: Claim, groups: Both, eps: Both, core: Both | None = None) -> Claim:
    """Statistics over each group of channels (axis 1) and space; the core is a part of each group."""
    use.rule = "GroupNorm"
    gain, bias = use.weight(2, "weight"), use.weight(3, "bias")
    x = _of_channels(use, x)
    if x.new[1] % groups.new or x.old[1] % groups.old:
        raise Refuted(f"{x.new[1]} channels are not {groups.new} groups")
    apart = split_axis(x, 1, (groups.old, x.old[1] // groups.old), (groups.new, x.new[1] // groups.new))
    if _ratio(apart, 2, "mean", core, use) != 1.0:
        raise Unproved("the width of the groups of a GroupNorm grows")
    _check_eps(use, eps, 1.0)
    for tensor in (gain, bias):
        _own(use, tensor, x.maps[1])
    silent = apart.zeros_along([1])  # a group of zeros stays zero
    silent = merge_axes(Claim(apart.old, apart.new, apart.maps, silent), 1).zeros()
    joint = {axis: source for axis, source in apart.copies.items() if axis == 1}
    x = merge_axes(Claim(apart.old, apart.new, apart.maps, None, joint), 1)
    return _affine(x, 1, silent, gain, bias)


def _own(use: Use, tensor: Claim | None, position: Map, factor: float = 1.0) -> None:
    """A parameter of the norm `[units]` has the old values at the old units."""
    if tensor is None:
        return
    use.agreeing_maps((tensor.maps[-1], position), (0, 0), "a parameter of the norm")
    if tensor.held is not None:
        use.old_entries(tensor.held, tensor.maps, tensor.old, factor)
    elif factor != 1.0:
        raise Unproved("the gain of the norm is computed from the input")


def _channels(tensor: Claim, x: Claim, axis: int) -> Tensor:
    """At which units a parameter `[units]` is zero, facing x."""
    zero = tensor.held.new == 0 if tensor.held is not None else tensor.zeros_along([tensor.rank - 1])
    return along(zero.cpu().flatten(), axis, x.rank)


def _affine(
    x: Claim, axis: int, zero: Tensor, gain: Claim | None, bias: Claim | None, others: Sequence[Any] = ()
) -> Claim:
    """The normalised tensor times gain plus bias; `zero`: where the normalised tensor is zero."""
    if gain is not None:
        zero = zero | _channels(gain, x, axis)
    if bias is not None:
        zero = zero & _channels(bias, x, axis)
    zero = zero & is_new(x)
    copies = {k: v for k, v in x.copies.items() if k != axis}
    if axis in x.copies:
        common = x.copies[axis]
        for tensor in (gain, bias, *others):
            if tensor is not None:
                own = (
                    repeated(tensor.held.new, tensor.rank - 1)
                    if tensor.held is not None
                    else tensor.copies_of(tensor.rank - 1)
                )
                common = both_copies(common, own.cpu())
        copies[axis] = common
    return Claim(x.old, x.new, x.maps, zero, copies)
