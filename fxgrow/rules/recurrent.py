"""Recurrent layers: nn.RNN, nn.GRU, nn.LSTM, and the packed sequences that they read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxgrow.axes.layout import Layout, Leaf, join, product, resolve
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Carrying, Fact, Law, Lookup, Moves, Terms
from fxgrow.rules.op import Op, Tensor, Tree, tensors


@dataclass(frozen=True)
class Recurrent(Law):
    """One hidden dimension serves all layers and directions; each weight is `[gates x hidden, in]`.

    Old hidden units stay when the weights from new hidden (and new input) units to old ones are ignored.
    """

    gates: int
    family = "recurrent"

    def relate(self, op: Op) -> Tree:
        module: Any = op.module
        assert isinstance(module, nn.RNNBase)
        if module.proj_size:
            op.fix_operands("recurrent layers with a projection have no rule")
            op.data["reads"] = []
            return op.constants(op.value)
        unifier = op.unifier
        x = op.operands()[0]
        unifier.fix(x.axes[:-1], "it is time or batch")
        hidden = unifier.fresh(module.hidden_size)
        directions = 2 if module.bidirectional else 1
        inner = join([hidden] * directions)
        reads: list[tuple[Tensor, Layout]] = []
        for layer in range(module.num_layers):
            for suffix in ("", "_reverse")[:directions]:
                layout = x.axis(-1) if layer == 0 else inner
                reads += self._layer(op, f"_l{layer}{suffix}", layout, hidden)
        for state in list(tensors(op.argument(1, "hx"))):
            unifier.unify(state.axes[-1], hidden)
            unifier.fix(state.axes[:-1], "it is layers or batch")
        op.attribute("input_size", x.axes[-1])
        op.attribute("hidden_size", hidden)
        op.data["reads"] = reads
        output: Tree = op.result([*x.axes[:-1], resolve(inner)])
        if isinstance(packed := op.argument(0, "input"), tuple):
            output = (output, *packed[1:])
        states = [
            op.result([*(unifier.constant(size) for size in value.shape[:-1]), hidden])
            for value in (op.value[1] if isinstance(op.value[1], tuple) else (op.value[1],))
        ]
        return output, tuple(states) if isinstance(op.value[1], tuple) else states[0]

    def terms(self, call: Call | Op) -> Terms | None:
        """From a state of zeros, one layer stays at zero if nothing enters it; of several, some states would not."""
        module: Any = call.module
        is_packed = not isinstance(call.node.meta["value"][0], torch.Tensor)
        if call.raw(1, "hx") is not None or is_packed or module.proj_size or module.num_layers > 1:
            return None
        directions = ("", "_reverse")[: 2 if module.bidirectional else 1]
        names = ((kind, end) for kind in ("weight_ih", "bias_ih", "bias_hh") for end in directions)
        entering = [call.parameter(f"{kind}_l0{end}") for kind, end in names]
        after = nn.ReLU() if getattr(module, "nonlinearity", "") == "relu" else None
        return Terms([name for name in entering if name is not None], after=after)

    def _layer(self, op: Op, suffix: str, source: Layout, hidden: Layout) -> list[tuple[Tensor, Layout]]:
        """The weights of one layer, each with what it reads; all of its parameters are tied to the hidden units."""
        reads = []
        for kind, read in (("ih", source), ("hh", hidden)):
            weight, bias = op.parameter(f"weight_{kind}{suffix}"), op.parameter(f"bias_{kind}{suffix}")
            assert weight is not None
            self._tie_gates(op, weight, hidden)
            op.unifier.unify(weight.axes[1], read)
            op.role(weight, "weight")
            reads.append((weight, read))
            if bias is not None:
                self._tie_gates(op, bias, hidden)
                op.role(bias, "bias")
        return reads

    def _tie_gates(self, op: Op, tensor: Tensor, hidden: Layout) -> None:
        gates = op.unifier.constant(self.gates)
        op.unifier.unify(tensor.axes[0], product([gates, hidden]))

    def facts(self, op: Op, know: Knowledge) -> None:
        x = op.operands()[0]
        for position, (weight, source) in enumerate(op.data["reads"]):
            for leaf in know.growing(source):
                outside = position == 0 or (position == 2 and op.module.bidirectional)
                know.is_read(op, weight, leaf, know.fact(x, leaf) if outside else Fact.BASE)
        for weight, _ in op.data["reads"]:
            know.is_made(weight)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to an input whose every weight is zero."""
        if operand is not op.operands()[0]:
            return True
        entering = op.data["reads"][0 : 4 if op.module.bidirectional else 2 : 2]
        return not entering or not all(moves.zero(weight, leaf, 1) for weight, _ in entering)

    def reads(self, op: Op) -> Iterable[tuple[str, int]]:
        return [(str(weight.parameter), 1) for weight, _ in op.data["reads"]]

    def operations(self, op: Op, size: Any) -> int:
        steps = math.prod(size(axis) for axis in op.operands()[0].axes[:-1])
        return int(steps * sum(size(w.axes[0]) * size(w.axes[1]) for w, _ in op.data["reads"]))


@dataclass(frozen=True)
class RecurrentCell(Recurrent):
    """One step of a recurrence: nn.RNNCell, nn.GRUCell, nn.LSTMCell. A state is given, or starts at zero."""

    def terms(self, call: Call | Op) -> Terms | None:
        return None

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        unifier, hidden = op.unifier, op.unifier.fresh(op.module.hidden_size)
        reads = self._layer(op, "", x.axis(-1), hidden)
        states = list(tensors(op.argument(1, "hx")))
        for state in states:
            unifier.unify(state.axes[-1], hidden)
        unifier.fix((axis for tensor in (x, *states) for axis in tensor.axes[:-1]), "it is batch")
        op.attribute("input_size", x.axes[-1])
        op.attribute("hidden_size", hidden)
        op.data["reads"] = reads
        made = op.value if isinstance(op.value, tuple) else (op.value,)
        after = tuple(op.result([*x.axes[:-1], resolve(hidden)]) for _ in made)
        return after if isinstance(op.value, tuple) else after[0]

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to an input, or a state, whose weight is zero; a state is also passed on unit by unit."""
        weight, _ = op.data["reads"][0]
        return operand is not op.tensor() or not moves.zero(weight, leaf, 1)


@dataclass(frozen=True)
class Packing(Carrying):
    """Sequences as rows, one behind the other along one axis, as lengths say; or `back`, with a number behind each."""

    back: bool = False
    family = "sequence"

    @property
    def leading(self) -> tuple[int, int]:
        """How many axes are time and batch, of what is given and of what is made."""
        return (1, 2) if self.back else (2, 1)

    def fills_with_zeros(self, given: Lookup) -> bool:
        return not self.back or given(3, "padding_value") == 0

    def relate(self, op: Op) -> Tree:
        x, lengths = op.operands()[:2]
        before, after = self.leading
        op.unifier.fix((*x.axes[:before], *lengths.axes), "it is time or batch")
        made, sizes = op.value
        time = (op.unifier.constant(size) for size in made.shape[:after])
        return op.result([*time, *x.axes[before:]]), op.constants(sizes)

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        return op.operands()[:1], {Fact.ZERO, Fact.MEAN} if self.fills_with_zeros(op.argument) else {Fact.MEAN}


class PackedParts(Law):
    """The parts of a packed sequence."""

    family = "sequence"

    def relate(self, op: Op) -> Tree:
        return tuple(op.lower(op.node.args))
