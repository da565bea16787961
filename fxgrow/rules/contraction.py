"""Contractions: linear, convolution, matrix products, einsum: sums of products over shared axes.

y[o] = sum over i of x[i] w[o, i]. Old outputs stay if, at each new i, one factor is zero, or if the weights cancel
between new units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Leaf, leaves, same
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Clause, Fact, Law, Lookup, Moves, Range, Source, Terms, Want, terms
from fxgrow.rules.op import Op, Tensor, Tree, is_parametric
from fxgrow.rules.patterns import Binding, bind, tokens

Patterns = tuple[Sequence[str], str, str | None]


class SumOfProducts(Law):
    """Base of the contractions: what follows from the patterns of operands and output, once they are bound."""

    family = "contraction"
    counts: Literal["output", "input"] = "output"  # which positions are counted once per multiply-add
    attributes: Mapping[str, str] = MappingProxyType({})
    given: Sequence[str] = ()
    called = "sum of products"

    def operands(self, op: Any) -> tuple[list[Any], Any]:
        """The factors, and what is added or None, of an op however it is seen."""
        raise NotImplementedError

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        """The patterns of factors of these ranks, of the output, and of what is added, whose last axes face those."""
        raise NotImplementedError

    def terms(self, call: Call | Op) -> Terms | None:
        factors, bias = self.operands(call)
        return terms(factors[::-1], [bias])

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
        made = binding.output(op, operands, output, op.value.shape, free)
        for name, layout in self.contracted(op):
            if any(not t.learns and binding.places(k, name) for k, t in enumerate(operands)):
                op.unifier.fix(layout, f"{op.name} sums over it with a buffer, which does not learn")
        return made

    def contracted(self, op: Op) -> Iterable[tuple[str, Layout]]:
        """The names summed over, with their layouts."""
        binding: Binding = op.data["binding"]
        return [(name, binding.names[name]) for name in binding.summed]

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        """Where neither factor is made of parameters, one of them has to be zero at new units: data first.

        Where these would never learn so, the other factor first.
        """
        operands: list[Tensor] = op.data["operands"]
        for _, layout in self.contracted(op):
            for leaf in know.growing(layout):
                if not any(is_parametric(operand) for operand in operands):
                    know.multiplied.add(leaf)
                    order = operands[::-1] if leaf in know.turned else operands
                    yield [(operand, Want(leaf, Fact.ZERO)) for operand in order]
                elif leaf in know.silenced:
                    yield [(operand, Want(leaf, Fact.ZERO)) for operand in operands if not is_parametric(operand)]

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> Iterable[Clause]:
        """Zero where one factor and the bias are; the mean where the one that makes the units and the bias are."""
        bias: Tensor | None = op.data["bias"]
        makers, binding = self._makers(op, leaf), op.data["binding"]
        names = {
            k: {name for axis in axes for name in binding.axes[k][axis]} - {*binding.summed}
            for k, axes in makers.items()
        }
        every = set().union(*names.values())
        if makers and every not in names.values():
            # each makes an axis of its own, as in k @ v of linear attention: zero along all of them
            sources = [Source(op.data["operands"][k], Fact.ZERO) for k in makers]
            yield Fact.ZERO, [*sources, *([_added(bias, output, Fact.ZERO)] if bias is not None else [])]
            return
        for k, axes in reversed(makers.items()):
            operand, lands = op.data["operands"][k], binding.lands[k]
            for fact in (Fact.ZERO, Fact.MEAN) if len(makers) == 1 else (Fact.ZERO,):
                added = [_added(bias, output, fact)] if bias is not None else []
                yield fact, [Source(operand, fact, axes[0] if len(axes) == 1 else None, lands), *added]

    def _makers(self, op: Op, leaf: Leaf) -> dict[int, list[int]]:
        """The operands that carry a dimension into the output, each with the axes that do."""
        binding: Binding = op.data["binding"]
        makers: dict[int, list[int]] = {}
        for k, operand in enumerate(op.data["operands"]):
            for axis, names in enumerate(binding.axes[k]):
                kept = [name for name in names if name not in binding.summed and name[0] != "*"]
                layouts = (operand.axes[axis] if name[0] == "." else binding.names[name] for name in kept)
                if any(leaf in leaves(layout) for layout in layouts):
                    makers.setdefault(k, []).append(axis)
        return makers

    def facts(self, op: Op, know: Knowledge) -> None:
        operands: list[Tensor] = op.data["operands"]
        for name, layout in self.contracted(op):
            for leaf in know.growing(layout):
                know.read.add(leaf)
                self._check(op, know, name, leaf)
        output = op.made
        for leaf in know.growing(*output.axes):
            for k, axes in self._makers(op, leaf).items():
                if (parameter := operands[k].parameter) is not None:
                    know.produced.update((parameter, axis, leaf) for axis in axes)
            know.learn_all(output, leaf, self.known(op, know, output, leaf))

    def _check(self, op: Op, know: Knowledge, name: str, leaf: Leaf) -> None:
        operands: list[Tensor] = op.data["operands"]
        places = [op.data["binding"].places(k, name) for k in range(len(operands))]
        using = [(operand, axes) for operand, axes in zip(operands, places, strict=True) if axes]
        for operand, axes in using:
            if operand.parameter is not None:
                know.contracted.update((operand.parameter, axis, leaf) for axis in axes)
        silent = [know.fact(operand, leaf, axes[0]) is Fact.ZERO for operand, axes in using]
        if len(using) > 1 and all(silent) and not any(is_parametric(operand) for operand, _ in using):
            text = f"{op.name} multiplies it by itself, so that new units would stay zero for good"
            know.fail(op, leaf, text, guardable=True)  # zeros that a norm asks for
        if any(silent):
            return
        if len(using) < 2:
            know.fail(op, leaf, f"{op.name} sums over it")
            return
        if len(operands) > 2 and know.ways[leaf] is not Way.ZERO:
            know.fail(op, leaf, f"{op.name} multiplies more than two tensors")
            return
        sent = know.fact(using[0][0], leaf)
        want = Fact.IGNORED
        if sent is Fact.MEAN and know.ways[leaf] is Way.REPLICATE:
            want = Fact.ZERO
        for operand, axes in reversed(using):
            if know.fact(operand, leaf, axes[0]) is want:
                return
            wants = [Want(leaf, want, axis=axes[0] if operand.parameter else None)]
            if operand.parameter is None and is_parametric(operand):  # as zeros, what it is computed from makes zeros
                wants.append(Want(leaf, Fact.ZERO))
            if any(know.ask(operand, wish) for wish in wants):
                for other, places in using:  # a parameter that it faces makes the units: as pairs, or as copies
                    if other is not operand and other.parameter is not None:
                        know.produced.update((other.parameter, axis, leaf) for axis in places)
                return
            if operand.parameter is not None:
                break
        know.fail(op, leaf, f"{op.name} sums over it, and neither side can be made to send nothing")

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        """What units are that a weight makes which reads them elsewhere: as zeros it makes zeros."""
        known, makers = super().known(op, know, output, leaf), self._makers(op, leaf)
        for k, axes in makers.items() if len(makers) == 1 else ():
            maker, bias = op.data["operands"][k], op.data["bias"]
            alone = len(axes) == 1 and (maker.parameter or Knowledge.places(maker, leaf, None) == axes)
            if (alone or know.is_silent(maker, leaf)) and know.fact(maker, leaf, axes[0]) is Fact.IGNORED:
                if know.ways[leaf] is not Way.ZERO:
                    know.fail(op, leaf, "one weight makes and reads it")
                elif bias is None or (leaf in bias.leaves() and know.fact(bias, leaf) is Fact.ZERO):
                    known.setdefault(None, Fact.ZERO)
        return known

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

    def _read(self, op: Op) -> list[tuple[Tensor, int]]:
        """The operands with the axes that are summed over."""
        places, operands = op.data["binding"].places, [*enumerate(op.data["operands"])]
        return [(t, axis) for name in op.data["binding"].summed for k, t in operands for axis in places(k, name)]

    def ends(self, op: Op, operand: Tensor, axis: int | None) -> bool:
        return (operand, axis) in self._read(op)

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        return [(t.parameter, axis) for t, axis in self._read(op) if t.parameter is not None]

    def operations(self, op: Op, size: Any) -> int:
        inner = "*s" if self.counts == "output" else "*t"
        names: dict[str, Layout] = op.data["binding"].names
        return int(math.prod(size(layout) for name, layout in names.items() if not name.startswith(inner)))


def _added(bias: Tensor, output: Tensor, fact: Fact) -> Source:
    places = [k for k in range(output.rank) if bias.rank == 1 and same(output.axis(k), bias.axis(0))]
    return Source(bias, fact, lands={0: places[0]} if places else {})


@dataclass(frozen=True)
class Contraction(SumOfProducts):
    """A sum of products, written as patterns over named axes.

    Parameters
    ----------
    inputs: a pattern per operand, data first: ("... (g i) *s", "(g o) i *k").
    output: the pattern of the result; a starred name not in the inputs is a fixed axis of the op's own.
    bias: the pattern of the bias, or None.
    given: what the data are called among the arguments; a weight comes next, where there is one, and then the bias.
    sizes: names whose size an argument or attribute gives: {"g": "groups"}.
    attributes: module attributes that are sizes: {"in_features": "i"}.
    called: what proofs call it.
    """

    inputs: tuple[str, ...]
    output: str
    bias: str | None = None
    given: tuple[str, ...] = ("input",)
    sizes: dict[str, tuple[int, str]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    called: str = "linear"

    def operands(self, op: Any) -> tuple[list[Any], Any]:
        factors, count = [op.tensor(k, name) for k, name in enumerate(self.given)], len(self.given)
        factors += [op.weight(count, "weight")] if count < len(self.inputs) else []
        return factors, op.weight(len(factors), "bias") if self.bias is not None else None

    def patterns(self, ranks: Sequence[int], look: Lookup) -> Patterns:
        return self.inputs, self.output, self.bias

    def relate(self, op: Op) -> Tree:
        tensors, bias = self.operands(op)
        operands = [t for t in tensors if t is not None]
        free = self.free_space(op)
        binding = bind(op, operands, self.inputs, self.known_sizes(op), free)
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

    def known_sizes(self, op: Op) -> dict[str, int]:
        """The sizes of names that an argument or attribute gives."""
        return {name: op.setting(*place, 1) for name, place in self.sizes.items()}

    def free_space(self, op: Op) -> Sequence[bool]:
        """Which axes of space come out as they go in, unit for unit."""
        return ()


ENTRIES = "further entries"
"""What a node's meta holds where the table that it picks from may get more entries, behind those that it has."""


class Gather(Law):
    """Rows of a table picked by index: nn.Embedding, F.embedding. Table `[entries, units]`."""

    family = "contraction"

    def terms(self, call: Call | Op) -> Terms | None:
        return terms([call.weight(1, "weight")])

    def relate(self, op: Op) -> Tree:
        index = op.tensor()
        table = op.weight(1, "weight")
        assert table is not None
        fixed = index.axes if ENTRIES in op.node.meta else (*index.axes, table.axes[0])
        op.unifier.fix(fixed, "entries of a table are picked by index")
        op.attribute("num_embeddings", table.axes[0])
        op.attribute("embedding_dim", table.axes[1])
        op.role(table, "weight")
        op.data["table"] = table
        return op.result([*index.axes, table.axes[1]])

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        """Rows that are scaled by their own norms are as long as they were."""
        if scales_rows(op.setting):
            table = op.data["table"]
            yield from ([(table, Want(leaf, Fact.ZERO, None, 1))] for leaf in know.growing(table.axes[1]))

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        return [[(op.data["table"], Want(want.leaf, want.fact, None, 1))]] if want.where is None else []

    def facts(self, op: Op, know: Knowledge) -> None:
        table, output = op.data["table"], op.made
        know.read.update(know.growing(table.axes[0]))
        for leaf in know.growing(*output.axes):
            if table.parameter is not None:
                know.produced.add((table.parameter, 1, leaf))
                if know.fact(table, leaf, 1) is Fact.IGNORED and know.ways[leaf] is not Way.ZERO:
                    know.ask(table, Want(leaf, Fact.ZERO, None, 1))
            fact = know.fact(table, leaf, 1)
            if fact is Fact.IGNORED:  # a weight that reads elsewhere: as zeros, its rows have them
                fact = Fact.ZERO if know.ways[leaf] is Way.ZERO else Fact.BASE
            know.learn(output, leaf, fact)


def scales_rows(setting: Callable[..., Any]) -> bool:
    """Whether rows of a table that are too long are scaled as they are picked; `setting` looks up an argument."""
    return setting(3, "max_norm") is not None


class GatherBags(Gather):
    """Rows of a table picked by index and put together bag by bag: nn.EmbeddingBag. Output `[bags, units]`."""

    def relate(self, op: Op) -> Tree:
        super().relate(op)
        for weights in op.operands()[1:]:
            op.unifier.fix(weights.axes, "entries of a table are picked by index")
        return op.result([op.unifier.constant(op.value.shape[0]), op.data["table"].axes[1]])

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        return super().demand(op, output, want) if want.fact is Fact.ZERO else []

    def facts(self, op: Op, know: Knowledge) -> None:
        super().facts(op, know)
        for leaf in know.growing(*op.made.axes):
            if know.fact(op.made, leaf) is not Fact.ZERO:  # the largest of means is no mean
                know.learn_all(op.made, leaf, {})
