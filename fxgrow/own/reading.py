"""Says what the forward of a model reads: tensors and layers, by its graphs; attributes, by the names in its code."""

from __future__ import annotations

import dis
import sys
from collections.abc import Collection, Iterable
from types import CodeType, FunctionType

from torch import fx, nn

from fxgrow.modules.libraries import home_of
from fxgrow.modules.tensors import tied_names
from fxgrow.proof.code_between_parts import function_in, functions_reached, methods_of
from fxgrow.rules.calls import targets

_BY_ANY_NAME = {"vars", "__dict__", "__getattribute__"}


def read_by(model: nn.Module, graphs: Iterable[fx.Graph]) -> set[str]:
    """The tensors and layers of a model that graphs read; tied tensors by each of their names."""
    graphs = list(graphs)
    read = targets(graphs, "get_attr") | targets(graphs, "call_module")
    tied = tied_names(model).items()
    return read.union(*(names for name, names in tied if not read.isdisjoint((name, name.rpartition(".")[0]))))


def may_read(model: nn.Module, attributes: Collection[tuple[nn.Module, str]]) -> set[str]:
    """The names among those of some attributes, which are numbers, that the code a forward can reach may read.

    What a name in the code leads to is looked up in every class of the model, so that too many may be said, not too
    few. Code of torch's own layers and of fxgrow, what is not written in Python, names of what is called at once
    (`x.dim()`), and what a method reads of its own module where that is another one are left out.
    """
    names = {name for _, name in attributes}
    methods: dict[str, list[FunctionType]] = {}
    owned: dict[FunctionType, set[str]] = {}
    for kind in {type(part) for part in model.modules()}:
        own = {name for module, name in attributes if isinstance(module, kind)}
        for name, function in methods_of(kind):
            methods.setdefault(name, []).append(function)
            owned.setdefault(function, set()).update(own)
    waiting = [*methods.get("forward", ()), *methods.get("__call__", ())]
    for part in model.modules():
        held = (*part._forward_pre_hooks.values(), *part._forward_hooks.values(), vars(part).get("forward"))
        waiting += [function for function in map(function_in, held) if function is not None]
    mentioned: set[str] = set()
    for function, read in functions_reached(waiting, methods):
        if home_of(function).partition(".")[0] != "fxgrow":
            others = names - owned.get(function, names)
            mentioned |= read - _beside_the_point(function.__code__, others) if read & names else read
    return names if mentioned & _BY_ANY_NAME else names & mentioned


def _beside_the_point(code: CodeType, others: set[str]) -> set[str]:
    """Names of attributes that code looks up for nothing but to call them, or, of some others, in its own module."""
    aside: set[str] = set()
    otherwise: set[str] = set()
    waiting = [code]
    while waiting:
        part = waiting.pop()
        waiting += [constant for constant in part.co_consts if isinstance(constant, CodeType)]
        otherwise |= {constant for constant in part.co_consts if isinstance(constant, str)}
        before = None
        for step in dis.get_instructions(part):
            if step.argval in part.co_names:
                of_self = part is code and before is not None and (before.argval,) == code.co_varnames[:1]
                leaves_out = _is_method_call(step) or (step.argval in others and of_self)
                (aside if leaves_out else otherwise).add(str(step.argval))
            before = step
    return aside - otherwise


def _is_method_call(step: dis.Instruction) -> bool:
    at_once = sys.version_info >= (3, 12) and step.opname == "LOAD_ATTR" and bool((step.arg or 0) & 1)
    return at_once or step.opname == "LOAD_METHOD"
