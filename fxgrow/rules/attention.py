"""Attention: softmax(q k' * scale + mask) v; of windows, as one opaque function of torchvision."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fxgrow.axes.layout import Layout, Leaf, leaves, product
from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Carrying, Clause, Edit, Fact, Law, Moves, Source, Terms, Want, all_of, terms
from fxgrow.rules.op import Op, Tensor, Tree


class Attention(Carrying):
    """q `[..., n, d]`, k `[..., m, d]`, v `[..., m, e]` -> `[..., n, e]`; leading axes are heads and batch.

    Old outputs stay when q or k is zero at new d, with the scale pinned at its old value.
    """

    family = "attention"

    def terms(self, call: Call | Op) -> Terms | None:
        return terms([call.tensor(2, "value")])

    def relate(self, op: Op) -> Tree:
        unifier = op.unifier
        q, k, v = op.tensor(0, "query"), op.tensor(1, "key"), op.tensor(2, "value")
        mask = op.argument(3, "attn_mask")
        unifier.unify(q.axes[-1], k.axes[-1])
        unifier.unify(k.axes[-2], v.axes[-2])
        unifier.fix(k.axes[-2], "softmax is taken over it")
        if op.argument(5, "is_causal"):
            unifier.fix(q.axes[-2], "a causal mask goes by its order")
        lead: list[Layout] = []
        for query_axis, key_axis, value_axis in zip(q.axes[:-2], k.axes[:-2], v.axes[:-2], strict=True):
            unifier.unify(key_axis, value_axis)
            if query_axis.size == key_axis.size or key_axis.size == 1 or query_axis.size == 1:
                lead.append(unifier.broadcast([query_axis, key_axis, value_axis]))
            else:  # grouped queries: query head i reads key head i // ratio
                shared, ratio = unifier.factor(query_axis, [key_axis.size, query_axis.size // key_axis.size])
                unifier.unify(shared, key_axis)
                unifier.fix(ratio, "queries in a key's group")
                lead.append(product([shared, ratio]))
        out = [*lead, q.axis(-2), v.axis(-1)]
        if isinstance(mask, Tensor):
            facing = [*lead, q.axis(-2), k.axis(-2)][-mask.rank :]
            for own, other in zip(mask.axes, facing, strict=True):
                unifier.broadcast([own, other])
        op.data.update(q=q, k=k, v=v)
        return op.result(out)

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        for leaf in know.growing(op.data["q"].axes[-1]):
            yield [(op.data[name], Want(leaf, Fact.ZERO)) for name in ("q", "k")]

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        v: Tensor = op.data["v"]
        heads = {head for axis in v.axes[:-1] for head in leaves(axis)}
        return [v], {Fact.ZERO, Fact.MEAN} if leaf in leaves(v.axes[-1]) and leaf not in heads else {Fact.ZERO}

    def facts(self, op: Op, know: Knowledge) -> None:
        for leaf in know.growing(op.data["q"].axes[-1]):
            know.read.add(leaf)
            silent = [know.fact(op.data[name], leaf) is Fact.ZERO for name in ("q", "k")]
            if not any(silent):
                know.fail(op, leaf, f"{op.name} multiplies queries and keys over it")
            elif all(silent):
                know.fail(op, leaf, f"{op.name} multiplies it by itself, so that new units would stay zero for good")
        super().facts(op, know)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Queries and keys are each other's factor."""
        pair: list[Tensor] = [op.data["q"], op.data["k"]]
        if operand not in pair or leaf not in leaves(operand.axes[-1]):
            return True
        return not any(moves.zero(other, leaf) for other in pair if other is not operand)

    def ends(self, op: Op, operand: Tensor, axis: int | None) -> bool:
        return operand in (op.data["q"], op.data["k"]) and axis == operand.rank - 1

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        width = op.data["q"].axes[-1]
        if not know.growing(width) or op.argument(6, "scale") is not None:
            return []
        return [Edit("argument", {"path": ("kwargs", "scale"), "value": 1.0 / math.sqrt(width.size)})]

    def operations(self, op: Op, size: Any) -> int:
        q, k, v = op.data["q"], op.data["k"], op.data["v"]
        lead = math.prod(size(axis) for axis in q.axes[:-1])
        return int(lead * size(k.axes[-2]) * (size(q.axes[-1]) + size(v.axes[-1])))


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
            bias = op.data[name] = op.optional(index, name)
            op.role(bias, "bias")
            if bias is not None:
                unifier.unify(bias.axes[0], layout)
        for index, name in ((3, "relative_position_bias"), (11, "logit_scale")):
            per_head = op.optional(index, name)
            if per_head is not None:
                place = 1 if per_head.rank == 4 else 0
                unifier.unify(per_head.axes[place], count)
                unifier.fix((*per_head.axes[:place], *per_head.axes[place + 1 :]), "it is space")
        op.size(op.path(5, "num_heads"), count)
        for weight in (enter, leave):
            op.role(weight, "weight")
            for axis, attribute in enumerate(("out_features", "in_features")):
                op.attribute(attribute, weight.axes[axis], weight)
        op.data.update(x=x, enter=enter, leave=leave)
        return op.result([*x.axes[:-1], leave.axes[0]])

    def reads(self, op: Op) -> list[tuple[str, int]]:
        return [(str(op.data[name].parameter), 1) for name in ("enter", "leave")]

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        leave, bias = op.data["leave"], op.data["proj_bias"]
        return [(fact, [Source(leave, fact, axis=0), *all_of(fact, bias)]) for fact in (Fact.ZERO, Fact.MEAN)]

    def facts(self, op: Op, know: Knowledge) -> None:
        x, enter, leave = op.data["x"], op.data["enter"], op.data["leave"]
        for leaf in know.growing(enter.axes[1]):
            know.is_read(op, enter, leaf, know.fact(x, leaf))
        for leaf in know.growing(leave.axes[1]):
            know.is_read(op, leave, leaf, Fact.BASE)
        know.is_made(leave)
        super().facts(op, know)

    def operations(self, op: Op, size: Any) -> int:
        x, enter, leave = op.data["x"], op.data["enter"], op.data["leave"]
        tokens = math.prod(size(axis) for axis in x.axes[:-1])
        window = math.prod(op.argument(4, "window_size"))
        inner = size(leave.axes[1])
        return int(
            tokens * (size(enter.axes[0]) * size(enter.axes[1]) + 2 * window * inner + inner * size(leave.axes[0]))
        )
