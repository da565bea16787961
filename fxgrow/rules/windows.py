"""Window attention as one opaque function: torchvision's shifted_window_attention and its bias table."""

from __future__ import annotations

import math
from typing import Any

from fxgrow.axes.layout import Leaf
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Carrying, Fact, Law, Terms, Want, terms
from fxgrow.rules.op import Op, Tensor, Tree


class BiasTable(Carrying):
    """Bias `[1, heads, n, n]` looked up in a table `[entries, heads]`."""

    family = "attention"

    def relate(self, op: Op) -> Tree:
        table = op.tensor(0, "relative_position_bias_table")
        op.unifier.fix(table.axes[0], "entries of a table are picked by index")
        lead, _, *space = op.value.shape
        constants = [op.unifier.constant(size) for size in space]
        return op.result([op.unifier.constant(lead), table.axes[1], *constants])

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        return [op.tensor(0, "relative_position_bias_table")], set(Fact)


class WindowAttention(Law):
    """Input `[b, h, w, c]`, weights `[3 x heads x width, c]` and `[c, heads x width]` -> `[b, h, w, c]`.

    The function derives the head width from c and the number of heads, so c grows with heads x width.
    """

    family = "attention"

    def terms(self, call: Call | Op) -> Terms | None:
        return terms([call.weight(2, "proj_weight")], [call.weight(10, "proj_bias")])

    def relate(self, op: Op) -> Tree:
        unifier = op.unifier
        x, enter, leave = op.tensor(), op.tensor(1, "qkv_weight"), op.tensor(2, "proj_weight")
        heads = op.argument(5, "num_heads")
        table = op.argument(3, "relative_position_bias")
        unifier.fix(x.axes[:-1], "it is space")
        unifier.unify(enter.axes[1], x.axes[-1])
        count, width = unifier.factor(leave.axes[1], [heads, leave.axes[1].size // heads])
        unifier.fix(width, "its attention derives the scale from the head width")
        three, own, inner = unifier.factor(enter.axes[0], [3, heads, width.size])
        unifier.fix(three, "queries, keys and values")
        unifier.unify(own, count)
        unifier.unify(inner, width)
        unifier.tie_sizes(x.axes[-1], leave.axes[1], "the head width is its input's width over the number of heads")
        unifier.tie_sizes(x.axes[-1], leave.axes[0], "its output is as wide as its input")
        for name, index, layout in (("qkv_bias", 9, enter.axes[0]), ("proj_bias", 10, leave.axes[0])):
            bias = op.argument(index, name)
            if isinstance(bias, Tensor):
                unifier.unify(bias.axes[0], layout)
                op.role(bias, "bias")
            op.data[name] = bias if isinstance(bias, Tensor) else None
        for index, name in ((3, "relative_position_bias"), (11, "logit_scale")):
            per_head = op.argument(index, name)
            if isinstance(per_head, Tensor):
                place = 1 if per_head.rank == 4 else 0
                unifier.unify(per_head.axes[place], count)
                unifier.fix((*per_head.axes[:place], *per_head.axes[place + 1 :]), "it is space")
        assert isinstance(table, Tensor)
        op.size(op.path(5, "num_heads"), count)
        op.role(enter, "weight")
        op.role(leave, "weight")
        op.data.update(x=x, enter=enter, leave=leave)
        return op.result([*x.axes[:-1], leave.axes[0]])

    def reads(self, op: Op) -> list[tuple[str, int]]:
        return [(str(op.data[name].parameter), 1) for name in ("enter", "leave")]

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        bias: Tensor | None = op.data["proj_bias"]
        if want.where is not None or want.fact is Fact.IGNORED:
            return []
        wishes = [(op.data["leave"], want.on(0))]
        return [wishes + ([(bias, want)] if bias is not None else [])]

    def facts(self, op: Op, know: Knowledge) -> None:
        x, enter, leave = op.data["x"], op.data["enter"], op.data["leave"]
        for weight, source in ((enter, x), (leave, None)):
            for leaf in know.growing(weight.axes[1]):
                know.read.add(leaf)
                know.contracted.add((str(weight.parameter), 1, leaf))
                sent = know.fact(source, leaf) if source is not None else Fact.BASE
                if not know.silences(weight, leaf, sent):
                    know.fail(op, leaf, f"{op.name} reads it")
        output, bias = op.made, op.data["proj_bias"]
        for leaf in know.growing(output.axes[-1]):
            know.produced.add((str(leave.parameter), 0, leaf))
            made = know.fact(leave, leaf, 0)
            if made in (Fact.ZERO, Fact.MEAN) and (bias is None or know.fact(bias, leaf) is made):
                know.learn(output, leaf, made)

    def operations(self, op: Op, size: Any) -> int:
        x, enter, leave = op.data["x"], op.data["enter"], op.data["leave"]
        tokens = math.prod(size(axis) for axis in x.axes[:-1])
        window = math.prod(op.argument(4, "window_size"))
        inner = size(leave.axes[1])
        return int(
            tokens * (size(enter.axes[0]) * size(enter.axes[1]) + 2 * window * inner + inner * size(leave.axes[0]))
        )
