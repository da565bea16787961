"""Changes to graphs and modules as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NodeEdit:
    """A change to one node of one graph.

    Attributes
    ----------
    mode: which graph: "both", "eval" or "train".
    node: its name.
    kind: "literal" (put `value` at `path`), "ratio" (multiply the number at `path` by `value` = [p, q]),
        "guard" and "core_input" (reduce over old units only), "erase" (drop an assertion on an old size), "multiply"
        (the input of a layer by `value`).
    path: where in the node's arguments.
    value: what comes there.
    """

    mode: str
    node: str
    kind: str
    path: tuple[Any, ...] = ()
    value: Any = None


@dataclass(frozen=True)
class AttributeEdit:
    """A module attribute that follows the weights."""

    module: str
    attribute: str
    value: Any
