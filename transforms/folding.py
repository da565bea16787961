"""The folding pass: multipliers that make up for rescaled weights go into the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import fx, nn

from fxgrow import guards
from fxgrow.capture.modes import GrownGraphModule
from fxgrow.modules.tensors import tensors_named
from fxgrow.rules.calls import Call
from fxgrow.rules.registry import law_of_call


def fold_multipliers(grown: GrownGraphModule) -> GrownGraphModule:
    """A copy of a grown module without multipliers: each weight takes up the one before its layer."""
    result = copy.deepcopy(grown)
    fold_in_place(result, set())
    return result


def fold_in_place(result: GrownGraphModule, scaled: set[int]) -> None:
    """As `fold_multipliers`; scaled: the weights, by identity, that have taken theirs up already."""
    factors = taken_out(result.graphs(), result.get_submodule)
    tensors = tensors_named(result, factors)
    with torch.no_grad():
        for name, factor in factors.items():
            weight = tensors[name]
            if id(weight) not in scaled:
                scaled.add(id(weight))
                weight.mul_(factor)
    result.recompile()


def taken_out(graphs: Mapping[str, fx.Graph], part: Callable[[str], nn.Module]) -> dict[str, float]:
    """Take multipliers out of graphs; returns the weights of the layers that read them, and the factors for these.

    part: a part of the model, by its path.
    """
    factors: dict[str, float] = {}
    for graph in graphs.values():
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target is not guards.multiplied:
                continue
            x, factor = node.args
            assert isinstance(x, fx.Node) and isinstance(factor, float)
            for user in node.users:
                name = weight_of(user, part(str(user.target)) if user.op == "call_module" else None)
                assert factors.setdefault(name, factor) == factor, "one weight, one factor"
            node.replace_all_uses_with(x)
            graph.erase_node(node)
        graph.lint()
    return factors


def weight_of(layer: fx.Node, module: nn.Module | None = None) -> str:
    """The name of the weight of a layer or of a call that applies one."""
    law = law_of_call(layer, module)
    weight = Call(layer, module, law).weight(1, "weight") if law is not None else None
    assert weight is not None, "only layers with weights read it"
    return str(weight.target) if isinstance(weight, fx.Node) else weight
