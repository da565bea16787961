"""The claims about each node of a grown graph so far, and what an argument of a node is in both models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxgrow.modules.containers import holds_tensor, of_kind
from fxgrow.proof.claims import Claim, Refuted, Unproved
from fxgrow.proof.comparing import Both
from fxgrow.proof.new_layers import axis_of_join, new_units, parts_of_join
from fxgrow.proof.node_pair import Use
from fxgrow.proof.structures import shaped
from fxgrow.rules.calls import reached, run


@dataclass(frozen=True)
class Bound:
    """A grown node's partner in the original, and what is claimed of it; `claims` is None where it failed."""

    partner: fx.Node
    claims: Any


class Resting(Exception):
    """A step that rests on one that is not proved; the latter is reported."""


class Bindings:
    """What is known of the nodes of one grown graph.

    bound: of those that hold tensors. numbers: of those that hold none. added: what new layers give, on the meta
    device.
    """

    def __init__(self, parameter_of: Callable[[str], Claim]) -> None:
        self.parameter_of = parameter_of
        self.bound: dict[fx.Node, Bound] = {}
        self.numbers: dict[fx.Node, Any] = {}
        self.added: dict[fx.Node, Any] = {}

    def pair(self, old: Any, new: Any) -> Any:
        """An argument of both nodes: claims where it is a tensor, else a pair of values."""
        if isinstance(new, fx.Node):
            bound = self.bound.get(new)
            if bound is None:
                if new in self.added:
                    raise Unproved(f"it reads {new}, which the original does not have, where that reads {old}")
                if new not in self.numbers:
                    raise Resting
                return self._numbers(old, new)
            if bound.claims is None:
                raise Resting
            if bound.partner is not old:
                raise Refuted(f"it reads {new}, which is {bound.partner} of the original, where that reads {old}")
            return bound.claims
        if isinstance(old, fx.Node):
            return self._numbers(old, new)
        if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)) and len(old) == len(new):
            return type(new)([self.pair(a, b) for a, b in zip(old, new, strict=True)])
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            return {key: self.pair(old[key], new[key]) for key in new}
        if isinstance(old, slice) and isinstance(new, slice):
            return slice(*(self.pair(getattr(old, k), getattr(new, k)) for k in ("start", "stop", "step")))
        return self._numbers(old, new)

    def _numbers(self, old: Any, new: Any) -> Both:
        self.same_arguments(old, new)
        return Both(self._old_number(old), self._new_number(new))

    def same_arguments(self, old: Any, new: Any) -> None:
        """A number is computed from no other arguments of the model than it was: these may differ at another call.

        Where it is computed from fewer, a guard has what an argument was as the model was captured.

        Raises
        ------
        Refuted: it is computed from others.
        """
        others = _arguments([new], self.numbers.__contains__) - _arguments([old], _is_number)
        if others:
            raise Refuted(f"a number is computed from {', '.join(sorted(others))}, as in the original it was not")

    def _old_number(self, raw: Any) -> Any:
        def value(node: fx.Node) -> Any:
            number = node.meta["value"]
            if holds_tensor(number):
                raise Refuted(f"the original reads {node} where the grown graph has a number")
            return number

        return fx.node.map_arg(raw, value)

    def _new_number(self, raw: Any) -> Any:
        def value(node: fx.Node) -> Any:
            if node not in self.numbers:
                raise Refuted(f"it reads {node} where the original has a number")
            return self.numbers[node]

        return fx.node.map_arg(raw, value)

    def bare(self, node: fx.Node, partner: fx.Node) -> Use:
        return Use(partner, node, None, [], {}, self.parameter_of)

    def evaluated(self, node: fx.Node, module: nn.Module | None = None) -> Any:
        """A node of the grown graph, from numbers and from the shapes that have been proved."""

        def put(source: fx.Node) -> Any:
            for known in (self.numbers, self.added):
                if source in known:
                    return known[source]
            bound = self.bound.get(source)
            if bound is None or bound.claims is None:
                raise Resting
            return shaped(bound.claims, bound.partner.meta["value"])

        args, kwargs = (fx.node.map_arg(arguments, put) for arguments in (node.args, node.kwargs))
        with torch.device("meta"):
            return run(node, module, args, kwargs)

    def joined(self, node: fx.Node, partner: fx.Node) -> list[Any] | None:
        """The operands of a concatenation that takes in more than the original's does; None of any other node."""
        old, new = parts_of_join(partner), parts_of_join(node)
        if old is None or new is None or len(new) <= len(old):
            return None
        waiting, operands = list(old), []
        for part in new:
            if waiting and part in self.bound and self.bound[part].partner is waiting[0]:
                operands.append(self.pair(waiting.pop(0), part))
            elif part in self.added:
                operands.append(new_units(self.added[part], axis_of_join(node)))
            else:
                raise Unproved(f"it concatenates {part} where the original has something else")
        if waiting:
            raise Unproved(f"it leaves out {waiting[0]}, which the original concatenates")
        return operands


def _arguments(raw: Any, is_number: Callable[[fx.Node], bool]) -> set[str]:
    """The arguments of the model from which numbers are computed."""
    behind = reached(of_kind(raw, fx.Node), lambda node: filter(is_number, node.all_input_nodes))
    return {str(node.target) for node in behind if node.op == "placeholder" and is_number(node)}


def _is_number(node: fx.Node) -> bool:
    return not holds_tensor(node.meta["value"])
