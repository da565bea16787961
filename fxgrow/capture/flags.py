"""Attributes by which a forward decides, such as `self.pooled`: people set them by hand, also after growth."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import fx, nn

from fxgrow.capture.arguments import UNREAD, by_name, each_other
from fxgrow.capture.handed_on import code_run
from fxgrow.capture.methods import kind_before_growth
from fxgrow.capture.numbers import attributes_in
from fxgrow.capture.skeleton import twin_of
from fxgrow.capture.source_code import ANY, any_unread, asked_of, named_values, read_globals, read_items, read_names
from fxgrow.capture.traced import classes_that_run
from fxgrow.modules.holders import held_by
from fxgrow.modules.libraries import is_known
from fxgrow.modules.shared_state import OF_FILE

_CHOICES = (bool, str, type(None))


class Flag(NamedTuple):
    """A value of an attribute of all modules of a class, or of an item in it, by the name of the class or file."""

    kind: str
    attribute: str
    value: Any

    @property
    def name(self) -> str:
        """What is set: `Net.pooled`, `Net.options[pooled]`, `global package.file.POOLED`."""
        return f"{self.kind}.{self.attribute}"


def with_flags(model: nn.Module, flags: Sequence[tuple[str, str, Any]]) -> nn.Module:
    """A module over the very tensors of a model, some of whose attributes have other values."""
    flags = [flag for flag in flags if not flag[0].startswith(OF_FILE)]
    twin = twin_of(model, share=True) if flags else model
    for kind, attribute, value in flags:
        for part in parts_of(twin, kind):
            _put(part, attribute, value)
    return twin


@contextmanager
def global_flags(model: nn.Module, flags: Sequence[tuple[str, str, Any]]) -> Iterator[None]:
    """Let global names have other values for a while."""
    with ExitStack() as stack:
        for kind, attribute, value in flags:
            for file in parts_of(model, kind) if kind.startswith(OF_FILE) else ():
                stack.callback(_put, file, attribute, value_of(file, attribute))
                _put(file, attribute, value)
        yield


def value_of(part: Any, attribute: str, default: Any = None) -> Any:
    """What an attribute of a part is, or an item of a dictionary or object in it: "pooled", "options[pooled]"."""
    name, _, item = attribute.partition("[")
    holder = getattr(part, name, default)
    if not item:
        return holder
    return holder.get(item[:-1], default) if isinstance(holder, dict) else getattr(holder, item[:-1], default)


def _put(part: Any, attribute: str, value: Any) -> None:
    name, _, item = attribute.partition("[")
    if not item:
        setattr(part, name, value)
    elif isinstance(holder := getattr(part, name), dict):
        holder[item[:-1]] = value
    else:
        setattr(holder, item[:-1], value)


def parts_of(model: nn.Module, kind: str) -> list[Any]:
    """The modules of a class in a model, or the file by the name of which a kind goes."""
    if kind.startswith(OF_FILE):
        file = sys.modules.get(kind.removeprefix(OF_FILE))
        return [file] if file is not None else []
    return [part for part in model.modules() if any(base.__qualname__ == kind for base in type(part).__mro__)]


def other_flags(model: nn.Module, graphs: Iterable[fx.Graph]) -> Iterator[tuple[Flag, Any]]:
    """Values that attributes of a user's own modules might have instead, each with the value that there is.

    These are the other truth value of what is true or false, and what the code of the forwards compares an attribute
    with, or looks for in one. An attribute that has other values in other modules of a class makes them what they are,
    and is left out; so is a number by which a call is made, which may be a size.

    graphs: what the forward was recorded as; it tells which methods run.
    """
    graphs = [*graphs] if not all(is_known(kind_before_growth(type(part))) for part in model.modules()) else []
    nodes = (node for graph in graphs for node in graph.nodes)
    sources = (source for node in nodes for source in node.meta.get("sources", {}).values())
    sizes = {attribute.keys[0] for source in sources for attribute in attributes_in(source)}
    for kind, _, methods in classes_that_run(model, graphs):
        if is_known(kind):
            continue
        parts = parts_of(model, kind.__qualname__)
        code = code_run(parts[0], methods)
        named, asked = named_values(parts[0], code), asked_of(code)
        for name in read_names(code):
            of_class = inspect.getattr_static(kind, name, kind)
            values = [vars(part).get(name, of_class) for part in parts]
            value = values[0]
            is_choice = type(value) in _CHOICES
            others = _others(value, named.get(f"self.{name}", [])) if is_choice or name not in sizes else []
            if not (others or is_choice) or any(type(v) is not type(value) or v != value for v in values):
                continue
            if name != "training":
                yield from ((Flag(kind.__qualname__, name, other), value) for _, other in each_other("", value, others))
                if is_choice and any_unread(parts[0], methods):
                    yield Flag(kind.__qualname__, name, UNREAD), value
                in_words = f"self.{name}"
                if by_name(value) and (ANY in named.get(in_words, ()) or asked.get(in_words) == "getattr"):
                    yield Flag(kind.__qualname__, name, ANY), value
        for name, item in read_items(code):
            flags = [value_of(part, f"{name}[{item}]") for part in parts if held_by(vars(part).get(name)) is not None]
            if len(flags) == len(parts) and all(flag is flags[0] for flag in flags):
                others = _others(flags[0], named.get(f"self.{name}[{item}]", []))
                each = each_other(f"{name}[{item}]", flags[0], others)
                yield from ((Flag(kind.__qualname__, attribute, other), flags[0]) for attribute, other in each)
        for file, name, value, constants in read_globals(parts[0], methods):
            others = [not value] if isinstance(value, bool) else constants
            if type(value) in (*_CHOICES, int, float):
                yield from ((Flag(OF_FILE + file, name, other), value) for _, other in each_other("", value, others))


def _others(value: Any, named: list[Any]) -> list[Any]:
    """What an attribute might be, in place of a value; named: what code compares it with, or looks for in it."""
    if isinstance(value, bool):
        return [not value]
    if type(value) in (int, float):
        return [other for other in named if type(other) in (int, float)]
    if type(value) in (tuple, list):
        return [type(value)([other]) for other in named if isinstance(other, str) and other not in value]
    return named if type(value) in _CHOICES else []
