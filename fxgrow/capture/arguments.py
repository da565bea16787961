"""Other values of arguments that choose a course: flags, defaults, and those that the code of the class names."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fxgrow.capture.inputs import Inputs
from fxgrow.capture.recording import bound

_CHOICES = (bool, str, int, type(None))


def other_values(model: nn.Module, inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """Arguments of a forward with each value that they might have instead, as far as the forward tells.

    That is the other truth value of a flag, the default of what is called with something else, the constants that the
    code of its class compares an argument with, and the keys of what it looks up by one.
    """
    parameters = inspect.signature(model.forward).parameters
    called = bound(model, inputs)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        value = called.get(name, default)
        others: list[Any] = [] if default is parameter.empty else [default]
        said = str(parameter.annotation) if value is None else ""
        if isinstance(value, bool) or "bool" in said:
            others += [True, False]
        elif isinstance(value, (str, int)) or any(kind in said for kind in ("str", "int", "Literal")):
            others += _named_values(model).get(name, ())
        tried = [value]
        for other in others:
            if isinstance(other, _CHOICES) and not any(type(other) is type(t) and _same(other, t) for t in tried):
                tried.append(other)
                yield name, other


def with_argument(model: nn.Module, inputs: Inputs, name: str, value: Any = inspect.Parameter.empty) -> Inputs:
    """Inputs with another value of an argument; with its default where no value is said and it is not among them."""
    args, kwargs = inputs
    parameters = inspect.signature(model.forward).parameters
    place = list(parameters).index(name)
    if value is inspect.Parameter.empty:
        value = bound(model, inputs).get(name, parameters[name].default)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _same(first: Any, other: Any) -> bool:
    return not isinstance(first, Tensor) and not isinstance(other, Tensor) and bool(first == other)


@functools.lru_cache(maxsize=64)
def _code_of(kind: Any) -> ast.Module:
    """The code of a class and of those that it extends, but for torch's; without what is not at hand."""
    body: list[ast.stmt] = []
    for base in kind.__mro__:
        if not base.__module__.startswith(("torch.", "builtins")):
            try:
                body += ast.parse(textwrap.dedent(inspect.getsource(base))).body
            except (OSError, TypeError, SyntaxError):
                continue
    return ast.Module(body, [])


def _named_values(model: nn.Module) -> dict[str, list[Any]]:
    """What the code of a model compares each of its names with (`==`, `in`, `match`), and what it looks up by one."""
    kind: Any = type(model)
    values: dict[str, list[Any]] = {}
    for node in ast.walk(_code_of(kind)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name):
            values.setdefault(node.slice.id, []).extend(_keys(_attribute(model, node.value)))
            continue
        if isinstance(node, ast.Compare):
            sides: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject, *(case.pattern for case in node.cases)]
        else:
            continue
        constants = [part.value for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)]
        for side in sides:
            if isinstance(side, ast.Name):
                values.setdefault(side.id, []).extend(constants)
    return values


def _attribute(model: nn.Module, code: ast.expr) -> Any:
    """The value of code like `self.heads`."""
    if isinstance(code, ast.Name) and code.id == "self":
        return model
    return getattr(_attribute(model, code.value), code.attr, None) if isinstance(code, ast.Attribute) else None


def _keys(container: Any) -> list[Any]:
    if isinstance(container, (dict, nn.ModuleDict)):
        return list(container.keys())
    return list(range(len(container))) if isinstance(container, (list, tuple, nn.ModuleList, nn.Sequential)) else []
