"""Other values of arguments that choose a course: flags, defaults, and those that the code of the class names."""

from __future__ import annotations

import ast
import enum
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import Inputs
from fxgrow.capture.methods import code_of
from fxgrow.capture.recording import bound
from fxgrow.containers import flat_tensors
from fxgrow.holders import attributes_of, held_by, holding, is_object
from fxgrow.libraries import is_known, is_library

ANY = object()
"""Stands for every other value of an argument, of which there are too many to try."""

ANOTHER = "another"
"""Stands for a text that the code of a model does not name."""


class Cut(int):
    """Another number than the code of a model names, by which an axis may be cut or taken apart."""


_CHOICES = (bool, str, int, float, tuple, enum.Enum, type(None))


def other_values(model: nn.Module, inputs: Inputs, ran: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
    """Arguments of a forward with each value that they might have instead, as far as the forward tells.

    That is the other truth value of a flag, and of what its code asks for one; the default of what is called with
    something else; the members of an Enum; other activations in place of a function; what its code compares an argument
    with, and something else; the keys of what it looks up by one, and those that it looks for in one. Of what it looks
    up by a name (`getattr`), every other one: `ANY`.

    ran: the methods of the model that the forward calls.
    """
    methods = frozenset({"forward", *ran})
    called = bound(model, inputs)
    parameters = inspect.signature(model.forward).parameters
    values = {name: called.get(name, p.default) for name, p in parameters.items() if p.kind not in _STARRED}
    named, asked = named_values(model, methods), _asked(model, methods)
    for name, value in values.items():
        default = parameters[name].default
        said = str(parameters[name].annotation) if value is None else ""
        others: list[Any] = [] if default is inspect.Parameter.empty else [default]
        if isinstance(value, bool) or "bool" in said:
            others += [True, False]
        elif isinstance(value, enum.Enum):
            others += type(value)
        elif callable(value):
            others += _ACTIVATIONS
        elif isinstance(value, (str, int, float, tuple)) or any(kind in said for kind in (*_KINDS, "_empty")):
            others += [*named.get(name, ()), *_besides(named.get(name, ())), *_other_truth(value, asked.get(name, ""))]
            if type(value) is int and (cut := Cut(value // 2 if value > 1 else value + 1)) not in others:
                others.append(cut)
        yield from each_other(name, value, others)
        if asked.get(name) == "getattr" and isinstance(value, str):
            yield name, ANY
        for key, item in _looked_for(model, methods, name).items() if isinstance(value, dict) else ():
            if isinstance(held := value.get(key, item), (bool, type(None))):
                yield name, {**value, key: not held}
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            for name, value in _looked_for(model, methods, parameter.name).items():
                if name not in values and name not in called.get(f"**{parameter.name}", {}):
                    further = [not value] if isinstance(value, bool) else [True, *named.get(name, ())]
                    yield from each_other(name, inspect.Parameter.empty, [value, *further])


def tensors_in_place_of_none(
    model: nn.Module, inputs: Inputs, read: Collection[str], ran: Iterable[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Arguments of a user's own forward that are None and may be tensors, each with such as people have.

    These are labels of the samples, what is like an input, a mask of the positions, and what layers read that the
    forward has not called. Keywords, and keys of dictionaries, are left out where others are None.

    read: the paths of the layers that it has called. ran: the methods of the model that the forward calls.
    """
    like = next((tensor for tensor in flat_tensors(inputs) if tensor.ndim), None)
    if like is None or is_known(type(model)):
        return
    shapes: list[tuple[Any, torch.dtype]] = [(like.shape[:1], torch.long), (like.shape, like.dtype)]
    shapes += [((*like.shape[:-1], 1), like.dtype)] if like.ndim > 1 else []
    if like.ndim > 2:
        mask = (like.shape[:-1], torch.bool) if like.ndim == 3 else ((like.shape[0], 1, *like.shape[2:]), like.dtype)
        shapes.append(mask)
    unread = (part for path, part in model.named_modules() if isinstance(part, nn.Linear) and path not in read)
    shapes += [((like.shape[0], size), like.dtype) for size in sorted({part.in_features for part in unread})]
    tensors = [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in shapes]
    called, methods = bound(model, inputs), frozenset({"forward", *ran})
    parameters = inspect.signature(model.forward).parameters
    for name, parameter in parameters.items():
        said, value = str(parameter.annotation), called.get(name)
        if parameter.kind is parameter.VAR_KEYWORD:
            there = {*parameters, *called.get(f"**{name}", {})}
            keys = [key for key in _looked_for(model, methods, name) if key not in there]
            yield from ((key, tensor) for key in keys for tensor in tensors)
        elif isinstance(value, dict):
            for key in _looked_for(model, methods, name):
                if key in value:
                    yield name, {other: item for other, item in value.items() if other != key}
                else:
                    yield from ((name, {**value, key: tensor}) for tensor in tensors)
        elif is_object(value):
            held = attributes_of(value)
            for attribute in [name for name, item in held.items() if item is None]:
                yield from ((name, holding(value, {**held, attribute: tensor})) for tensor in tensors)
        elif parameter.default is None and value is None and ("Tensor" in said or not _says_no_tensor(said)):
            yield from ((name, tensor) for tensor in tensors)


def _says_no_tensor(annotation: str) -> bool:
    return any(kind in annotation for kind in (*_KINDS, "bool", "dict", "list", "Callable"))


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ACTIVATIONS = (nn.functional.relu, nn.functional.gelu, nn.functional.silu, torch.relu, torch.sigmoid, torch.tanh)
_KINDS = ("str", "int", "float", "tuple", "Literal")


def each_other(name: str, value: Any, others: list[Any]) -> Iterator[tuple[str, Any]]:
    """A name with each of some other values that can be told apart from its value and from each other."""
    tried = [value]
    for other in others:
        is_choice = isinstance(other, _CHOICES) or any(other is each for each in _ACTIVATIONS)
        if is_choice and not any(type(other) is type(t) and bool(other == t) for t in tried):
            tried.append(other)
            yield name, other


def with_argument(model: nn.Module, inputs: Inputs, name: str, value: Any = inspect.Parameter.empty) -> Inputs:
    """Inputs with another value of an argument; with its default where no value is said and it is not among them."""
    args, kwargs = inputs
    parameters = inspect.signature(model.forward).parameters
    place = list(parameters).index(name) if name in parameters else len(args)
    if value is inspect.Parameter.empty:
        if name not in parameters:
            return inputs
        value = bound(model, inputs).get(name, parameters[name].default)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _functions(model: nn.Module, methods: frozenset[str]) -> Iterator[Any]:
    """Methods of a class and of those that it extends, but for torch's."""
    for base in type(model).__mro__:
        if not base.__module__.startswith("torch."):
            yield from (vars(base)[name] for name in methods & vars(base).keys())


def _walked(function: Any) -> Iterator[ast.AST]:
    """The code of a function, if it is at hand."""
    code = code_of(function)
    yield from ast.walk(code) if code is not None else ()


def _code(model: nn.Module, methods: frozenset[str]) -> Iterator[ast.AST]:
    for function in _functions(model, methods):
        yield from _walked(function)


def named_values(model: nn.Module, methods: frozenset[str], code: Iterable[ast.AST] = ()) -> dict[str, list[Any]]:
    """What the code of a model compares each of its names with (`==`, `<`, `in`, `match`), or looks up by one.

    Attributes of the model are among its names, as `self.mode`. code: that is looked at besides its methods.
    """
    values: dict[str, list[Any]] = {}
    for node in (*_code(model, methods), *code):
        if isinstance(node, ast.Subscript) and (name := _name(node.slice)):
            values.setdefault(name, []).extend(_keys(_container(model, node.value)))
        elif isinstance(node, ast.Compare):
            named: list[ast.AST] = [node.left, *node.comparators]
            constants = _constants(named)
            if all(isinstance(op, _ORDER) for op in node.ops):
                constants = [c + step for c in constants if isinstance(c, (int, float)) for step in (-1, 0, 1)]
            elif isinstance(node.ops[0], (ast.In, ast.NotIn)) and (name := _name(node.comparators[0])):
                values.setdefault(name, []).append(_MANY)  # what is looked for may be in it
            elif not constants:  # with what counts the parts, perhaps
                lists = (len(part) for part in model.children() if isinstance(part, (nn.ModuleList, nn.Sequential)))
                constants = list(range(max(lists, default=0)))
                named = [side for side in named if isinstance(side, ast.Name)]
            for side in named:
                if name := _name(side):
                    values.setdefault(name, []).extend(constants)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _OF_ENDS:
            if name := _name(node.func.value):
                values.setdefault(name, []).extend(_constants(node.args))
        elif isinstance(node, ast.Match) and (name := _name(node.subject)):
            values.setdefault(name, []).extend(_constants([case.pattern for case in node.cases]))
    return values


def _besides(constants: Sequence[Any]) -> list[Any]:
    """What is none of some constants that an argument is compared with."""
    numbers = [constant for constant in constants if type(constant) in (int, float)]
    besides: list[Any] = [max(numbers) + 1] if numbers else []
    return besides + ([ANOTHER] if any(isinstance(constant, str) for constant in constants) else [])


def _other_truth(value: Any, asked: str) -> list[Any]:
    """What is true where a value is not, and false where it is, if code asks."""
    if asked != "truth" or isinstance(value, tuple):
        return []
    if value is None:
        return [True, 2, *_ACTIVATIONS[:1]]
    by_kind = {int: (0, 1), float: (0.0, 0.5), str: ("", ANOTHER)}.get(type(value))
    return [] if by_kind is None else [by_kind[not value]]


def _asked(model: nn.Module, methods: frozenset[str]) -> dict[str, str]:
    """The names of which the code of a model asks whether they are true, or the name of which attribute they are."""
    asked: dict[str, str] = {}
    for node in _code(model, methods):
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            tests = [node.test]
        elif isinstance(node, ast.BoolOp):
            tests = node.values
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            tests = [node.operand]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            asked.update({_name(name): "getattr" for name in node.args[1:2]})
            continue
        else:
            continue
        asked.update({name: "truth" for test in tests if (name := _name(test))})
    return asked


def _name(code: ast.AST) -> str:
    """The name of an argument, or of an attribute of the model with `self` before it; "" of any other code."""
    if isinstance(code, ast.Name):
        return code.id
    if isinstance(code, ast.Attribute) and isinstance(code.value, ast.Name) and code.value.id == "self":
        return f"self.{code.attr}"
    return ""


def read_names(model: nn.Module, methods: frozenset[str]) -> list[str]:
    """The attributes of a model that the code of some of its methods reads."""
    names = (_name(node) for node in _code(model, methods) if isinstance(getattr(node, "ctx", None), ast.Load))
    return list(dict.fromkeys(name.removeprefix("self.") for name in names if name.startswith("self.")))


def read_items(model: nn.Module, methods: frozenset[str]) -> list[tuple[str, str]]:
    """The items of dictionaries and objects in attributes of a model that the code of some of its methods reads.

    Each is the name of the attribute and that of the item in it, as of `self.options["mean"]` or `self.config.mean`.
    """
    items = (item for item in _items(_code(model, methods)) if item[0].startswith("self."))
    return list(dict.fromkeys((name.removeprefix("self."), item) for name, item in items))


def read_globals(model: nn.Module, methods: frozenset[str]) -> Iterator[tuple[str, str, Any, list[Any]]]:
    """The global names, and items in these, that methods and the functions which they call read, but for functions.

    Each is the name of the file, that of the name or of an item in it (`options[mean]`), its value, and what the code
    compares it with.
    """
    waiting, seen = list(_functions(model, methods)), set[Any]()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        names = getattr(function, "__globals__", {})
        file = str(names.get("__name__"))
        if function in seen or is_library(file) or vars(sys.modules.get(file, object)) is not names:
            continue
        seen.add(function)
        code = list(_walked(function))
        named, own = named_values(model, frozenset(), code), function.__code__.co_varnames
        for name in dict.fromkeys(node.id for node in code if isinstance(node, ast.Name) and node.id not in own):
            value = names.get(name)
            if isinstance(value, FunctionType):
                waiting.append(value)
            elif name in names:
                yield file, name, value, named.get(name, [])
        for name, item in _items(code):
            holder = None if name in own else names.get(name)
            if isinstance(holder, ModuleType) and not is_library(holder.__name__) and item in vars(holder):
                yield holder.__name__, item, vars(holder)[item], []
            elif (held := held_by(holder)) is not None and item in held:
                yield file, f"{name}[{item}]", held[item], []


def _items(code: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """The items of what names stand for that some code reads, with the names."""
    for node in code:
        keys: list[Any] = []
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder, keys = node.value, [node.attr]
        elif isinstance(node, ast.Subscript):
            holder, keys = node.value, _constants([node.slice])[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            holder, keys = node.func.value, _constants(node.args[:1])
        if keys and isinstance(keys[0], str) and keys[0].isidentifier() and (name := _name(holder)):
            yield name, keys[0]


_OF_ENDS = ("startswith", "endswith")
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_MANY = tuple(range(16))


def _constants(code: Sequence[ast.AST]) -> list[Any]:
    return [part.value for side in code for part in ast.walk(side) if isinstance(part, ast.Constant)]


def _looked_for(model: nn.Module, methods: frozenset[str], name: str) -> dict[str, Any]:
    """The keywords that the code of a model looks for in a dictionary of a name, and what stands for one left out."""
    keywords: dict[str, Any] = {}
    for node in _code(model, methods):
        called = node.func if isinstance(node, ast.Call) and node.args else None
        if isinstance(node, ast.Call) and isinstance(called, ast.Attribute) and called.attr in ("get", "pop"):
            where, key, *rest = called.value, *(_constants([argument])[:1] for argument in node.args)
            default = rest[0][0] if rest and rest[0] else None
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            where, key, default = node.comparators[0], _constants([node.left])[:1], True
        else:
            continue
        if isinstance(where, ast.Name) and where.id == name and key and isinstance(key[0], str):
            keywords.setdefault(key[0], default)
    return keywords


def _container(model: nn.Module, code: ast.expr) -> Any:
    """The value of code like `self.heads`, and the keys of a dictionary that is written out."""
    if isinstance(code, ast.Name) and code.id == "self":
        return model
    if isinstance(code, ast.Dict):
        return {key.value: None for key in code.keys if isinstance(key, ast.Constant)}
    return getattr(_container(model, code.value), code.attr, None) if isinstance(code, ast.Attribute) else None


def _keys(container: Any) -> list[Any]:
    if isinstance(container, (dict, nn.ModuleDict, nn.ParameterDict)):
        return list(container.keys())
    listed = (list, tuple, nn.ModuleList, nn.Sequential, nn.ParameterList)
    return list(range(len(container))) if isinstance(container, listed) else []
