"""Weights that are computed from weights: weight norm, spectral norm, and standardisation.

Weight norm is a direction divided by its norm, times a gain for each unit. Spectral norm is a weight divided by one
number. Standardisation brings each filter to mean 0 and variance 1, and is written as a batch norm of the weight. The
statistics of the last two stay those of the old entries (a guard); zeros stay zero and opposite pairs stay opposite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.nn.utils import parametrizations

from fxgrow.axes.layout import Leaf, Reason, leaves, resolve
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Clause, Edit, Fact, Holding, Law, Moves, Range, Terms, Want, all_of, moved_core
from fxgrow.rules.normalisation import Affine, BatchNorm, affine
from fxgrow.rules.op import Op, Tensor, Tree, is_parametric
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
        reason = f"{kinds} {why}: take it off by parametrize.remove_parametrizations to grow this layer"
        op.fix_operands(reason)
        return op.constants(op.value, Reason(reason, op.place))


class WeightNorm(Law):
    """Weight norm alone: g v / |v|, the norm over all axes but one; `torch._weight_norm`, or what parametrizes by it.

    Old weights stay where new entries of v along those axes are zero.
    """

    family = "normalisation"

    @staticmethod
    def operands(op: Any) -> tuple[Any, Any, Any]:
        """v, g and the axis that is left, of an op however it is seen."""
        if op.module is None:
            return op.tensor(0, "v"), op.tensor(1, "g"), op.setting(2, "dim", 0)
        return op.parameter("original1"), op.parameter("original0"), op.module[0].dim

    def terms(self, call: Call | Op) -> Terms | None:
        direction, gain, axis = self.operands(call)
        return Terms((), [gain], over=(direction, axis)) if axis >= 0 else None

    def relate(self, op: Op) -> Tree:
        direction, gain, axis = self.operands(op)
        if axis < 0 or not is_parametric(direction):
            op.law = _ONE_NORM
            return op.law.relate(op)
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
    why_loud = "divides a weight by its own norm, which cannot be zero"

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

    def facts(self, op: Op, know: Knowledge) -> None:
        (weight,) = op.data["operands"]
        for axis, layout in enumerate(weight.axes):
            for leaf in know.growing(layout):
                if know.ways[leaf] is Way.REPLICATE and Fact.IGNORED in know.ranged(weight, leaf, axis).values():
                    know.fail(op, leaf, "a spectral norm is taken of it, and copies would share old entries out")
        super().facts(op, know)

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
_ONE_NORM = Holding("divides by one norm of all that it is given")
_SPECTRAL_NORM = SpectralNorm("linear")


def _read(weight: Tensor, made: int) -> Iterable[tuple[str, int]]:
    """The axes of a weight that read units: all but the one that makes them."""
    return ((str(weight.parameter), k) for k in range(weight.rank) if k != made)


def is_weight_norm(module: Any) -> bool:
    """Whether a parametrization is weight norm alone."""
    return len(module) == 1 and isinstance(module[0], parametrizations._WeightNorm) and module[0].dim >= 0


class Standardised(Affine):
    """A weight `[1, filters, entries]`, standardised over its entries: F.batch_norm of it, or `guards.standardize`."""

    def gain_place(self, call: Call | Op) -> int:
        return 1 if _is_guarded(call) else 3

    def quiet(self, op: Op, leaf: Leaf, moves: Moves) -> bool:
        return False

    def relate(self, op: Op) -> Tree:
        x, first = _weight(op), self.gain_place(op)
        op.unifier.fix(x.axes[0], "statistics are taken over it")
        affine(op, op.weight(first, "weight"), op.weight(first + 1, "bias"), x.axes[1])
        return op.result(x.axes)

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        x = _weight(op)
        if leaf not in leaves(x.axes[2]):
            return super().clauses(op, output, leaf)
        kept = (Fact.ZERO, Fact.IGNORED) if op.data["bias"] is None else ()
        return [(fact, all_of(fact, x, lands={2: 2})) for fact in kept]

    def facts(self, op: Op, know: Knowledge) -> None:
        for leaf in know.growing(_weight(op).axes[2]):
            if not _is_guarded(op) and leaf not in know.guarded:
                know.fail(op, leaf, f"{op.name} takes its statistic over it", guardable=True)
            if know.ways[leaf] is Way.REPLICATE:
                know.fail(op, leaf, f"{op.name} takes its statistic over it, and copies would share old entries out")
        super().facts(op, know)

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        layout = resolve(_weight(op).axes[2])
        if _is_guarded(op):
            return moved_core(op, know, layout, 4)
        if not know.growing(layout):
            return []
        arguments = {"weight": op.raw(3, "weight"), "bias": op.raw(4, "bias"), "eps": op.argument(7, "eps", 1e-5)}
        return [Edit("guard", {"function": "standardize", "arguments": arguments, "core": layout})]


class BatchNormFunction(BatchNorm):
    """F.batch_norm: of activations, or, with batch statistics and made of parameters alone, of a weight."""

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        of_weight = x.rank == 3 and x.shape[0] == 1 and op.argument(1, "running_mean") is None and is_parametric(x)
        op.law = _STANDARDISED if of_weight else _BATCH_NORM
        return op.law.relate(op)


_STANDARDISED = Standardised()
_BATCH_NORM = BatchNorm()


def _is_guarded(op: Call | Op) -> bool:
    return op.name == "standardize"


def _weight(op: Op) -> Tensor:
    return op.tensor(0, "x" if _is_guarded(op) else "input")
