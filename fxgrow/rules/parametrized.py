"""Weights that a parametrization computes: weight norm, and spectral norm.

Weight norm is direction over its norm times a gain for each unit. Spectral norm is a weight over one number, which a
guard takes from the old entries alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn.utils import parametrizations

from fxgrow.axes.layout import Leaf
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Edit, Fact, Law, Range, Terms, Want
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.pointwise import Pointwise
from fxgrow.spectral import is_spectral_norm


class Parametrized(Pointwise):
    """A `ParametrizationList` that holds weight norm, g v / |v|, or spectral norm; any other is held.

    Under weight norm, with the norm over all axes but one, old weights stay where new entries of v along those axes are
    zero. Under spectral norm the result is the weight times a number.
    """

    family = "normalisation"

    def __init__(self) -> None:
        super().__init__("linear")

    def terms(self, call: Call | Op) -> Terms | None:  # type: ignore[override]
        return Law.terms(self, call)

    def relate(self, op: Op) -> Tree:
        module: Any = op.module
        op.data.update(axis=None, kind="linear", made_along=None)
        if is_spectral_norm(module):
            weight = op.parameter("original")
            assert weight is not None
            for vector in map(op.parameter, ("0._u", "0._v")):
                op.unifier.fix(vector.axes if vector is not None else (), "a vector of the power iteration")
            op.role(weight, "weight")
            op.data.update(operands=[weight], made_along=module[0].dim)
            return op.result(weight.axes)
        if not is_weight_norm(module):
            kinds = " and ".join(type(part).__name__ for part in module)
            why = "computes every entry from the whole weight, so that new units would change old ones"
            op.fix_operands(f"{kinds} {why}: take it off by parametrize.remove_parametrizations to grow this layer")
            return op.constants(op.value)
        direction, gain = op.parameter("original1"), op.parameter("original0")
        assert direction is not None and gain is not None
        axis = module[0].dim % direction.rank
        op.unifier.unify(gain.axes[axis], direction.axes[axis])
        for k in set(range(gain.rank)) - {axis}:
            op.unifier.fix(gain.axes[k], "a gain of each unit")
        op.role(gain, "gain")
        op.role(direction, "weight")
        op.data.update(axis=axis, direction=direction, gain=gain, operands=[direction], made_along=axis)
        return op.result(direction.axes)

    def _over(self, op: Op, know: Knowledge) -> Iterable[tuple[Leaf, int]]:
        """The growing leaves over which a weight norm is taken, each with its axis."""
        for k, layout in enumerate(op.data["direction"].axes if op.data["axis"] is not None else ()):
            if k != op.data["axis"]:
                yield from ((leaf, k) for leaf in know.growing(layout))

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        for leaf, k in self._over(op, know):
            yield [(op.data["direction"], Want(leaf, Fact.ZERO, axis=k))]

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        if op.data["axis"] is None:
            return super().demand(op, output, want)
        places = Knowledge.places(output, want.leaf, want.axis)
        if len(places) != 1 or want.where is not None or want.fact is Fact.MEAN:
            return []
        if places == [op.data["axis"]]:
            return [[(op.data["gain"], Want(want.leaf, Fact.ZERO))]] if want.fact is Fact.ZERO else []
        return [[(op.data["direction"], Want(want.leaf, Fact.ZERO, axis=places[0]))]]

    def facts(self, op: Op, know: Knowledge) -> None:
        axis, output = op.data["axis"], op.made
        if axis is None:
            if op.data["made_along"] is not None:
                super().facts(op, know)
            return
        over = list(self._over(op, know))
        for leaf, k in over:
            if know.fact(op.data["direction"], leaf, k) is not Fact.ZERO:
                know.fail(op, leaf, "the norm of a weight is taken over it")
            elif leaf not in know.growing(output.axes[axis]):
                know.learn(output, leaf, Fact.ZERO)
        for leaf in know.growing(output.axes[axis]):
            if know.fact(op.data["direction"], leaf, axis) is Fact.ZERO:
                know.fail(op, leaf, "zeros have no direction, which a weight norm divides by")
            if leaf not in {one for one, _ in over} and know.fact(op.data["gain"], leaf) is Fact.ZERO:
                know.learn(output, leaf, Fact.ZERO)

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        """What is known of a weight, on every axis that has the dimension."""
        (weight,) = op.data["operands"]
        known = [know.ranged(weight, leaf, axis) for axis in Knowledge.places(weight, leaf, None)]
        return known[0] if all(other == known[0] for other in known) else {}

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        module: Any = op.module
        if not is_spectral_norm(module) or not know.growing(*op.made.axes):
            return []
        whole = [((0, layout.size),) for layout in op.made.axes]
        cores = zip(op.made.axes, getattr(module[0], "core", whole), strict=True)
        return [Edit("cores", {"part": "0", "cores": list(cores)})]

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        if op.data["made_along"] is not None:
            (weight,) = op.data["operands"]
            yield from ((str(weight.parameter), k) for k in range(weight.rank) if k != op.data["made_along"])


def is_weight_norm(module: Any) -> bool:
    """Whether a parametrization is weight norm alone."""
    return len(module) == 1 and isinstance(module[0], parametrizations._WeightNorm) and module[0].dim >= 0
