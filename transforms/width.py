"""The width pass: makes the grown graph module from a captured model, a plan and tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from fxgrow.transforms.depth import started
from fxgrow.transforms.graph_edits import edit_graphs
from fxgrow.transforms.tensors import grow_tensor
from torch import nn

from fxgrow.capture import Captured, GrownGraphModule, assemble, copies
from fxgrow.capture.skeleton import GIVEN, twin_of
from fxgrow.contents import is_plain
from fxgrow.errors import OTHER_MODEL, PlanError
from fxgrow.grouping import grouped
from fxgrow.modules.tensors import dotted, place, plain_tensor
from fxgrow.planning.deepening import NewTensor
from fxgrow.planning.edits import set_attributes
from fxgrow.planning.plan import Plan


def widened(
    captured: Captured, plan: Plan, tensors: Mapping[str, torch.Tensor], seed: str, classes: bool = False
) -> GrownGraphModule:
    """A captured model with grown widths.

    Parameters
    ----------
    captured: the structure, deepened already where the plan has new blocks; it is not touched.
    plan: what to do.
    tensors: those that `captured` was taken from, tied ones under each of their names; never written to.
    seed: what the new entries are drawn from; the same seed gives the same bytes.
    classes: whether the modules that hold others keep their classes.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    root, graphs = twin_of(captured.model, share=True), copies(captured.graphs)
    for names, tensor, data in grown_tensors(root, plan, tensors, seed):
        grown = like(tensor, data)
        for name in names:
            place(root, name, grown)
    set_attributes(root, plan.attributes)
    edit_graphs(graphs, plan.nodes)
    result = assemble(root, graphs, classes, captured.form)
    for name, value in _still_true(captured.model, plan):
        if not hasattr(result, name):
            result.__dict__[name] = copy.deepcopy(value)
    return result


def _still_true(model: nn.Module, plan: Plan) -> Iterator[tuple[str, Any]]:
    """Plain attributes of a model but for those that hold a number which growth may have made another."""
    axes = [axis for tensor in plan.tensors for axis in tensor.axes]
    for axis in axes:
        axes += axis.parts
    grown = {axis.old for axis in axes if axis.new != axis.old}
    grown |= {run.before for run in plan.depth.runs if run.after != run.before} if plan.depth is not None else set()

    def is_true(value: Any) -> bool:
        if isinstance(value, (tuple, list, dict)):
            return all(map(is_true, value.values() if isinstance(value, dict) else value))
        return type(value) not in (int, float) or value not in grown

    for name, value in model.__dict__.items():
        if not name.startswith("_") and is_plain(value) and is_true(value):
            yield name, value


def grown_tensors(
    root: nn.Module,
    plan: Plan,
    tensors: Mapping[str, torch.Tensor],
    seed: str,
    entries_of: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
    """Every tensor of the grown model, made when it is asked for: its names, what it comes from, its entries.

    Parameters
    ----------
    root: the structure. tensors: of the model that grows, tied ones under each of their names. seed: as in `widened`.
    entries_of: gives all entries of a tensor.

    Raises
    ------
    PlanError: the plan was made for another model.
    """
    growths = {growth.name: growth for growth in plan.tensors}
    named = grouped((key, (name, tensor, start)) for name, key, tensor, start in _origins(tensors, plan, root))
    missed = growths.keys() - {tied[0][0] for tied in named.values()}
    plain = _plain_names(root) if missed else {}
    for name in sorted(missed):
        held = plain_tensor(root, name)
        if held is not None:
            named[name] = [(each, held, None) for each in dict.fromkeys((name, *plain[id(held)]))]
            missed.remove(name)
    if missed:
        raise PlanError(
            "the plan grows a tensor that the model does not have",
            where=min(missed),
            remedy=OTHER_MODEL,
        )
    for tied in named.values():
        name, tensor, start = tied[0]
        growth = growths.get(name)
        with torch.no_grad():
            data = entries_of(tensor)
            if start is not None:
                data = started(data, start, seed)
            if growth is not None:
                data = grow_tensor(data, growth, seed)
            elif start is None:
                data = data.clone()
        yield [name for name, _, _ in tied], tensor, data


def _plain_names(root: nn.Module) -> dict[int, list[str]]:
    """The names by which modules hold tensors that they have not registered, by the identities of these."""
    names: dict[int, list[str]] = {}
    for path, part in root.named_modules():
        for attribute, held in vars(part).items():
            if isinstance(held, torch.Tensor):
                names.setdefault(id(held), []).append(dotted(path, attribute))
    return names


def like(tensor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """Data as a tensor of the kind of another one: a parameter or not, laid out and marked as it is, with its hooks."""
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.layout is torch.strided and tensor.ndim == dims and not tensor.is_contiguous():
            data = data.contiguous(memory_format=layout) if tensor.is_contiguous(memory_format=layout) else data
    parameter, kind = data, type(tensor)
    if isinstance(tensor, nn.Parameter):
        made_alike = all(getattr(kind, name) is getattr(nn.Parameter, name) for name in ("__new__", "__init__"))
        parameter = (kind if made_alike else nn.Parameter)(data, tensor.requires_grad)
    for name, mark in tensor.__dict__.items():  # subclasses of tensors may keep their data there
        if name != GIVEN or (data.is_meta and data.shape == tensor.shape):
            parameter.__dict__.setdefault(name, mark)
    if parameter is data:
        return data
    for hook in (tensor._backward_hooks or {}).values():
        parameter.register_hook(hook)
    for hook in (getattr(tensor, "_post_accumulate_grad_hooks", None) or {}).values():
        parameter.register_post_accumulate_grad_hook(hook)
    return parameter


def _origins(
    tensors: Mapping[str, torch.Tensor], plan: Plan, root: nn.Module
) -> Iterator[tuple[str, Hashable, torch.Tensor, NewTensor | None]]:
    """Every tensor of the grown model: its name, what is one for tied ones, where it comes from, how it starts."""
    depth = plan.depth
    names = depth.new_names if depth is not None else {}
    for name, tensor in tensors.items():
        yield names.get(name, name), id(tensor), tensor, None
    for start in depth.tensors if depth is not None else ():
        if start.twin not in tensors:
            raise PlanError(
                "the plan repeats a tensor that the model does not have", where=start.twin, remedy=OTHER_MODEL
            )
        tensor = tensors[start.twin]
        if start.start == "shared":
            yield start.name, id(tensor), tensor, None
        else:
            yield start.name, (start.block, id(tensor)), tensor, start
    device = next((tensor.device for tensor in tensors.values()), None)
    for readout in plan.readouts:
        precision = root.get_parameter(readout.weight).dtype
        zeros = torch.zeros(readout.size, readout.size, dtype=precision, device=device)
        yield readout.weight, readout.weight, nn.Parameter(zeros), None
