"""Contractions: linear, convolution, matrix products, einsum: sums of products over shared axes.

y[o] = sum over i of x[i] w[o, i]. Old outputs stay if, at each new i, one factor is zero, or if the weights cancel
between new units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Leaf, leaves
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Fact, Law, Moves, Range, Terms, Want, terms
from fxgrow.rules.op import Op, Tensor, Tree, is_parametric
from fxgrow.rules.patterns import Binding, bind, spelled, tokens


class SumOfProducts(Law):
    """Base of the contractions: what follows from the patterns of operands and output, once they are bound."""

    family = "contraction"
    counts: Literal["output", "input"] = "output"  # which positions are counted once per multiply-add

    def _summed(
        self,
        op: Op,
        operands: list[Tensor],
        bias: Tensor | None,
        output: str,
        binding: Binding,
        free: Sequence[bool] = (),
    ) -> Tensor:
        for weight in operands[1:]:
            op.role(weight, "weight")
        op.role(bias, "bias")
        op.data.update(operands=operands, bias=bias, binding=binding)
        made = self._result(op, binding, output, free)
        for name, layout in self.contracted(op):
            if any(not t.learns and binding.places(k, name) for k, t in enumerate(operands)):
                op.unifier.fix(layout, f"{op.name} sums over it with a buffer, which does not learn")
        return made

    def _result(self, op: Op, binding: Binding, output: str, free: Sequence[bool]) -> Tensor:
        shape = op.value.shape
        binding.made = spelled(output, len(shape), binding.space)
        for axis, (name, *_) in enumerate(binding.made):
            if name[0] == "*":  # space that a kernel slid over
                k = int(name[2:])
                kept = any(free[k : k + 1])
                binding.names[name] = binding.names[f"*s{k}"] if kept else op.unifier.constant(shape[axis])
        return op.result([binding.layout(names) for names in binding.made])

    def contracted(self, op: Op) -> Iterable[tuple[str, Layout]]:
        """The names summed over, with their layouts."""
        binding: Binding = op.data["binding"]
        return [(name, binding.names[name]) for name in binding.summed()]

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        """Where neither factor is made of parameters, one of them has to be zero at new units."""
        operands: list[Tensor] = op.data["operands"]
        for _, layout in self.contracted(op):
            for leaf in know.growing(layout):
                if not any(is_parametric(operand) for operand in operands):
                    yield [(operand, Want(leaf, Fact.ZERO)) for operand in operands]
                elif leaf in know.silenced:
                    yield [(operand, Want(leaf, Fact.ZERO)) for operand in operands if not is_parametric(operand)]

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        operands: list[Tensor] = op.data["operands"]
        bias: Tensor | None = op.data["bias"]
        makers = [k for k, operand in enumerate(operands) if self._kept_axes(op, k, want.leaf)]
        if want.fact is Fact.IGNORED or (want.fact is Fact.MEAN and len(makers) > 1):
            return []
        alternatives = []
        for k in reversed(makers):
            axes = self._kept_axes(op, k, want.leaf)
            if len(axes) > 1:
                continue
            where = self._back(op, k, want.where)
            if want.where is not None and where is None:
                continue
            wishes = [(operands[k], Want(want.leaf, want.fact, where, axes[0]))]
            if bias is not None:
                if want.leaf in bias.leaves():
                    if where is not None and bias.rank > 1:
                        continue
                    bias_where = Range(0, where.low, where.high) if where is not None else None
                    wishes.append((bias, Want(want.leaf, want.fact, bias_where)))
                elif want.fact is Fact.ZERO:
                    continue
            alternatives.append(wishes)
        return alternatives

    def _kept_axes(self, op: Op, k: int, leaf: Leaf) -> list[int]:
        """The axes of operand k that carry the leaf into the output."""
        binding: Binding = op.data["binding"]
        gone, operand = binding.summed(), op.data["operands"][k]

        def carries(axis: int, name: str) -> bool:
            layout = operand.axes[axis] if name.startswith("...") else binding.names[name]
            return name not in gone and name[0] != "*" and leaf in leaves(layout)

        return [axis for axis, names in enumerate(binding.axes[k]) if any(carries(axis, name) for name in names)]

    def _output_axis(self, op: Op, k: int, axis: int) -> int | None:
        """Where axis `axis` of operand k goes in the output, if it goes there whole."""
        binding: Binding = op.data["binding"]
        for position, names in enumerate(binding.made):
            if set(names) & set(binding.axes[k][axis]):
                whole = op.data["operands"][k].axes[axis].size == binding.layout(names).size
                return position if whole else None
        return None

    def _back(self, op: Op, k: int, where: Range | None) -> Range | None:
        if where is None:
            return None
        for axis in range(op.data["operands"][k].rank):
            if self._output_axis(op, k, axis) == where.axis:
                return Range(axis, where.low, where.high)
        return None

    def facts(self, op: Op, know: Knowledge) -> None:
        operands: list[Tensor] = op.data["operands"]
        for name, layout in self.contracted(op):
            for leaf in know.growing(layout):
                know.read.add(leaf)
                self._check(op, know, name, leaf)
        output = op.made
        for leaf in know.growing(*output.axes):
            makers = [(k, axes) for k in range(len(operands)) if (axes := self._kept_axes(op, k, leaf))]
            for k, axes in makers:
                for axis in axes:
                    if (name_ := operands[k].parameter) is not None:
                        know.produced.add((name_, axis, leaf))
            know.learn_all(output, leaf, self._outcome(op, know, leaf, makers))

    def _check(self, op: Op, know: Knowledge, name: str, leaf: Leaf) -> None:
        operands: list[Tensor] = op.data["operands"]
        places = [op.data["binding"].places(k, name) for k in range(len(operands))]
        using = [(operand, axes) for operand, axes in zip(operands, places, strict=True) if axes]
        for operand, axes in using:
            if operand.parameter is not None:
                know.contracted.update((operand.parameter, axis, leaf) for axis in axes)
        silent = [know.fact(operand, leaf, axes[0]) is Fact.ZERO for operand, axes in using]
        if len(using) > 1 and all(silent) and not any(is_parametric(operand) for operand, _ in using):
            know.fail(op, leaf, f"{op.name} multiplies it by itself, so that new units would stay zero for good")
        if any(silent):
            return
        if len(using) < 2:
            know.fail(op, leaf, f"{op.name} sums over it")
            return
        sent = know.fact(using[0][0], leaf)
        want = Fact.IGNORED
        if sent is Fact.MEAN and know.ways[leaf] is Way.REPLICATE:
            want = Fact.ZERO
        for operand, axes in reversed(using):
            if know.fact(operand, leaf, axes[0]) is want:
                return
            if know.ask(operand, Want(leaf, want, axis=axes[0] if operand.parameter else None)):
                return
            if operand.parameter is not None:
                break
        know.fail(op, leaf, f"{op.name} sums over it, and neither side can be made to send nothing")

    def _outcome(
        self, op: Op, know: Knowledge, leaf: Leaf, makers: list[tuple[int, list[int]]]
    ) -> dict[Range | None, Fact]:
        operands: list[Tensor] = op.data["operands"]
        bias: Tensor | None = op.data["bias"]
        added = know.ranged(bias, leaf) if bias is not None and leaf in bias.leaves() else None
        if len(makers) == 1:
            k, axes = makers[0]
            made = know.ranged(operands[k], leaf, axes[0] if len(axes) == 1 else None)
            if len(axes) == 1 and (operands[k].parameter or Knowledge.places(operands[k], leaf, None) == axes):
                made = {where: self._sent(op, know, leaf, fact) for where, fact in made.items()}
            result: dict[Range | None, Fact] = {}
            for where, fact in made.items():
                if fact is Fact.ZERO and not self._bias_allows(bias, added, fact, where):
                    continue
                if fact is Fact.MEAN and added is not None and not self._bias_allows(bias, added, fact, where):
                    continue
                if fact is Fact.IGNORED:
                    continue
                if where is None:
                    result[None] = fact
                elif (target := self._output_axis(op, k, where.axis)) is not None:
                    result[Range(target, where.low, where.high)] = fact
            return result
        zero = any(know.fact(operands[k], leaf, axes[0]) is Fact.ZERO for k, axes in makers)
        return {None: Fact.ZERO} if zero and self._bias_allows(bias, added, Fact.ZERO, None) else {}

    @staticmethod
    def _sent(op: Op, know: Knowledge, leaf: Leaf, fact: Fact) -> Fact:
        """What units are that a weight makes which reads them elsewhere: as zeros it makes zeros."""
        if fact is Fact.IGNORED and know.ways[leaf] is Way.ZERO:
            return Fact.ZERO
        if fact is Fact.IGNORED:
            know.fail(op, leaf, "one weight makes and reads it")
        return fact

    @staticmethod
    def _bias_allows(
        bias: Tensor | None, added: dict[Range | None, Fact] | None, fact: Fact, where: Range | None
    ) -> bool:
        if bias is None:
            return True
        if added is None:
            return fact is Fact.MEAN
        shifted = Range(0, where.low, where.high) if where is not None and bias.rank == 1 else None
        return added.get(None) is fact or (shifted is not None and added.get(shifted) is fact)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not where another factor is zero at the same new units."""
        operands, binding = op.data["operands"], op.data["binding"]
        for k, own in enumerate(operands):
            for place, names in enumerate(binding.axes[k] if own is operand else ()):
                if axis not in (None, place) or leaf not in leaves(own.axes[place]):
                    continue
                for j, other in enumerate(operands):
                    facing = {a for name in names for a in binding.places(j, name) if other is not own}
                    if any(leaf in leaves(other.axes[a]) and moves.zero(other, leaf, a) for a in facing):
                        return False
        return True

    def ends(self, op: Op, operand: Tensor, axis: int | None) -> bool:
        binding: Binding = op.data["binding"]
        return any(
            axis in binding.places(k, name)
            for k, own in enumerate(op.data["operands"])
            for name in binding.summed()
            if own is operand
        )

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        binding: Binding = op.data["binding"]
        for name in binding.summed():
            for k, operand in enumerate(op.data["operands"]):
                if operand.parameter is not None:
                    yield from ((operand.parameter, axis) for axis in binding.places(k, name))

    def operations(self, op: Op, size: Any) -> int:
        inner = "*s" if self.counts == "output" else "*t"
        names: dict[str, Layout] = op.data["binding"].names
        return int(math.prod(size(layout) for name, layout in names.items() if not name.startswith(inner)))


@dataclass(frozen=True)
class Contraction(SumOfProducts):
    """A sum of products, written as patterns over named axes.

    Parameters
    ----------
    inputs: a pattern per operand, data first: ("... (g i) *s", "(g o) i *k").
    output: the pattern of the result; a starred name not in the inputs is a fixed axis of the op's own.
    bias: the pattern of the bias, or None.
    operands: finds a tensor for each pattern, then (or None) for the bias; where it is left out, they are the input,
        the weight and the bias, in this order and by these names.
    sizes: names whose size an argument or attribute gives: {"g": "groups"}.
    attributes: module attributes that are sizes: {"in_features": "i"}.
    """

    inputs: tuple[str, ...]
    output: str
    bias: str | None = None
    operands: Callable[[Op], list[Tensor | None]] | None = None
    sizes: dict[str, tuple[int, str]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)

    def _given(self, op: Any) -> tuple[list[Any], Any]:
        """The factors, and the bias or None."""
        tensors = self.operands(op) if self.operands is not None else [op.tensor(), op.weight(1, "weight")]
        if self.operands is None and self.bias is not None:
            tensors.append(op.weight(2, "bias"))
        return tensors[: len(self.inputs)], tensors[len(self.inputs)] if len(tensors) > len(self.inputs) else None

    def terms(self, call: Call | Op) -> Terms | None:
        factors, bias = self._given(call)
        return terms(factors[::-1], [bias])

    def relate(self, op: Op) -> Tree:
        tensors, bias = self._given(op)
        operands = [t for t in tensors if t is not None]
        known = {name: op.setting(*place, 1) for name, place in self.sizes.items()}
        free = self.free_space(op)
        binding = bind(op, operands, self.inputs, known, free)
        for name, (index, argument) in self.sizes.items():
            if op.module is None and op.raw(index, argument) is not None:
                op.size(op.path(index, argument), binding.names[name])
        for attribute, pattern in self.attributes.items():
            op.attribute(attribute, binding.layout(tokens(pattern)[0]))
        if bias is not None and self.bias is not None:
            for axis, token in zip(bias.axes, tokens(self.bias), strict=True):
                op.unifier.unify(axis, binding.layout(token))
        return self._summed(op, operands, bias, self.output, binding, free)

    def making(self, rank: int) -> tuple[int, int] | None:
        """The axis of a weight of that rank that makes units, and the output's on which they are; None: it has several.

        >>> Contraction(("... (g i) *s", "(g i) o *k"), "... (g o) *t").making(4)
        (1, -3)
        """
        if len(self.inputs) != 2:
            return None
        weight, output = ([names for names in tokens(p) if names[0][0] != "*"] for p in (self.inputs[1], self.output))
        makes = next(axis for axis, names in enumerate(weight) if output[-1][-1] in names)
        return makes, len(weight) - rank - 1

    def free_space(self, op: Op) -> Sequence[bool]:
        """Which axes of space come out as they go in, unit for unit."""
        return ()


class MatrixProduct(SumOfProducts):
    """`a @ b` with broadcast leading axes; one-dimensional operands are read as torch does.

    argument: the place, name and default of an argument that says how the axes meet, if there is one.
    """

    called = "matrix product"
    argument: tuple[int, str, Any] | None = None

    def patterns(self, ranks: Sequence[int], argument: Any) -> tuple[tuple[str, ...], str]:
        """The patterns of the operands and of the output; `given`: what that argument is."""
        left, right = (min(rank, 2) for rank in ranks)
        return _MATRIX_PRODUCTS[left, right]

    def factors(self, op: Any) -> list[Any]:
        """The operands that are multiplied."""
        return [op.tensor(), op.tensor(1, "mat2" if op.name in ("bmm", "mm") else "other")]

    def terms(self, call: Call | Op) -> Terms | None:
        return terms(self.factors(call)[::-1])

    def relate(self, op: Op) -> Tree:
        argument = op.argument(*self.argument) if self.argument is not None else None
        factors = self.factors(op)
        inputs, output = self.patterns([tensor.rank for tensor in factors], argument)
        operands, bias = factors[: len(inputs)], factors[len(inputs)] if len(factors) > len(inputs) else None
        return self._summed(op, operands, bias, output, bind(op, operands, inputs, {}))


_MATRIX_PRODUCTS = {
    (2, 2): (("... n k", "... k m"), "... n m"),
    (1, 2): (("k", "... k m"), "... m"),
    (2, 1): (("... n k", "k"), "... n"),
    (1, 1): (("k", "k"), ""),
}


class Einsum(MatrixProduct):
    """`torch.einsum`, whose equation is the pattern."""

    called = "einsum"
    argument = (0, "equation", None)

    def patterns(self, ranks: Sequence[int], argument: Any) -> tuple[tuple[str, ...], str]:
        left, arrow, right = argument.replace(" ", "").partition("->")
        if not arrow:
            names = re.findall(r"\w", left)
            right = "".join(sorted(n for n in set(names) if names.count(n) == 1))
            right = "..." + right if "..." in left else right
        return tuple(_spelled(part) for part in left.split(",")), _spelled(right)

    def factors(self, op: Any) -> list[Any]:
        return list(op.operands())


def _spelled(part: str) -> str:
    """One operand of an einsum equation as a pattern: "bqhd" as "b q h d"."""
    return " ".join(re.findall(r"\.\.\.|\w", part))
