"""Weight standardisation: each filter to mean 0 and variance 1, written as a batch norm of the weight.

When its inputs grow, the statistics stay those of the old inputs (a guard). The entries of new inputs are divided by
the same deviation, so zeros stay zero and opposite pairs stay opposite.
"""

from __future__ import annotations

from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Edit, Fact, Moves, Want, moved_core
from fxgrow.rules.normalisation import Affine, BatchNorm, affine
from fxgrow.rules.op import Op, Tensor, Tree, is_parametric


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

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        x = _weight(op)
        if want.leaf in leaves(x.axes[2]):
            whole = want.where is None or want.where.axis == 2
            return [[(x, want)]] if want.fact in (Fact.ZERO, Fact.IGNORED) and whole else []
        return super().demand(op, output, want)

    def facts(self, op: Op, know: Knowledge) -> None:
        x, output = _weight(op), op.made
        for leaf in know.growing(x.axes[2]):
            if not _is_guarded(op) and leaf not in know.guarded:
                know.fail(op, leaf, f"{op.name} takes its statistic over it", guardable=True)
            if know.ways[leaf] is Way.REPLICATE:
                know.fail(op, leaf, f"{op.name} takes its statistic over it, and copies would share old entries out")
            if op.data["bias"] is None:
                known = know.ranged(x, leaf)
                know.learn_all(output, leaf, {r: f for r, f in known.items() if f in (Fact.ZERO, Fact.IGNORED)})
        for leaf in know.growing(output.axes[1]):
            if leaf not in leaves(x.axes[2]):
                know.learn_all(output, leaf, self.known(op, know, output, leaf))

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
