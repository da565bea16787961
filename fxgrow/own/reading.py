"""Says which attributes the forward of a model may read, by the names in its code."""

from __future__ import annotations

from types import FunctionType

from torch import nn

from fxgrow.proof.code_between_parts import function_in, methods_of, names_reached

_BY_ANY_NAME = {"vars", "__dict__", "__getattribute__"}


def may_read(model: nn.Module, names: set[str]) -> set[str]:
    """Those of some names of attributes that the code which a forward can reach may read.

    What a name in the code leads to is looked up in every class of the model, so that too many may be said, not too
    few. Code of torch's own layers, and what is not written in Python, is left out.
    """
    methods: dict[str, list[FunctionType]] = {}
    for kind in {type(part) for part in model.modules()}:
        for name, function in methods_of(kind):
            methods.setdefault(name, []).append(function)
    waiting = [*methods.get("forward", ()), *methods.get("__call__", ())]
    for part in model.modules():
        held = (*part._forward_pre_hooks.values(), *part._forward_hooks.values(), vars(part).get("forward"))
        waiting += [function for function in map(function_in, held) if function is not None]
    mentioned = names_reached(waiting, methods)
    return names if mentioned & _BY_ANY_NAME else names & mentioned
