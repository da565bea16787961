"""The folding pass: multipliers that make up for rescaled weights go into the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import fx, nn

from fxgrow import guards
from fxgrow.capture.modes import GrownGraphModule, ModalGraphModule


def fold_multipliers(grown: GrownGraphModule) -> GrownGraphModule:
    """A copy of a grown module without multipliers: each weight takes up the one before its layer."""
    result = copy.deepcopy(grown)
    graphs = result.graphs()
    factors: dict[str, float] = {}
    for graph in graphs.values():
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target is not guards.multiplied:
                continue
            x, factor = node.args
            assert isinstance(x, fx.Node) and isinstance(factor, float)
            for name in weights_after(node):
                assert factors.setdefault(name, factor) == factor, "one weight, one factor"
            node.replace_all_uses_with(x)
            graph.erase_node(node)
        graph.lint()
    scaled: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, factor in factors.items():
            weight = _tensor(result, name)
            if scaled.setdefault(id(weight), weight) is weight:
                weight.mul_(factor)
    if isinstance(result, ModalGraphModule):
        result._by_mode = graphs
        result.graph = graphs["train" if result.training else "eval"]
    result.recompile()
    return result


def weights_after(multiplier: fx.Node) -> Iterator[str]:
    """The weights of the layers that read a multiplied input."""
    for user in multiplier.users:
        if user.op == "call_module":
            yield f"{user.target}.weight"
        else:
            weight = user.args[1]
            assert isinstance(weight, fx.Node)
            yield str(weight.target)


def _tensor(root: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    tensor = getattr(root.get_submodule(path), leaf)
    assert isinstance(tensor, torch.Tensor)
    return tensor
