"""Methods of a model that people call in place of its forward, on the same inputs."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import operator
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from fxgrow.capture.capturing import Captured
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.methods import RUNNING
from fxgrow.capture.recording import bound
from fxgrow.libraries import is_known


def called_by(model: nn.Module, method: str, left: tuple[str, ...] = ()) -> nn.Module:
    """A module over the very parts of a model whose forward is another method of it, or gives more.

    method: of the model, perhaps `forward`. left: the paths of attributes whose values it gives as well.
    """
    if method == "forward" and not left:
        return model
    kind: Any = type(model)
    twin: nn.Module = object.__new__(kind)
    twin.__dict__.update(vars(model))
    plainly = getattr(kind, method)

    @functools.wraps(plainly)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        value = plainly(self, *args, **kwargs)
        return (value, *(operator.attrgetter(path)(self) for path in left)) if left else value

    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    twin.__class__ = type(kind.__name__, (kind,), names)
    return twin


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
            if needed and all(argument in called for argument in needed) and _computes_only(value):
                yield name, ((), {argument: called[argument] for argument in needed})


_HARMLESS = {"abs", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "max", "min", "range", "reversed"}
_HARMLESS |= {"round", "slice", "sorted", "sum", "tuple", "zip", "getattr", "hasattr"}
_LIBRARIES = {"torch", "timm", "torchvision", "einops", "math", "numpy"}


def _computes_only(method: Any) -> bool:
    """Whether the code of a method calls nothing but methods and functions of libraries, and assigns to names only."""
    function: Any = inspect.unwrap(method)
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    for node in ast.walk(code):
        if isinstance(node, (ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom, ast.Await, ast.Yield)):
            return False
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            return False
        if isinstance(node, ast.Call) and not _is_harmless(node.func, function.__globals__):
            return False
    return True


def _is_harmless(called: ast.expr, names: dict[str, Any]) -> bool:
    while isinstance(called, (ast.Attribute, ast.Subscript, ast.Call)):
        called = called.func if isinstance(called, ast.Call) else called.value
    if not isinstance(called, ast.Name):
        return True  # of something that is computed
    value = names.get(called.id, getattr(builtins, called.id, None))
    if value is None or called.id in _HARMLESS:
        return True  # of an argument, or of what the method made
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
    return home.partition(".")[0] in _LIBRARIES
