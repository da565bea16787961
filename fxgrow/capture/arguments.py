"""Other values of arguments that choose a course: flags, defaults, and those that the code of the class names."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import itertools
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from fxgrow.capture.call_guards import Starred
from fxgrow.capture.decisions import decides_within, read_as_a_whole
from fxgrow.capture.handed_on import code_run
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.names_in_code import passed_on_as
from fxgrow.capture.recording import bound
from fxgrow.capture.source_code import (
    ANY,
    Untried,
    asked_of,
    called_names,
    derived_from,
    looked_for,
    looks_within,
    named_values,
    unpacked,
    walked,
)
from fxgrow.modules.containers import flat_tensors, holds_tensor
from fxgrow.modules.holders import fields_of, holding
from fxgrow.modules.libraries import is_installed, is_known

UNREAD = Untried("the code that may decide by it cannot be read, so no other value was tried")
ACTING = Untried("the code that may decide by it may do more than compute, so no other value was tried")
NESTED = Untried("it holds further options, of which no other value was tried")
COMPUTED = Untried("the code decides by what it computes from it, of which not every value was tried")

ANOTHER = "another"
"""Stands for a text that the code of a model does not name."""


class OtherNumber(int):
    """Another number than the code of a model names: it may cut an axis, name one, pick blocks or count turns."""


_CHOICES = (bool, str, int, float, tuple, list, set, enum.Enum, type(None))


def other_values(model: nn.Module, inputs: Inputs, ran: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
    """Arguments of a forward with each value that they might have instead, as far as the forward tells.

    That is the other truth value of a flag, and of what its code asks for one; the default of what is called with
    something else; the members of an Enum; other activations in place of a function; what its code compares an argument
    with, and something else; the keys of what it looks up by one, and those that it looks for in one; other numbers,
    also where there is none, and in tuples; objects that hold another such value, and dataclasses in place of None. Of
    what it looks up by a name in what is not at hand (`getattr`), every other one: `ANY`; of dictionaries given on as
    keywords, `UNREAD`.

    ran: the methods of the model that the forward calls.
    """
    methods = frozenset({"forward", *ran})
    called = bound(model, inputs)
    parameters = inspect.signature(model.forward).parameters
    values = {name: called.get(name, p.default) for name, p in parameters.items() if p.kind not in _STARRED}
    starred = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    told = [name for name, value in values.items() if not holds_tensor(value) or isinstance(value, dict)]
    code = code_run(model, methods, [*told, *starred])
    named, asked, given_on = named_values(model, code), asked_of(code), unpacked(code)
    called_here, passed = called_names(code), passed_on_as(code)
    numbers = _first_number if is_known(type(model)) else _other_numbers
    installed = is_installed(type(model))

    def others_of(name: str, value: Any, said: str) -> list[Any]:
        """Other values of an argument, or of an attribute of one."""
        if isinstance(value, bool) or "bool" in said:
            return [True, False]
        if isinstance(value, enum.Enum):
            return list(type(value))
        if callable(value) or (value is None and ("Callable" in said or asked.get(name) == "called")):
            return list(_ACTIVATIONS[: 1 if value is None else None])
        if isinstance(value, set):
            return [set(each) for each in named.get(name, ()) if isinstance(each, tuple)]
        if isinstance(value, (str, int, float, tuple, list)) or any(kind in said for kind in (*_KINDS, *_UNSAID)):
            compared = named.get(name, [])
            items = [item for each in sorted(derived_from(code, name)) for item in named.get(each, ())]
            if type(value) in (tuple, list):
                places = [(k, each) for k in range(len(value)) for each in compared if isinstance(each, str)]
                compared = [type(value)(each) if isinstance(each, tuple) else each for each in compared]
                compared += (type(value)([*value[:k], each, *value[k + 1 :]]) for k, each in places)
                compared += (type(value)([item]) for item in items)
            elif isinstance(value, str):
                compared = [*compared, *items]
            others = [*compared, *_besides(compared), *_other_truth(value, asked.get(name, ""), name in called_here)]
            return others + [number for number in numbers(value) if number not in others]
        return []

    for name, value in values.items():
        default, names = parameters[name].default, passed.get(name, {name})
        keys = looked_for(code, names)
        others: list[Any] = [] if default is inspect.Parameter.empty else [default]
        given_further = not names.isdisjoint(given_on) and not installed
        if given_further and (value is None or isinstance(value, dict)):
            yield name, UNREAD
        else:
            others += others_of(name, value, str(parameters[name].annotation) if value is None else "")
        if value is None and keys:
            yield from ((name, option) for option in ({}, *({key: not item} for key, item in keys.items())))
        yield from each_other(name, value, others)
        derived = derived_from(code, name)
        looked_up = (asked.get(each) == "getattr" or ANY in named.get(each, ()) for each in (name, *derived))
        of_parts = isinstance(value, str) and any(named.get(each) for each in derived)  # "one+other"
        if by_name(value) and (of_parts or any(looked_up)):
            yield name, ANY
        counts = all(type(item) in (int, float) for item in _one_or_several(value))
        of_kind = counts or isinstance(value, str)
        of_kind |= isinstance(value, (tuple, list, set)) and not fields_of(value)
        if of_kind and not installed and decides_within(code, names, counts):
            if holds_tensor(value):
                yield from ((name, type(value)(each)) for each in _more_or_fewer(value, inputs))
            yield name, COMPUTED
        held_here = value if isinstance(value, dict) else fields_of(value)
        if any(isinstance(item, dict) or fields_of(item) for item in held_here.values()) and looks_within(code, name):
            yield name, NESTED
        if isinstance(value, dict) and holds_tensor(value) and not installed and read_as_a_whole(code, names):
            yield from ((name, {k: v for k, v in value.items() if k != key}) for key in value if len(value) > 1)
            larger = {**value, ANOTHER: next(flat_tensors(value))}
            yield name, dataclasses.replace(COMPUTED, unless=(name, larger))
        for key, item in keys.items() if isinstance(value, dict) else ():
            if isinstance(held := value.get(key, item), (bool, type(None))):
                yield name, {**value, key: not held}
        for option in _options(model, name) if value is None else [value]:
            if option is not value:
                yield name, option
            for attribute, held in (fields := fields_of(option)).items():
                label = f"{name}.{attribute}"
                if by_name(held) and ANY in named.get(label, ()):
                    yield name, ANY
                for _, other in each_other(label, held, others_of(label, held, "Any" if held is None else "")):
                    yield name, holding(option, {**fields, attribute: other})
    for parameter in parameters.values():
        names = passed.get(parameter.name, {parameter.name})
        if parameter.kind is parameter.VAR_POSITIONAL and not installed:
            given = called.get(f"*{parameter.name}", ())
            read = any(isinstance(node, ast.Name) and node.id in names for node in code)
            if read and (not all(map(holds_tensor, given or (None,))) or decides_within(code, names)):
                yield from ((parameter.name, Starred(few)) for few in _more_or_fewer(given, inputs))
                yield parameter.name, COMPUTED
        if parameter.kind is parameter.VAR_KEYWORD:
            keywords, there = looked_for(code, names), called.get(f"**{parameter.name}", {})
            if not installed and (read_as_a_whole(code, names) or not names.isdisjoint(given_on)):
                yield parameter.name, dataclasses.replace(COMPUTED, besides=(*there, *keywords), unless=(ANOTHER, 1))
            for name, value in keywords.items():
                if name not in values and name not in there:
                    further = [not value] if isinstance(value, bool) else [True, *named.get(name, ())]
                    further += numbers(value)
                    yield from each_other(name, inspect.Parameter.empty, [value, *further])


def _more_or_fewer(given: Sequence[Any], inputs: Inputs) -> Iterator[Sequence[Any]]:
    """One tensor more than there are, and one fewer."""
    yield from ((*given, tensor) for tensor in itertools.islice(flat_tensors(given or inputs), 1))
    yield from (given[:-1],) if given else ()


def by_name(value: Any) -> bool:
    """Whether a value is a text, or several, by which code may look something up."""
    return all(isinstance(item, str) for item in _one_or_several(value))


def _one_or_several(value: Any) -> Sequence[Any]:
    """The items of a tuple or list, if it has any; of any other value, the value."""
    return value if isinstance(value, (tuple, list)) and value else (value,)


def _options(model: nn.Module, name: str) -> list[Any]:
    """Objects that may stand in place of an argument that is None: of the dataclasses that its annotation names."""
    try:
        said = typing.get_type_hints(inspect.unwrap(type(model).forward)).get(name)
    except (NameError, TypeError):  # of names that only a type checker knows
        return []
    options = []
    for kind in (said, *typing.get_args(said)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not is_known(kind):
            with suppress(TypeError):  # it wants arguments
                options.append(kind())
    return options


def tensors_in_place_of_none(
    model: nn.Module,
    inputs: Inputs,
    read: Collection[str],
    ran: Iterable[str] = (),
    made: Iterable[tuple[Any, torch.dtype]] = (),
) -> Iterator[tuple[str, Any]]:
    """Arguments of a user's own forward that are None and may be tensors, each with such as people have.

    These are labels of the samples, what is like an input, a mask of the positions, and what layers read that the
    forward has not called. Keywords, and keys of dictionaries, are left out where others are None.

    read: the paths of the layers that it has called. ran: the methods of the model that the forward calls. made: shapes
    and dtypes of what it may have made in the place of an argument.
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
    shapes += made
    tensors = [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in shapes]
    called, code = bound(model, inputs), list(walked(model, frozenset({"forward", *ran})))
    passed = passed_on_as(code)
    parameters = inspect.signature(model.forward).parameters
    for name, parameter in parameters.items():
        said, value, names = str(parameter.annotation), called.get(name), passed.get(name, {name})
        if parameter.kind is parameter.VAR_KEYWORD:
            there = {*parameters, *called.get(f"**{name}", {})}
            keys = [key for key in looked_for(code, names) if key not in there]
            yield from ((key, tensor) for key in keys for tensor in tensors)
        elif isinstance(value, dict):
            for key in looked_for(code, names):
                if key in value:
                    yield name, {other: item for other, item in value.items() if other != key}
                else:
                    yield from ((name, {**value, key: tensor}) for tensor in tensors)
        elif held := fields_of(value):
            for attribute in [name for name, item in held.items() if item is None]:
                yield from ((name, holding(value, {**held, attribute: tensor})) for tensor in tensors)
        elif parameter.default is None and value is None and ("Tensor" in said or not _says_no_tensor(said)):
            yield from ((name, tensor) for tensor in tensors)


def _says_no_tensor(annotation: str) -> bool:
    return any(kind in annotation for kind in (*_KINDS, "bool", "dict", "list", "Callable"))


_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_ACTIVATIONS = (nn.functional.relu, nn.functional.gelu, nn.functional.silu, torch.relu, torch.sigmoid, torch.tanh)
_KINDS = ("str", "int", "float", "tuple", "Literal")
_UNSAID = ("_empty", "Any")


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
    if name in parameters and parameters[name].kind in _STARRED:
        before = list(parameters).index(name)
        return ((*args[:before], *value), kwargs) if isinstance(value, Starred) else inputs
    place = list(parameters).index(name) if name in parameters else len(args)
    if value is inspect.Parameter.empty:
        if name not in parameters:
            return inputs
        value = bound(model, inputs).get(name, parameters[name].default)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    if name in parameters and parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
        between = [parameter.default for parameter in list(parameters.values())[len(args) : place]]
        return (*args, *between, value), kwargs
    return args, {**kwargs, name: value}


def _besides(constants: Sequence[Any]) -> list[Any]:
    """What is none of some constants that an argument is compared with."""
    numbers = [constant for constant in constants if type(constant) in (int, float)]
    besides: list[Any] = [max(numbers) + 1] if numbers else []
    return besides + ([ANOTHER] if any(isinstance(constant, str) for constant in constants) else [])


def _other_numbers(value: Any) -> list[Any]:
    """Numbers that code names nowhere, in place of one, of each in a tuple or list, or of None."""
    if value is None or type(value) is int:
        near = (value // 2, value + 1) if value and value > 3 else (1, 2, (value or 1) + 1)
        return [OtherNumber(number) for number in dict.fromkeys((*near, 0, -1)) if number != value]
    if type(value) is float:
        return [value / 2 or 0.5]
    if isinstance(value, (tuple, list)) and value and all(type(item) is int for item in value):
        others = [type(value)(map(int, other)) for other in zip(*map(_other_numbers, value), strict=False)]
        return [*others, value[::-1]]  # which may name axes
    return []


def _first_number(value: Any) -> list[Any]:
    """One of `_other_numbers`, in place of an int: of libraries it is known what their arguments are."""
    return _other_numbers(value)[:1] if type(value) is int else []


def _other_truth(value: Any, asked: str, is_called: bool) -> list[Any]:
    """What is true where a value is not, and false where it is, if code asks; a function in place of None if called."""
    if asked != "truth" or isinstance(value, tuple):
        return []
    if value is None:
        return [True, 2, *_ACTIVATIONS[:is_called]]
    by_kind = {int: (0, 1), float: (0.0, 0.5), str: ("", ANOTHER)}.get(type(value))
    return [] if by_kind is None else [by_kind[not value]]
