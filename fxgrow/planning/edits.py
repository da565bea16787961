"""Changes to graphs and modules as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxgrow.errors import OTHER_MODEL, PlanError
from fxgrow.spectral import over_core


@dataclass(frozen=True)
class NodeEdit:
    """A change to one node of one graph.

    Attributes
    ----------
    mode: which graph: "both", "eval" or "train".
    node: its name.
    kind: "literal" (put `value` at `path`), "ratio" (multiply the number at `path` by `value` = [p, q]),
        "as_before" (compute it from the sizes before growth: `value` has, by the names of their nodes, what these were
        and are), "guard" and "core_input" (reduce over old units only), "erase" (drop an assertion on an old size),
        "multiply" (the input of a layer by `value`), "settle" (refuse another value of an argument than `value`).
    path: where in the node's arguments.
    value: what comes there.
    """

    mode: str
    node: str
    kind: str
    path: tuple[Any, ...] = ()
    value: Any = field(default=None, hash=False)  # of a guard, a dictionary


@dataclass(frozen=True)
class AttributeEdit:
    """A module attribute that follows the weights."""

    module: str
    attribute: str
    value: Any = field(hash=False)


def set_attributes(model: nn.Module, edits: Iterable[AttributeEdit]) -> None:
    """Set attributes of the modules of a model; a norm that is given a core becomes one over it.

    Raises
    ------
    PlanError: the model has no module of that name.
    """
    for edit in edits:
        try:
            module = model.get_submodule(edit.module)
        except AttributeError:
            what = "the plan names a module that the model does not have"
            raise PlanError(what, where=edit.module, remedy=OTHER_MODEL) from None
        if edit.attribute == "core":
            over_core(module)
        setattr(module, edit.attribute, edit.value)
