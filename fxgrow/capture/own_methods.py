"""Methods of a model that people call in place of its forward, on the same inputs."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import inspect
import logging
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from fxgrow.capture.capturing import Captured
from fxgrow.capture.flags import global_flags, with_flags
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.leavings import OF_ARGUMENT
from fxgrow.capture.methods import RUNNING, held_forward
from fxgrow.capture.recording import bound
from fxgrow.capture.skeleton import twin_of
from fxgrow.capture.source_code import code_of, is_unread
from fxgrow.modules.containers import of_kind
from fxgrow.modules.libraries import home_of, is_installed, is_known, is_pythons
from fxgrow.modules.shared_state import OF_FILE


def called_by(
    model: nn.Module,
    method: str,
    left: tuple[str, ...] = (),
    flags: Sequence[tuple[str, str, Any]] = (),
    after: int = 0,
) -> nn.Module:
    """A module over the very tensors of a model whose forward is another method of it, or gives more.

    method: of the model, perhaps `forward`. left: the paths of attributes whose values it gives as well, or of global
    names and arguments, of which it gives the tensors that are new. flags: other values of attributes and global names.
    after: how many calls with the same arguments go before.
    """
    twin = with_flags(model, flags)
    of_files = any(kind.startswith(OF_FILE) for kind, _, _ in flags)
    if method == "forward" and not left and not after and not of_files:
        return twin
    twin = twin_of(model, share=True) if twin is model else twin  # to which its hooks refer
    kind: Any = type(twin)
    plainly: Any = (held_forward(twin) if method == "forward" else None) or getattr(kind, method)
    twin.__dict__.pop("forward", None)

    signature = inspect.signature(plainly)

    @functools.wraps(plainly)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        shared = [path for path in left if path.startswith((OF_ARGUMENT, OF_FILE))]
        before = {id(tensor) for path in shared for tensor in of_kind(_left_in(path, self, arguments), Tensor)}
        with global_flags(self, flags):
            for _ in range(after):
                plainly(self, *args, **kwargs)
            value = plainly(self, *args, **kwargs)
        places = {path: _left_in(path, self, arguments) for path in left}
        new = {path: [t for t in of_kind(places[path], Tensor) if id(t) not in before] for path in shared}
        return (value, *{**places, **new}.values()) if left else value

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    twin.__class__ = type(kind.__name__, (kind,), names)
    return twin


def _left_in(path: str, model: nn.Module, given: dict[str, Any]) -> Any:
    """What an attribute of a model, a global name or an argument is; only the items of what is kept by sizes."""
    file, _, name = path.removeprefix(OF_FILE).rpartition(".")
    if path.startswith(OF_ARGUMENT):
        held = given[path.removeprefix(OF_ARGUMENT)]
    else:
        held = getattr(sys.modules[file], name) if path.startswith(OF_FILE) else operator.attrgetter(path)(model)
    by_size = isinstance(held, dict) and not all(isinstance(key, str) for key in held)
    return list(held.values()) if by_size else held


def methods_that_ran(captured: Captured) -> set[str]:
    """The methods of a model itself that its forward calls."""
    nodes = [node for graph in captured.graphs.values() for node in graph.nodes]
    return {run.method for node in nodes for run in node.meta.get(RUNNING, ()) if not run.path}


def other_methods(model: nn.Module, captured: Captured) -> Iterator[tuple[str, Inputs]]:
    """The methods of a user's own class that its forward does not call, and what of the inputs each is called with.

    Left out are those that want something else, and those whose code may do more than compute: they are not run.
    """
    called = bound(model, captured.inputs)
    seen = set(dir(nn.Module)) | methods_that_ran(captured)
    for kind in type(model).__mro__:
        if is_known(kind) or kind is object:
            continue
        for name, value in vars(kind).items():
            if name.startswith("_") or name in seen or not isinstance(value, FunctionType):
                continue
            seen.add(name)
            _, *parameters = inspect.signature(value).parameters.values()
            needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
            if needed and all(argument in called for argument in needed) and _computes_only(value, model):
                yield name, ((), {argument: called[argument] for argument in needed})


_HARMLESS = {"abs", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "range", "reversed"}
_HARMLESS |= {"all", "any", "callable", "divmod", "filter", "hash", "id", "iter", "map", "next", "pow", "repr", "type"}
_HARMLESS |= {"round", "slice", "sorted", "sum", "super", "tuple", "zip", "getattr", "hasattr", "print"}
_LIBRARIES = {"torch", "timm", "torchvision", "einops", "math", "numpy", "warnings", "enum", "typing", "collections"}
_LIBRARIES |= {"contextlib", "copy", "dataclasses", "functools", "itertools", "logging", "operator", "random", "time"}
_ACTING = {"save", "load", "savez", "savetxt", "tofile", "dump", "write", "system", "manual_seed", "seed", "set_state"}
_ACTING |= {"setstate", "load_state_dict", "backward", "step"}
"""What functions of libraries and methods are called that do more than compute."""


def only_compute(model: nn.Module, ran: Iterable[str]) -> bool:
    """Whether the forwards of a user's own classes do nothing but compute, whatever they are called with.

    ran: the methods of the model that its forward calls.
    """
    return all(_computes_only(function, owner, True) for function, owner in _that_run(model, ran))


def run_unread(model: nn.Module, ran: Iterable[str]) -> bool:
    """Whether the code of some forward of a user's own classes is not at hand."""
    return any(is_unread(function) for function, _ in _that_run(model, ran))


def _that_run(model: nn.Module, ran: Iterable[str]) -> Iterator[tuple[Any, nn.Module]]:
    parts = (part for part in model.modules() if not (is_known(type(part)) or _is_of_a_growth(part)))
    kinds: dict[Any, nn.Module] = {type(part): part for part in parts}
    named = [(model, name) for name in ran] + [(part, "forward") for part in kinds.values()]
    functions = ((getattr(owner, name, None), owner) for owner, name in named)
    return ((function, owner) for function, owner in functions if function is not None)


def _is_of_a_growth(part: nn.Module) -> bool:
    """Whether a part is of a class of fxgrow, such as a norm over old units; edited classes stay the user's."""
    return home_of(type(part)).partition(".")[0] == "fxgrow"


def _computes_only(method: Any, owner: nn.Module | None, assigning: bool = False, within: tuple[Any, ...] = ()) -> bool:
    """Whether the code of a function calls nothing but what computes.

    owner: of a method. assigning: whether it may assign to attributes and items, too. within: functions that call it.
    """
    function, code = inspect.unwrap(method), code_of(method)
    if code is None:
        return False
    for node in ast.walk(code):
        if isinstance(node, (ast.Global, ast.Nonlocal, ast.Await, ast.Yield)):
            return False
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not _imports_libraries(node):
            return False
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not (assigning or isinstance(node.ctx, ast.Load)):
            return False
        if isinstance(node, ast.Call) and not _is_harmless(node.func, function, owner, (*within, function)):
            return False
    return True


def _imports_libraries(code: ast.Import | ast.ImportFrom) -> bool:
    """Whether what a function imports are libraries, or of them what does no more than compute."""
    names = [alias.name for alias in code.names]
    if isinstance(code, ast.ImportFrom):
        return not code.level and str(code.module).partition(".")[0] in _LIBRARIES and _ACTING.isdisjoint(names)
    return all(name.partition(".")[0] in _LIBRARIES for name in names)


def _is_harmless(called: ast.expr, caller: Any, owner: nn.Module | None, within: tuple[Any, ...]) -> bool:
    if isinstance(called, ast.Attribute) and called.attr in _ACTING:
        return False
    attribute = ""
    while isinstance(called, (ast.Attribute, ast.Subscript, ast.Call)):
        attribute = called.attr if isinstance(called, ast.Attribute) else attribute
        called = called.func if isinstance(called, ast.Call) else called.value
    if not isinstance(called, ast.Name) or called.id in _HARMLESS:
        return True  # of something that is computed
    if called.id == "self" and owner is not None:
        held = getattr(owner, attribute, None)
        if held is None or isinstance(held, _PARTS) or getattr(held, "__self__", None) is owner:
            return True
        of_class = inspect.getattr_static(type(held), "__call__", None)
        return len(within) < 5 and isinstance(of_class, FunctionType) and _computes_only(of_class, None, True, within)
    is_local = called.id in (*caller.__code__.co_varnames, *caller.__code__.co_cellvars)
    value = None if is_local else caller.__globals__.get(called.id, getattr(builtins, called.id, None))
    if value is None or isinstance(value, logging.Logger):
        return True  # an argument, or what the function made; what is logged is kept back
    if isinstance(value, type) and issubclass(value, BaseException):
        return True
    home = value.__name__ if isinstance(value, ModuleType) else home_of(value)
    if home.partition(".")[0] in _LIBRARIES or value in within:
        return True
    if is_pythons(home) and home.partition(".")[0] != "builtins":
        return False
    if isinstance(value, type):
        value = _constructor(value)
    if value is None:
        return True
    return isinstance(value, FunctionType) and len(within) < 5 and _computes_only(value, None, True, within)


def _constructor(kind: type) -> Any:
    """The code of a user's own that runs as an object of a class is made; None where there is none."""
    if dataclasses.is_dataclass(kind):
        after = getattr(kind, "__post_init__", None)
        return None if is_installed(after) else after  # as of transformers' outputs
    code = inspect.getattr_static(kind, "__init__")
    return None if hasattr(kind, "_fields") or code is object.__init__ else code


_PARTS = (nn.Module, Tensor, list, tuple, dict, str, int, float, FunctionType, BuiltinFunctionType, functools.partial)
