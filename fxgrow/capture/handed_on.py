"""The code that arguments and attributes are handed on to: of parts, functions and objects that a forward calls.

It is given with the names that things have in the forward: where `self.act(h, mode)` calls a part whose forward asks
`kind == "relu"`, what is compared there is `mode`.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from fxgrow.capture.source_code import code_of, functions_of, walked
from fxgrow.modules.holders import content_of
from fxgrow.modules.libraries import home_of, is_known, is_library

_SELF = ast.Name("self", ast.Load())


def code_run(model: nn.Module, methods: frozenset[str], names: Collection[str] = ()) -> list[ast.AST]:
    """The code of some methods of a model, piece by piece, and of what they call with arguments of some names.

    What is called with the model itself or with its attributes, or is closed over the model, is looked into as well.
    Code of torch, timm and other libraries is left out.
    """
    own = [(function, code) for function in functions_of(model, methods) if (code := code_of(function)) is not None]
    handed = handed_on(model, own, names)
    return [*walked(model, methods), *(node for code in handed for node in ast.walk(code))]


def handed_on(model: nn.Module, own: Sequence[tuple[Any, ast.AST]], names: Collection[str]) -> Iterator[ast.AST]:
    """The code of what is called with some arguments, with the model itself or with its attributes.

    own: the methods of the model that run, each with its code.
    """
    waiting, methods = list(own), {inspect.unwrap(function) for function, _ in own}
    seen: set[tuple[Any, str]] = set()
    while waiting:
        caller, code = waiting.pop()
        parts = _parts_gone_through(model, code)
        for call in (node for node in ast.walk(code) if isinstance(node, ast.Call)):
            for called, by in _called(model, caller, call.func, parts):
                function, own_names = _as_function(model, called, by)
                if function is None or is_known(function) or is_library(home_of(function)):
                    continue
                told = _arguments(function, call, names, len(own_names))
                told |= {name: _SELF for name, held in _closed_over(function).items() if held is model}
                if inspect.unwrap(function) in methods:
                    told = {n: value for n, value in told.items() if not isinstance(value, ast.Name) or value.id != n}
                key = function, ", ".join(f"{name}={ast.dump(value)}" for name, value in sorted(told.items()))
                inside = code_of(function) if told and key not in seen else None
                seen.add(key)
                if inside is not None:
                    named = _Renamed({**own_names, **told}, function).visit(copy.deepcopy(inside))
                    waiting.append((function, named))
                    yield named


def _called(
    model: nn.Module, caller: Any, code: ast.expr, parts: Mapping[str, list[nn.Module]]
) -> Iterator[tuple[Any, ast.expr]]:
    """What some code that is called may be, with the code by which it goes.

    parts: of the model, by the names under which code goes through them.
    """
    if isinstance(code, ast.Subscript):
        yield from ((part, code) for part in _of_each_class(_at(model, code.value)))
    elif isinstance(code, ast.Name) and code.id in parts:
        yield from ((part, code) for part in parts[code.id])
    elif isinstance(code, ast.Name):
        globally = getattr(inspect.unwrap(caller), "__globals__", {}).get(code.id)
        yield _closed_over(caller).get(code.id, globally), code
    else:
        yield _at(model, code), code


def _parts_gone_through(model: nn.Module, code: ast.AST) -> dict[str, list[nn.Module]]:
    """The parts of a model, one of each class, that loops go through, by the names that they have there."""
    parts: dict[str, list[nn.Module]] = {}
    for node in ast.walk(code):
        if isinstance(node, (ast.For, ast.comprehension)):
            chains = (each for each in ast.walk(node.iter) if isinstance(each, ast.Attribute))
            inside = [part for chain in chains for part in _of_each_class(_at(model, chain))]
            for target in ast.walk(node.target):
                if isinstance(target, ast.Name):
                    parts.setdefault(target.id, []).extend(inside)
    return parts


def _of_each_class(container: Any) -> list[nn.Module]:
    """One of each class of the parts in a container, and of what these hold."""
    if not isinstance(container, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
        return []
    return list({type(part): part for part in reversed(list(container.modules()))}.values())


def _at(model: nn.Module, code: ast.expr) -> Any:
    """What code such as `self.blocks.norm` stands for; None where it does not say."""
    if isinstance(code, ast.Name):
        return model if code.id == "self" else None
    return _held(_at(model, code.value), code.attr) if isinstance(code, ast.Attribute) else None


def _held(holder: Any, name: str) -> Any:
    """An attribute of an object, or a method; None where it has none such. No property of a user's own is run."""
    for own in (getattr(holder, "__dict__", {}), getattr(holder, "_modules", {})):
        if name in own:
            return own[name]
    of_class = inspect.getattr_static(type(holder), name, None)
    if isinstance(of_class, FunctionType):
        return MethodType(of_class, holder)
    return getattr(of_class, "__func__", None if hasattr(type(of_class), "__get__") else of_class)


def _as_function(model: nn.Module, called: Any, code: ast.expr) -> tuple[Any, dict[str, ast.expr]]:
    """The function that runs where something is called, and the code of what it is given before its arguments."""
    if isinstance(called, functools.partial):
        function, given = _as_function(model, called.func, code)
        names = [name for name in _parameters(function) if name not in given] if function is not None else []
        return function, given | dict.fromkeys(names[: len(called.args)], code)
    if isinstance(called, MethodType):
        owner = _SELF if called.__self__ is model else code
        return called.__func__, dict.fromkeys(_parameters(called.__func__)[:1], owner)
    if isinstance(called, nn.Module):
        held = vars(called).get("forward")
        if held is not None:
            return _as_function(model, held, code)
        return type(called).forward, dict.fromkeys(_parameters(type(called).forward)[:1], code)
    if isinstance(called, FunctionType):
        return called, {}
    of_class = inspect.getattr_static(type(called), "__call__", None)
    if isinstance(of_class, FunctionType):
        return of_class, dict.fromkeys(_parameters(of_class)[:1], code)
    return None, {}


def _parameters(function: Any) -> list[str]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) if code is not None else []


def _arguments(function: Any, call: ast.Call, names: Collection[str], before: int) -> dict[str, ast.expr]:
    """The parameters of a function that a call gives one of some names, the model or one of its attributes."""
    free = _parameters(function)[before:]
    starred = next((k for k, value in enumerate(call.args) if isinstance(value, ast.Starred)), len(call.args))
    passed = [*zip(free, call.args[:starred], strict=False), *((word.arg, word.value) for word in call.keywords)]
    return {name: value for name, value in passed if name in free and _is_told(value, names)}


def _is_told(code: ast.expr, names: Collection[str]) -> bool:
    """Whether some code is one of some names, the model or one of its attributes."""
    holder = code.value if isinstance(code, ast.Attribute) else code
    return isinstance(holder, ast.Name) and (holder.id == "self" or (holder is code and holder.id in names))


def _closed_over(function: Any) -> dict[str, Any]:
    """What the free names of a function stand for."""
    plain = inspect.unwrap(function)
    cells = getattr(plain, "__closure__", None) or ()
    return dict(zip(plain.__code__.co_freevars, map(content_of, cells), strict=True)) if cells else {}


class _Renamed(ast.NodeTransformer):
    """Gives the names of a function those that things have where it is called; its other own names get new ones."""

    def __init__(self, names: Mapping[str, ast.expr], function: Any) -> None:
        self.names = names
        self.own = {*inspect.unwrap(function).__code__.co_varnames, *inspect.unwrap(function).__code__.co_cellvars}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.names:
            return self.names[node.id]
        return ast.Name(f"{node.id}'", node.ctx) if node.id in self.own or node.id == "self" else node
