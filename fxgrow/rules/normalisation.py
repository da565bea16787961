"""Normalisations: per channel (BatchNorm), over units (LayerNorm, RMSNorm), over groups (GroupNorm).

If D units grow to D', and new units are the mean of the old ones (LayerNorm) or zero (RMSNorm), the statistic is
smaller by D/D'; gain x sqrt(D/D') and eps x D/D' undo that exactly. Elsewhere a guard takes the statistic over the
old units alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxgrow.axes.layout import Layout, Leaf, leaves, resolve
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Clause, Edit, Fact, Law, Moves, Terms, Want, all_of, moved_core, terms
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import law_of_module


def affine(op: Op, gain: Tensor | None, bias: Tensor | None, layout: Layout) -> None:
    """Tie a gain and a bias `[units]` to the axis they act on."""
    for tensor, role in ((gain, "gain"), (bias, "bias")):
        if tensor is not None:
            op.unifier.unify(tensor.axes[-1], layout)
            op.role(tensor, role)
    op.data.update(gain=gain, bias=bias)


def gain_and_bias(op: Op) -> dict[str, Any]:
    """What a guard is given for the gain and the bias of a norm: a parameter's name, or the node that has it."""
    if op.module is None:
        return {"weight": op.raw(2, "weight"), "bias": op.raw(3, "bias")}
    return {n: f"{op.node.target}.{n}" if op.parameter(n) is not None else None for n in ("weight", "bias")}


def fix_where_eps_changes(op: Op, layout: Layout) -> None:
    """Hold units whose norm has another eps, by the forward, than it has in the model."""
    if op.written("eps") not in (None, getattr(op.module, "eps", None)):
        op.unifier.fix((layout,), "the forward changes its eps")


class Affine(Law):
    """Base of the norms: something normalised, times a gain, plus a bias."""

    family = "normalisation"

    def gain_place(self, call: Call | Op) -> int:
        """Where a function takes the gain; the bias comes next."""
        return 2

    def axis_of_units(self, op: Op) -> int:
        """The axis that gain and bias are of."""
        return 1

    def terms(self, call: Call | Op) -> Terms | None:
        place = self.gain_place(call)
        return terms([call.weight(place, "weight")], [call.weight(place + 1, "bias")])

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        """Zero where gain and bias are."""
        if op.data["gain"] is None:
            return []
        lands = {0: self.axis_of_units(op)}
        return [(Fact.ZERO, all_of(Fact.ZERO, op.data["gain"], op.data["bias"], lands=lands))]

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to the input where the gain is zero, nor to the gain where what is normalised is."""
        gain, bias = op.data["gain"], op.data["bias"]
        if operand is gain:
            return not self.quiet(op, leaf, moves)
        return operand is bias or gain is None or leaf not in gain.leaves() or not moves.zero(gain, leaf)

    def quiet(self, op: Op, leaf: Leaf, moves: Moves) -> bool:
        """Whether what is normalised is zero at new units."""
        return moves.zero(op.tensor(), leaf)


@dataclass(frozen=True)
class BatchNorm(Affine):
    """Normalisation of each channel (axis 1) over batch and space: new channels never touch old ones."""

    activation: str | None = None  # attribute that holds an activation applied afterwards

    def gain_place(self, call: Call | Op) -> int:
        return 3

    def terms(self, call: Call | Op) -> Terms | None:
        terms = super().terms(call)
        return terms and replace(terms, after=getattr(call.module, self.activation) if self.activation else None)

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, gain, bias = (op.weight(k + 1, name) for k, name in enumerate(names))
        op.attribute("num_features", x.axes[1])
        op.unifier.fix((*x.axes[:1], *x.axes[2:]), "statistics are taken over it")
        for tensor, role in ((mean, "mean"), (variance, "variance")):
            if tensor is not None:
                op.unifier.unify(tensor.axes[0], x.axes[1])
                op.role(tensor, role)
        affine(op, gain, bias, x.axes[1])
        op.data["mean"] = mean
        return op.result(x.axes)

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        if not self._activation_keeps_zero(op) or leaf not in leaves(output.axes[1]):
            return []
        through = all_of(Fact.ZERO, op.tensor(), op.data["mean"], op.data["bias"])
        return [*super().clauses(op, output, leaf), (Fact.ZERO, through)]

    def _activation_keeps_zero(self, op: Op) -> bool:
        if self.activation is None or op.module is None:
            return True
        law = law_of_module(getattr(op.module, self.activation))
        return isinstance(law, Pointwise) and law.kind in ("zero", "linear")


@dataclass(frozen=True)
class OverUnits(Affine):
    """LayerNorm and RMSNorm over the last axes, natively where new units fit, else guarded.

    `fits` is what new units must be for the closed form: the mean of the old (LayerNorm), zero (RMSNorm).
    """

    fits: Fact
    guard: str
    default_eps: float | None = None

    def axis_of_units(self, op: Op) -> int:
        return op.tensor().rank - 1

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        shape = tuple(op.setting(1, "normalized_shape"))
        gain, bias = op.weight(2, "weight"), op.weight(3, "bias") if self.fits is Fact.MEAN else None
        if len(shape) == 1 and op.module is not None:
            op.attribute("normalized_shape", x.axes[-1])
        elif len(shape) == 1:
            op.size((*op.path(1, "normalized_shape"), 0), x.axes[-1])
        if len(shape) != 1:
            text = f"{op.name} is taken over {len(shape)} axes at once"
            for tensor in (x, gain, bias):
                for axis in tensor.axes[-len(shape) :] if tensor is not None else ():
                    op.unifier.fix(axis, text)
            op.data.update(gain=gain, bias=bias)
            return op.result(x.axes)
        affine(op, gain, bias, x.axes[-1])
        fix_where_eps_changes(op, x.axes[-1])
        return op.result(x.axes)

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        for leaf in know.growing(op.tensor().axes[-1]):
            if leaf not in know.guarded and self._closed_form(op, know, leaf):
                yield [(op.tensor(), Want(leaf, self.fits))]

    def _closed_form(self, op: Op, know: Knowledge, leaf: Leaf) -> bool:
        """Whether gain and eps can make up for the new units: one dimension, a gain of its own, an eps that stays."""
        gain = op.data["gain"]
        return (
            resolve(op.tensor().axes[-1]) is leaf
            and gain is not None
            and gain.parameter is not None
            and know.ways[leaf] is not Way.REPLICATE
            and self._eps(op) is not None
            and op.written("eps") is None
            and (op.module is not None or not isinstance(op.raw(*self.eps_place), fx.Node))
        )

    @staticmethod
    def _copies_evenly(op: Op, know: Knowledge, leaf: Leaf) -> bool:
        whole = resolve(op.tensor().axes[-1])
        return know.ways[leaf] is Way.REPLICATE and whole is leaf and know.growth[leaf] % leaf.size == 0

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        silent = super().demand(op, output, want)
        if not silent or want.where is not None:
            return silent
        # units that fit the statistic are normalised to zero: with a gain of zero too, neither would ever learn
        bias = [(tensor, wish) for tensor, wish in silent[0] if tensor is op.data["bias"]]
        return [[(op.tensor(), replace(want, fact=self.fits)), *bias], *silent]

    def facts(self, op: Op, know: Knowledge) -> None:
        output, x = op.made, op.tensor()
        for leaf in know.growing(*output.axes):
            over = leaf in leaves(x.axes[-1])
            native = over and leaf not in know.guarded
            known = know.fact(x, leaf)
            if native and not self._copies_evenly(op, know, leaf):
                if not (self._closed_form(op, know, leaf) and known is self.fits):
                    know.fail(op, leaf, f"{op.name} takes its statistic over it", guardable=True)
                    continue
                know.scale(op, op.data["gain"].parameter, math.sqrt(leaf.size / know.growth[leaf]))
            silent = None in self.known(op, know, output, leaf)
            bias = op.data["bias"]
            if not over:
                silent = known is Fact.ZERO and bias is None
            elif (native and known is self.fits) or (known is Fact.ZERO and self.fits is Fact.ZERO):
                silent = silent or bias is None or (leaf in bias.leaves() and know.fact(bias, leaf) is Fact.ZERO)
            if silent:
                know.learn(output, leaf, Fact.ZERO)
            elif over:
                know.learn_all(output, leaf, self.known(op, know, output, leaf))

    def statistics(self, op: Op) -> Iterable[Layout]:
        yield op.tensor().axes[-1]

    def quiet(self, op: Op, leaf: Leaf, moves: Moves) -> bool:
        x = op.tensor()
        if self.fits is Fact.MEAN and leaf in leaves(x.axes[-1]) and leaf not in moves.know.guarded:
            return moves.know.fact(x, leaf) is Fact.MEAN and not moves.has_moved(x, leaf)
        return moves.zero(x, leaf) and self.fits is Fact.ZERO

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        layout = resolve(op.tensor().axes[-1])
        growing = know.growing(layout)
        if not growing:
            return []
        if any(leaf in know.guarded for leaf in growing):
            return [Edit("guard", {"function": self.guard, "arguments": self._arguments(op), "core": layout})]
        if self._copies_evenly(op, know, growing[0]):
            return []
        ratio = layout.size / know.growth[growing[0]]
        eps = (self._eps(op) or 0.0) * ratio
        if op.module is not None:
            return [Edit("attribute", {"eps": eps})]
        return [Edit("argument", {"path": op.path(*self.eps_place), "value": eps})]

    @property
    def eps_place(self) -> tuple[int, str]:
        return (4 if self.fits is Fact.MEAN else 3), "eps"

    def _eps(self, op: Op) -> float | None:
        """The number added to the statistic; None: it depends on the precision of the input."""
        eps: Any = op.setting(*self.eps_place)
        return float(eps) if eps is not None else self.default_eps

    def _arguments(self, op: Op) -> dict[str, Any]:
        """Arguments of the guard; a string names a parameter."""
        arguments = gain_and_bias(op)
        kept = arguments if self.fits is Fact.MEAN else {"weight": arguments["weight"]}
        return {"eps": self._eps(op), **kept}


class GroupNorm(Affine):
    """Normalisation over groups of channels: `groups x width`; growing the number of groups is exact."""

    how_taken = "takes its statistic over it"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        count, gain, bias = int(op.setting(1, "num_groups")), op.weight(2, "weight"), op.weight(3, "bias")
        op.attribute("num_channels", x.axes[1])
        op.unifier.fix(x.axes[2:], "statistics are taken over it")
        groups, width = _grouped(op, x.axis(1), count)
        op.unifier.reluctant.append(width)
        op.sized(1, "num_groups", groups)
        affine(op, gain, bias, x.axes[1])
        fix_where_eps_changes(op, x.axes[1])
        op.data.update(groups=groups, width=width)
        return op.result(x.axes)

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        clauses = super().clauses(op, output, leaf)
        if leaf in leaves(op.data["groups"]):  # a group of zeros stays zero
            clauses.append((Fact.ZERO, all_of(Fact.ZERO, op.tensor(), op.data["bias"])))
        return clauses

    def statistics(self, op: Op) -> Iterable[Layout]:
        yield op.data["width"]

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        if not know.growing(op.data["width"]):
            return []
        count = op.setting(1, "num_groups") if op.module is not None else op.raw(1, "num_groups")
        arguments = {"num_groups": count, "eps": op.setting(4, "eps", 1e-5), **gain_and_bias(op)}
        return [Edit("guard", {"function": "group_norm", "arguments": arguments, "core": op.data["width"]})]


def _grouped(op: Op, channels: Layout, count: int) -> tuple[Layout, Layout]:
    """Channels as so many groups of so many; of one group, its width is all there is."""
    if count == 1:
        return op.unifier.constant(1), channels
    groups, width = op.unifier.factor(channels, [count, channels.size // count])
    return groups, width


@dataclass(frozen=True)
class GuardedReduction(Affine):
    """A reduction that is already guarded: its statistic is of the core units, so the others may grow."""

    axis: int = -1
    core: tuple[int, str] = (5, "core")
    grouped: bool = False

    def axis_of_units(self, op: Op) -> int:
        return self.axis % op.tensor(0, "x").rank

    def relate(self, op: Op) -> Tree:
        x = op.tensor(0, "x")
        layout = x.axis(self.axis)
        if self.grouped:
            op.unifier.fix(x.axes[2:], "statistics are taken over it")
            groups, layout = _grouped(op, layout, op.argument(1, "num_groups"))
            op.size(op.path(1, "num_groups"), groups)
        else:
            op.size((*op.path(1, "normalized_shape"), 0), layout)
        affine(op, op.weight(2, "weight"), op.weight(3, "bias"), x.axes[self.axis])
        op.data["core"] = layout
        return op.result(x.axes)

    def quiet(self, op: Op, leaf: Leaf, moves: Moves) -> bool:
        return False

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return moved_core(op, know, op.data["core"], self.core[0])
