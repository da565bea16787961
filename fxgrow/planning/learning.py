"""Whether new units learn: which zeros a plan puts in that no gradient would ever move.

A new unit is silent because one side of it is zero. That side has to move at the first step, so that the other moves
at the second. A zero does not move where it is frozen, where the other factor is zero too, or where an op between them
is flat at zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fxgrow.axes.layout import Leaf
from fxgrow.grouping import grouped
from fxgrow.planning.analysis import Analysis
from fxgrow.planning.gradients import parameters_with_gradients, stopping
from fxgrow.rules.knowledge import Knowledge, Slot, Way
from fxgrow.rules.law import Fact
from fxgrow.rules.op import Op, Tensor, tensors

_STEPS = 3
"""How many steps of training may pass before all new entries move: where a unit is silent twice, it takes three."""


@dataclass(frozen=True)
class Still:
    """A dimension whose new units would not learn, where that shows, and why."""

    leaf: Leaf
    op: Op
    text: str


class Movement:
    """What moves, step by step, among the new entries of parameters and of all that is computed from them."""

    def __init__(self, analysis: Analysis, know: Knowledge) -> None:
        self.analysis = analysis
        self.know = know
        self.moved: set[tuple[Tensor, Leaf]] = set()
        self.moved_slots: set[Slot] = set()
        parameters = {name: t for name, t in analysis.learnable.items() if isinstance(t, nn.Parameter)}
        trained = {name for name, tensor in parameters.items() if tensor.requires_grad}
        self.trained = trained or set(parameters)  # frozen as a whole: nobody said what will be trained
        self._stopping = {node for graph in analysis.graphs.values() for node in stopping(graph)}
        by_gradients = parameters_with_gradients(analysis, self._stopping)
        self._unreached = self.trained - by_gradients  # of a body under no_grad, or of a teacher that follows a student
        self.uses = [
            (op, operand, leaf, axis)
            for op in analysis.ops
            for operand in dict.fromkeys([*op.operands(), *op.module_parameters()])
            for leaf, axis in self._places(operand)
        ]
        self.made: dict[Op, dict[Leaf, list[Tensor]]] = {}
        for op in analysis.ops:
            by_leaf = self.made.setdefault(op, {})
            for tensor in tensors(op.output):
                for leaf in know.growing(*tensor.axes) if tensor.op is op else ():
                    by_leaf.setdefault(leaf, []).append(tensor)

    def _places(self, tensor: Tensor) -> Iterator[tuple[Leaf, int | None]]:
        """The growing leaves of a tensor; of a parameter, with each axis that they are on."""
        if tensor.parameter is None:
            yield from ((leaf, None) for leaf in self.know.growing(*tensor.axes))
        for axis, layout in enumerate(tensor.axes if tensor.parameter is not None else ()):
            yield from ((leaf, axis) for leaf in self.know.growing(layout))

    def zero(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> bool:
        """Whether all new entries of a tensor are zero at this step."""
        fact = self.know.fact(tensor, leaf, axis)
        silent = fact is Fact.ZERO or (fact is Fact.IGNORED and self.know.ways[leaf] is Way.ZERO)
        return silent and not self.has_moved(tensor, leaf, axis)

    def has_moved(self, tensor: Tensor, leaf: Leaf, axis: int | None = None) -> bool:
        """Whether a step before this one moved new entries of a tensor."""
        if tensor.parameter is None:
            return (tensor, leaf) in self.moved
        places = range(tensor.rank) if axis is None else (axis,)
        return any((tensor.parameter, place, leaf) in self.moved_slots for place in places)

    def still(self) -> Iterator[Still]:
        """Every dimension with new entries that could be trained and that no step moves."""
        slots: dict[Slot, Op] = {}
        for op, operand, leaf, axis in self.uses:
            if operand.parameter is not None and axis is not None:
                slots.setdefault((operand.parameter, axis, leaf), op)
        waiting = {slot for slot in slots if slot[0] in self.trained}
        by_leaf = grouped((slot[2], slot) for slot in slots if isinstance(self._tensor(slot), nn.Parameter))
        for leaf, own in by_leaf.items():
            if not any(slot in waiting for slot in own):
                yield Still(leaf, slots[own[0]], "nothing that makes or reads it is trained: requires_grad is False")
        waiting = {slot for slot in waiting if slot[0] not in self._unreached}
        stopped: dict[Slot, Op] = {}
        for _ in range(_STEPS):
            stopped = self._step(waiting)
            if not stopped:
                return
            waiting = set(stopped)
        for slot, op in stopped.items():
            yield Still(slot[2], op, self._said(op))

    def _tensor(self, slot: Slot) -> object:
        return self.analysis.learnable[slot[0]]

    def _said(self, op: Op) -> str:
        frozen = any(t.parameter is not None and t.parameter not in self.trained for t in op.operands())
        frozen = frozen or any(t.parameter not in self.trained and t.learns for t in op.module_parameters())
        if frozen:
            return f"its new units would never learn: zeros in what {op.name} reads are frozen (requires_grad is False)"
        return f"its new units would never learn: no gradient passes the zeros at {op.name}"

    def _step(self, waiting: set[Slot]) -> dict[Slot, Op]:
        """Take a step; returns the slots among `waiting` that did not move, and what stopped their gradient."""
        stops: dict[tuple[Tensor, Leaf], Op | None] = {}  # what stops the gradient of every reader, or None
        stopped: dict[Slot, Op | None] = {}
        for op, operand, leaf, axis in reversed(self.uses):
            stop = self._stop(op, operand, leaf, axis, stops)
            key = (operand, leaf)
            stops[key] = stop if stop is None else stops.get(key, stop)
            if operand.parameter is not None and axis is not None:
                slot = (operand.parameter, axis, leaf)
                stopped[slot] = stop if stop is None else stopped.get(slot, stop)
        self.moved_slots |= {slot for slot, stop in stopped.items() if stop is None and slot[0] in self.trained}
        for op, operand, leaf, axis in self.uses:
            if self.has_moved(operand, leaf, axis) and op.law.passes(op, operand, leaf, axis, self):
                self.moved.update((output, leaf) for output in self.made[op].get(leaf, ()))
        return {slot: stop for slot, stop in stopped.items() if stop is not None and slot in waiting}

    def _stop(
        self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, stops: dict[tuple[Tensor, Leaf], Op | None]
    ) -> Op | None:
        """The op, this one or one after it, that stops the gradient of an operand; None where nothing does."""
        if op.node in self._stopping or not op.law.passes(op, operand, leaf, axis, self):
            return op
        onward = [stops.get((output, leaf)) for output in self.made[op].get(leaf, ())]
        if not onward or None in onward or op.law.ends(op, operand, axis):
            return None  # also where nobody reads an output
        return onward[0]
