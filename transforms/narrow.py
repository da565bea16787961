"""The narrowing pass: makes the narrow graph module from a captured model and a list of what to keep."""

from __future__ import annotations

import torch
from fxgrow.transforms.graph_edits import edit_graphs
from torch import fx, nn

from fxgrow.capture import Captured, assemble
from fxgrow.module_tensors import as_registered, named_tensors, place
from fxgrow.planning.edits import set_attributes
from fxgrow.planning.narrowing import Narrowing


def narrow(captured: Captured, narrowing: Narrowing, source: nn.Module) -> fx.GraphModule:
    """The narrow model, with weights of its own.

    Parameters
    ----------
    captured: the structure; it is consumed.
    source: holds the tensors that `captured` was taken from; never written to.
    """
    tensors: dict[int, torch.Tensor] = {}
    for name, tensor in named_tensors(source).items():
        if id(tensor) not in tensors:
            narrow_tensor = narrowing.tensors.get(name)
            data = tensor.detach().clone()
            if narrow_tensor is not None:
                for axis, positions in enumerate(narrow_tensor.positions):
                    data = data.index_select(axis, torch.tensor(positions, device=data.device))
                data = data * narrow_tensor.scale
            new = as_registered(data, tensor)
            tensors[id(tensor)] = new
        place(captured.model, name, tensors[id(tensor)])
    set_attributes(captured.model, narrowing.attributes)
    edit_graphs(captured.graphs, narrowing.nodes)
    return assemble(captured.model, captured.graphs)
