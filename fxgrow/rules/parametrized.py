"""Weights that a parametrization computes: weight norm, and spectral norm.

Weight norm is a direction divided by its norm, times a gain for each unit. Spectral norm is a weight divided by one
number, which a guard takes from the old entries alone.
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


class Parametrized(Law):
    """A `ParametrizationList`: the law is that of what it holds; without one it is held."""

    family = "normalisation"

    def of(self, module: Any) -> Law:
        if is_spectral_norm(module):
            return _SPECTRAL_NORM
        return _WEIGHT_NORM if is_weight_norm(module) else self

    def relate(self, op: Op) -> Tree:
        kinds = " and ".join(type(part).__name__ for part in op.module)
        why = "computes every entry from the whole weight, so that new units would change old ones"
        op.fix_operands(f"{kinds} {why}: take it off by parametrize.remove_parametrizations to grow this layer")
        return op.constants(op.value)


class WeightNorm(Law):
    """Weight norm alone: g v / |v|, the norm over all axes but one.

    Old weights stay where new entries of v along those axes are zero.
    """

    family = "normalisation"

    def relate(self, op: Op) -> Tree:
        module: Any = op.module
        direction, gain = op.parameter("original1"), op.parameter("original0")
        assert direction is not None and gain is not None
        axis = module[0].dim % direction.rank
        op.unifier.unify(gain.axes[axis], direction.axes[axis])
        for k in set(range(gain.rank)) - {axis}:
            op.unifier.fix(gain.axes[k], "a gain of each unit")
        op.role(gain, "gain")
        op.role(direction, "weight")
        op.data.update(axis=axis, direction=direction, gain=gain)
        return op.result(direction.axes)

    def _over(self, op: Op, know: Knowledge) -> Iterable[tuple[Leaf, int]]:
        """The growing leaves over which the norm is taken, each with its axis."""
        for k, layout in enumerate(op.data["direction"].axes):
            if k != op.data["axis"]:
                yield from ((leaf, k) for leaf in know.growing(layout))

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        for leaf, k in self._over(op, know):
            yield [(op.data["direction"], Want(leaf, Fact.ZERO, axis=k))]

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        places = Knowledge.places(output, want.leaf, want.axis)
        if len(places) != 1 or want.where is not None or want.fact is Fact.MEAN:
            return []
        if places == [op.data["axis"]]:
            return [[(op.data["gain"], Want(want.leaf, Fact.ZERO))]] if want.fact is Fact.ZERO else []
        return [[(op.data["direction"], Want(want.leaf, Fact.ZERO, axis=places[0]))]]

    def facts(self, op: Op, know: Knowledge) -> None:
        axis, output = op.data["axis"], op.made
        over = list(self._over(op, know))
        for leaf, k in over:
            if know.fact(op.data["direction"], leaf, k) is not Fact.ZERO:
                know.fail(op, leaf, "the norm of a weight is taken over it")
            elif leaf not in know.growing(output.axes[axis]):
                know.learn(output, leaf, Fact.ZERO)
        for leaf in know.growing(output.axes[axis]):
            if know.fact(op.data["direction"], leaf, axis) is Fact.ZERO:
                know.fail(op, leaf, "zeros have no direction, which a weight norm divides by")
            if leaf not in {shared for shared, _ in over} and know.fact(op.data["gain"], leaf) is Fact.ZERO:
                know.learn(output, leaf, Fact.ZERO)

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        yield from _read(op.data["direction"], op.data["axis"])


class SpectralNorm(Pointwise):
    """Spectral norm alone, of a matrix at least: the weight times a number, which is that of the old entries."""

    family = "normalisation"

    def terms(self, call: Call | Op) -> Terms | None:  # type: ignore[override]
        return Law.terms(self, call)

    def relate(self, op: Op) -> Tree:
        weight = op.parameter("original")
        assert weight is not None
        for vector in map(op.parameter, ("0._u", "0._v")):
            op.unifier.fix(vector.axes if vector is not None else (), "a vector of the power iteration")
        op.role(weight, "weight")
        op.data.update(kind=self.kind, operands=[weight])
        return op.result(weight.axes)

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        """What is known of a weight, on every axis that has the dimension."""
        (weight,) = op.data["operands"]
        known = [know.ranged(weight, leaf, axis) for axis in Knowledge.places(weight, leaf, None)]
        return known[0] if all(other == known[0] for other in known) else {}

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        module: Any = op.module
        if not know.growing(*op.made.axes):
            return []
        cores = getattr(module[0], "core", [None] * op.made.rank)
        return [Edit("cores", {"part": "0", "cores": list(zip(op.made.axes, cores, strict=True))})]

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        module: Any = op.module
        yield from _read(op.data["operands"][0], module[0].dim)


_WEIGHT_NORM = WeightNorm()
_SPECTRAL_NORM = SpectralNorm("linear")


def _read(weight: Tensor, made: int) -> Iterable[tuple[str, int]]:
    """The axes of a weight that read units: all but the one that makes them."""
    return ((str(weight.parameter), k) for k in range(weight.rank) if k != made)


def is_weight_norm(module: Any) -> bool:
    """Whether a parametrization is weight norm alone."""
    return len(module) == 1 and isinstance(module[0], parametrizations._WeightNorm) and module[0].dim >= 0
