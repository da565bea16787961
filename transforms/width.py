"""The width pass: a captured model and a plan in, the grown graph module out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fxgrow.transforms.graph_edits import edit_graphs
from fxgrow.transforms.tensors import grow_tensor
from torch import nn

from fxgrow.capture import Captured, GrownGraphModule, assemble
from fxgrow.errors import PlanError
from fxgrow.planning.plan import Plan


def widen(captured: Captured, plan: Plan, source: nn.Module, seed: str, classes: bool = False) -> GrownGraphModule:
    """Grow a captured model's widths.

    Parameters
    ----------
    captured: the structure; it is consumed.
    plan: what to do.
    source: holds the tensors that `captured` was taken from; never written to.
    seed: of the new entries; the same seed gives the same bytes.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    _fill(captured.model, plan, source, seed)
    for edit in plan.attributes:
        try:
            setattr(captured.model.get_submodule(edit.module), edit.attribute, edit.value)
        except AttributeError:
            raise PlanError(
                "the plan names a module that the model does not have",
                where=edit.module,
                remedy="apply a plan to the model it was made for",
            ) from None
    edit_graphs(captured.graphs, plan.nodes)
    return assemble(captured.model, captured.graphs, classes)


def _fill(root: nn.Module, plan: Plan, source: nn.Module, seed: str) -> None:
    """Put grown tensors into the structure: one at a time, tied ones once."""
    growths = {growth.name: growth for growth in plan.tensors}
    tensors = named_tensors(source)
    made: dict[int, torch.Tensor] = {}
    used: set[str] = set()
    for name, tensor in tensors.items():
        if id(tensor) in made:
            new = made[id(tensor)]
        else:
            with torch.no_grad():
                growth = growths.get(name)
                data = tensor.detach().clone() if growth is None else grow_tensor(tensor.detach(), growth, seed)
            new = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
            made[id(tensor)] = new
            used.add(name)
        place(root, name, new)
    missed = growths.keys() - used
    if missed:
        raise PlanError(
            "the plan grows a tensor that the model does not have",
            where=min(missed),
            remedy="apply a plan to the model it was made for",
        )


def named_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """Every parameter and buffer by name, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def place(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter or buffer, keeping its kind and whether it is saved."""
    path, _, leaf = name.rpartition(".")
    owner = root.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        setattr(owner, leaf, tensor)
    else:
        owner._buffers[leaf] = tensor
