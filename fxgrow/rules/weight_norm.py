"""Weights that a parametrization computes: weight norm, direction over its norm times a gain for each unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn.utils import parametrizations

from fxgrow.axes.layout import Leaf
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Want
from fxgrow.rules.op import Op, Tensor, Tree


class Parametrized(Law):
    """A `ParametrizationList` that holds weight norm: g v / |v|, the norm over all axes but one.

    Old weights stay where new entries of v along those axes are zero. Any other parametrization is held.
    """

    family = "normalisation"

    def relate(self, op: Op) -> Tree:
        if not is_weight_norm(op.module):
            kinds = " and ".join(type(part).__name__ for part in op.module)
            why = "computes every entry from the whole weight, so that new units would change old ones"
            op.fix_operands(f"{kinds} {why}: take it off by parametrize.remove_parametrizations to grow this layer")
            op.data.update(axis=None)
            return op.constants(op.value)
        direction, gain = op.parameter("original1"), op.parameter("original0")
        assert direction is not None and gain is not None
        axis = op.module[0].dim % direction.rank
        op.unifier.unify(gain.axes[axis], direction.axes[axis])
        for k in set(range(gain.rank)) - {axis}:
            op.unifier.fix(gain.axes[k], "a gain of each unit")
        op.role(gain, "gain")
        op.role(direction, "weight")
        op.data.update(axis=axis, direction=direction, gain=gain)
        return op.result(direction.axes)

    def _over(self, op: Op, know: Knowledge) -> Iterable[tuple[Leaf, int]]:
        """The growing leaves over which the norm is taken, each with its axis."""
        for k, layout in enumerate(op.data["direction"].axes if op.data["axis"] is not None else ()):
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
        axis = op.data["axis"]
        if axis is None:
            return
        output = op.made
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

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        if op.data["axis"] is not None:
            direction: Tensor = op.data["direction"]
            yield from ((str(direction.parameter), k) for k in range(direction.rank) if k != op.data["axis"])


def is_weight_norm(module: Any) -> bool:
    """Whether a parametrization is weight norm alone."""
    return len(module) == 1 and isinstance(module[0], parametrizations._WeightNorm) and module[0].dim >= 0
