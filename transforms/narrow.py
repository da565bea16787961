"""The narrowing pass: makes the narrow graph module from a captured model and a list of what to keep."""

from __future__ import annotations

import torch
from fxgrow.transforms.graph_edits import edit_graphs
from torch import fx, nn

from fxgrow.capture import Captured, assemble
from fxgrow.modules.tensors import as_registered, each_once, named_tensors, place
from fxgrow.planning.edits import set_attributes
from fxgrow.planning.narrowing import Narrowing


def narrow(captured: Captured, narrowing: Narrowing, source: nn.Module) -> fx.GraphModule:
    """The narrow model, with weights of its own.

    Parameters
    ----------
    captured: the structure; it is consumed.
    source: holds the tensors that `captured` was taken from; never written to.
    """
    tensors = named_tensors(source)

    def narrower(name: str) -> torch.Tensor:
        data, kept = tensors[name].detach().clone(), narrowing.tensors.get(name)
        if kept is not None:
            for axis, positions in enumerate(kept.positions):
                data = data.index_select(axis, torch.tensor(positions, device=data.device))
            data = data * kept.scale
        return as_registered(data, tensors[name])

    for name, tensor in each_once(tensors, narrower).items():
        place(captured.model, name, tensor)
    set_attributes(captured.model, narrowing.attributes)
    edit_graphs(captured.graphs, narrowing.nodes)
    return assemble(captured.model, captured.graphs)
