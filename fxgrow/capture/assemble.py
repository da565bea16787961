"""From a module tree with tensors and graphs over it to a graph module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture.contexts import Settled
from fxgrow.capture.modes import HOOKS, GrownGraphModule, graph_module
from fxgrow.capture.norms import called_norms
from fxgrow.capture.outputs import Form
from fxgrow.capture.traced import Traced, fixed_by
from fxgrow.modules.libraries import is_library
from fxgrow.modules.tensors import dotted
from fxgrow.rules.calls import targets

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Undecayed:
    """A model's `no_weight_decay()`, as data."""

    names: frozenset[str]

    def __call__(self) -> set[str]:
        return set(self.names)


def assemble(
    root: nn.Module, graphs: dict[str, fx.Graph], classes: bool = False, form: Form | None = None
) -> GrownGraphModule:
    """The graph module that runs `graphs` over the modules of `root`, in the order of `root`.

    Containers that were traced through keep their names but lose their class, whose attributes could go
    stale, and refuse new values of those that the graphs have as they were; sequences and dictionaries of modules stay
    what they are. With `classes`, they keep class and attributes for the sake of their other methods. Norms over old
    units become modules where they can; the graphs are edited for that. `form`: the class of the output.
    """
    norms = called_norms(root, graphs.values())
    called = targets(graphs.values(), "call_module")
    constants = targets(graphs.values(), "get_attr")
    twins: dict[int, nn.Module] = {}
    fixed = fixed_by(root, graphs.values())

    def plain(module: nn.Module, path: str) -> nn.Module:
        if id(module) in norms:
            return norms[id(module)]
        if path in called or id(module) in leaves:
            return _as_plain(module)
        if id(module) not in twins:
            twin = _emptied(module) if classes else _container(module)
            twins[id(module)] = twin
            for name in ("_parameters", "_buffers", "_non_persistent_buffers_set", "training"):
                twin.__dict__[name] = module.__dict__[name]
            if isinstance(twin, Traced):
                twin.__dict__["fixed"] = {*fixed.get(path, ()), *getattr(module, "fixed", ())}
            for name, child in module._modules.items():
                below = dotted(path, name)
                twin._modules[name] = plain(child, below) if child is not None else None
        return twins[id(module)]

    leaves = {id(root.get_submodule(path)) for path in called}
    result = graph_module(plain(root, ""), graphs, type(root).__name__)
    result.__dict__["fixed"] = {*fixed.get("", ()), *getattr(root, "fixed", ())}
    for hooks in HOOKS:  # a graph holds what the parts of a model run, but not what runs around the whole
        result.__dict__[hooks] = copy.copy(root.__dict__[hooks])
    undecayed = getattr(root, "no_weight_decay", None)  # what timm's parameter groups ask a model for
    if callable(undecayed):
        result.no_weight_decay = Undecayed(frozenset(undecayed()))
    for path in constants:
        _carry_constant(root, result, path)
    if form is not None:
        result.put_out_as(form)
    return result


def parts_left_out(model: nn.Module, graphs: Iterable[fx.Graph]) -> Iterator[Settled]:
    """Hooks and extra state of parts that graphs do not call.

    Hooks of libraries are left out; a record refuses backward ones.
    """
    called = targets(graphs, "call_module")
    for path, part in model.named_modules():
        if any(f"{path}.".startswith(f"{each}.") for each in called):
            continue
        kinds = [kind for kind, names in _KINDS.items() if (path or kind == _SAVED) and any(_hooks(part, names))]
        if kinds:
            yield Settled(f"hooks ({', '.join(kinds)})", path or type(model).__name__)
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            yield Settled("extra state", path or type(model).__name__)


_SAVED = "state dict"
_KINDS = {
    "forward": ("_forward_hooks", "_forward_pre_hooks"),
    _SAVED: ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
}


def _hooks(part: nn.Module, names: tuple[str, ...]) -> Iterator[bool]:
    for hook in (hook for name in names for hook in part.__dict__.get(name, {}).values()):
        plain = getattr(hook, "hook", hook)  # torch wraps those that take the module
        plain = plain.func if isinstance(plain, functools.partial) else plain
        yield not is_library(getattr(plain, "__module__", None) or type(plain).__module__)


def _as_plain(module: nn.Module) -> nn.Module:
    """A layer as a graph calls it: where it multiplies its input, the graph does that in a node of its own."""
    kind = getattr(type(module), "plain_kind", None)
    if kind is None:
        return module
    twin: nn.Module = object.__new__(kind)
    twin.__dict__.update({name: value for name, value in module.__dict__.items() if name != "factor"})
    return twin


def _emptied(module: nn.Module) -> nn.Module:
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(module.__dict__, _modules={})
    return twin


def _container(module: nn.Module) -> nn.Module:
    for kind in _CONTAINERS:
        if isinstance(module, kind):
            return kind()
    return Traced()


def _carry_constant(root: nn.Module, tree: nn.Module, path: str) -> None:
    """Keep what a forward held on to besides parameters and buffers; tensors then follow `.to()`."""
    owner, _, name = path.rpartition(".")
    value: Any = getattr(root.get_submodule(owner), name)
    target = tree.get_submodule(owner)
    if hasattr(target, name):
        return
    if isinstance(value, torch.Tensor):
        target.register_buffer(name, value.detach().clone(), persistent=False)
    else:
        setattr(target, name, value)
