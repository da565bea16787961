"""Contexts that a loop enters for each block: where they begin and end in a graph, and that of a new block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from fxgrow.capture.contexts import enter_autocast, leave_autocast
from fxgrow.capture.gradients import enter_grad, leave_grad

_ENTERING, _LEAVING = (enter_autocast, enter_grad), (leave_autocast, leave_grad)


@dataclass(frozen=True)
class Context:
    """A region of a graph, from the node that enters it to the node that leaves it."""

    enters: fx.Node
    leaves: fx.Node

    def copied(self, before: fx.Node, after: fx.Node) -> tuple[fx.Node, fx.Node]:
        """The same context around nodes of the same graph, from `before` to `after`."""
        graph = before.graph
        with graph.inserting_before(before):
            enters = graph.node_copy(self.enters, lambda node: node)
        with graph.inserting_after(after):
            leaves = graph.node_copy(self.leaves, lambda node: enters if node is self.enters else node)
        return enters, leaves


def contexts_around(nodes: Sequence[fx.Node]) -> list[Context]:
    """The contexts that hold a block and nothing else, from within to without, and that others follow or go before.

    One that holds a single block may as well hold a loop of one turn: where another is next to it, each turn has its
    own.
    """
    around: list[Context] = []
    per_turn = 0
    first, last = nodes[0], nodes[-1]
    for enters, leaves in zip(_calls(first, "prev"), _calls(last, "next"), strict=False):
        if enters.target not in _ENTERING or leaves.args != (enters,):
            break
        around.append(Context(enters, leaves))
        before, after = next(_calls(enters, "prev"), enters), next(_calls(leaves, "next"), leaves)
        if before.target in _LEAVING or after.target in _ENTERING:
            per_turn = len(around)
    return around[:per_turn]


def behind(node: fx.Node, contexts: int) -> fx.Node:
    """The node that leaves the last of some contexts that end behind a node; the node itself if fewer do."""
    for number, call in enumerate(_calls(node, "next"), start=1):
        if contexts < number or call.target not in _LEAVING:
            break
        if number == contexts:
            return call
    return node


def _calls(node: fx.Node, step: str) -> Iterator[fx.Node]:
    """The nodes before one ("prev") or after it ("next"), but for tensors that are read."""
    while (node := getattr(node, step)).op != "root":
        if node.op != "get_attr":
            yield node
