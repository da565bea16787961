"""Rows of a table picked by index: embeddings."""

from __future__ import annotations

from fxgrow.rules.calls import Call
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Fact, Law, Terms, Want, terms
from fxgrow.rules.op import Op, Tensor, Tree


class Gather(Law):
    """Rows of a table picked by index: nn.Embedding, F.embedding. Table `[entries, units]`."""

    family = "contraction"

    def terms(self, call: Call | Op) -> Terms | None:
        return terms([call.weight(1, "weight")])

    def relate(self, op: Op) -> Tree:
        index = op.tensor()
        table = op.weight(1, "weight")
        assert table is not None
        op.unifier.fix((*index.axes, table.axes[0]), "entries of a table are picked by index")
        op.attribute("embedding_dim", table.axes[1])
        op.role(table, "weight")
        op.data["table"] = table
        return op.result([*index.axes, table.axes[1]])

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        return [[(op.data["table"], Want(want.leaf, want.fact, None, 1))]] if want.where is None else []

    def facts(self, op: Op, know: Knowledge) -> None:
        table, output = op.data["table"], op.made
        for leaf in know.growing(*output.axes):
            if table.parameter is not None:
                know.produced.add((table.parameter, 1, leaf))
                if know.fact(table, leaf, 1) is Fact.IGNORED and know.ways[leaf] is not Way.ZERO:
                    know.ask(table, Want(leaf, Fact.ZERO, None, 1))
            fact = know.fact(table, leaf, 1)
            know.learn(output, leaf, Fact.BASE if fact is Fact.IGNORED else fact)


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
