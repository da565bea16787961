"""Heads: the outputs of a model that a layer of its own makes, which grow where more classes are asked for.

Outputs are fixed unless more classes are asked for. Then the axis of classes is a dimension like any other, whose new
units come after the old ones and which nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import fx, nn

from fxgrow.axes.layout import Leaf, leaves, resolve
from fxgrow.capture import Captured
from fxgrow.errors import PlanError
from fxgrow.planning.analysis import OPEN, Analysis, analyse, outputs_of
from fxgrow.planning.edits import AttributeEdit
from fxgrow.planning.plan import Classes, Plan
from fxgrow.planning.readouts import read_inside
from fxgrow.planning.sizing import Sizing, check_reached, more_than, producing_places
from fxgrow.rules.contraction import ENTRIES, Gather
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Want
from fxgrow.rules.op import Tensor

NAMES = ("num_classes", "num_labels")
"""Names that libraries give to attributes that hold the number of classes."""

_FACTS = {"zero": Fact.ZERO, "mean": Fact.MEAN}

Slot = tuple[int, int]
"""Which of the tensors that a graph puts out, and which of its axes."""


@dataclass(frozen=True)
class Heads:
    """The outputs whose classes grow, as tensors with the dimension of their classes."""

    classes: Classes
    outputs: tuple[tuple[Tensor, Leaf], ...]
    argument = "classes"
    units = "classes"

    @property
    def new(self) -> int:
        return self.classes.new

    @property
    def leaves(self) -> set[Leaf]:
        return {leaf for _, leaf in self.outputs}

    def put_into(self, sizing: Sizing) -> None:
        """Give classes the size that they are to have."""
        sizing.reach(self.leaves, self.new)

    def ask(self, know: Knowledge) -> None:
        """Let new classes start as they are to.

        Raises
        ------
        PlanError: something between the last layer and the output cannot pass that on.
        """
        fact = _FACTS.get(self.classes.start)
        for tensor, leaf in self.outputs:
            if fact is not None and leaf in know.growth and not know.ask(tensor, Want(leaf, fact)):
                raise PlanError(
                    f"new classes cannot start as class_init={self.classes.start!r} says: what comes after the last "
                    "layer makes something else of it",
                    remedy='pass class_init="random", or let the model put out what its last layer makes',
                )

    def check_met(self, growth: dict[Leaf, int]) -> None:
        """Raise a PlanError where classes turned out to be tied down."""
        remedy = "let the model put out what its last layer makes, or leave classes= out"
        check_reached(self.leaves, growth, self.new, self.units, remedy)

    def noted(self, plan: Plan, model: nn.Module) -> Plan:
        """A plan that says which classes come, and lets attributes that count them follow."""
        old, new = self.classes.old, self.classes.new
        edits = [
            AttributeEdit(path, name, new)
            for path, part in model.named_modules()
            for name in NAMES
            if type(part.__dict__.get(name)) is int and part.__dict__[name] == old
        ]
        planned = {(edit.module, edit.attribute) for edit in plan.attributes}
        more = tuple(edit for edit in edits if (edit.module, edit.attribute) not in planned)
        return replace(plan, classes=self.classes, attributes=(*plan.attributes, *more))


def open_heads(captured: Captured, asked: int | str, start: str) -> tuple[Analysis, Heads]:
    """The analysis of a captured model whose heads are free to grow; the graphs are marked accordingly.

    Raises
    ------
    PlanError: no output is made of classes by a layer. AmountError: there are more than are asked for.
    """
    opened: dict[str, set[Slot]] = {mode: set() for mode in captured.graphs}
    while True:
        for mode, graph in captured.graphs.items():
            graph.output_node().meta[OPEN] = frozenset(opened[mode])
        analysis = analyse(captured.model, captured.graphs)
        slots = list(_found(analysis))
        slots = [slot for slot in slots if slot[-1].size > 1] or slots  # one beside others says how sure it is
        ends = {leaf for *_, leaf in slots}
        tied = [
            op.node
            for op in analysis.ops
            if isinstance(op.law, Gather) and not ends.isdisjoint(leaves(op.data["table"].axes[0]))
        ]
        further = any(ENTRIES not in node.meta for node in tied)
        let_tables_grow(tied)
        if not further and all(slot in opened[mode] for mode, slot, _, _ in slots):
            break
        for mode, slot, _, _ in slots:
            opened[mode].add(slot)
    sizes = sorted({leaf.size for *_, leaf in slots})
    if len(sizes) != 1:
        said = (
            f"outputs have {' and '.join(map(str, sizes))} units"
            if sizes
            else "no output is, unit for unit, what a layer of its own makes"
        )
        raise PlanError(
            f"it is not clear what its classes are: {said}",
            where=type(captured.model).__name__,
            remedy="pass classes= for a model whose outputs are what its last layers make, all of as many units",
        )
    classes = Classes(sizes[0], more_than(sizes[0], asked, "classes"), start)
    return analysis, Heads(classes, tuple((tensor, leaf) for _, _, tensor, leaf in slots))


def let_tables_grow(nodes: Iterable[fx.Node]) -> None:
    """Let tables get more entries from which nodes pick; those that were there stay where they are."""
    for node in nodes:
        node.meta[ENTRIES] = True


def _found(analysis: Analysis) -> Iterator[tuple[str, Slot, Tensor, Leaf]]:
    """The axes of outputs whose units a parameter makes and no layer reads."""
    parameters = (
        layout
        for place, layout in producing_places(analysis)
        if isinstance(analysis.learnable[place.parameter], nn.Parameter)
    )
    produced = {leaf for layout in parameters for leaf in leaves(layout)} - set(read_inside(analysis))
    for mode, graph in analysis.graphs.items():
        for number, tensor in enumerate(outputs_of(analysis, graph)):
            for axis, layout in enumerate(tensor.axes):
                leaf = resolve(layout)
                if isinstance(leaf, Leaf) and leaf in produced:
                    yield mode, (number, axis), tensor, leaf
