"""Outputs of a model's own classes: a graph returns plain containers, and the class is put around them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxgrow.modules.containers import with_items
from fxgrow.modules.holders import empty, hold

_PLAIN = (dict, list, tuple)


@dataclass(frozen=True)
class Form:
    """What a plain container stands for.

    kind: the class. how: "fields" of a dataclass, "items" of a mapping, "entries" of a named tuple, "attributes" of any
    other object, or "plain".
    parts: the forms of what is inside, by key, where that is not plain.
    """

    kind: type
    how: str
    parts: tuple[tuple[Any, Form], ...]

    def put_around(self, value: Any) -> Any:
        """The output of the class, made of a plain container.

        >>> from collections import OrderedDict
        >>> plain, form = taken_apart(OrderedDict(a=1))
        >>> plain, form.put_around(plain)
        ({'a': 1}, OrderedDict([('a', 1)]))
        """
        for key, form in self.parts:
            inside = form.put_around(value[key])
            if isinstance(value, tuple):
                value = (*value[:key], inside, *value[key + 1 :])
            else:
                value = type(value)(value)
                value[key] = inside
        if self.how == "plain":
            return value
        if self.how == "entries":
            return self.kind(*value)
        if self.how in ("fields", "items"):
            return self.kind(**value) if self.how == "fields" else self.kind(value)
        output: Any = empty(self.kind)
        hold(output, value)
        return output


def taken_apart(output: Any) -> tuple[Any, Form | None]:
    """An output as plain containers, and what they stand for; None where they are all there is."""
    how, items = _items(output)
    if how is None:
        return output, None
    inside = {key: taken_apart(item) for key, item in items.items()}
    parts = tuple((key, form) for key, (_, form) in inside.items() if form is not None)
    values = {key: value for key, (value, _) in inside.items()}
    if how == "plain":
        return with_items(output, values), Form(type(output), how, parts) if parts else None
    if how == "entries":
        return tuple(values.values()), Form(type(output), how, parts)
    return values, Form(type(output), how, parts)


def _items(output: Any) -> tuple[str | None, dict[Any, Any]]:
    kind = type(output)
    if kind is dict:
        return "plain", output
    if isinstance(output, tuple) and hasattr(kind, "_fields"):
        return "entries", dict(enumerate(output))
    if isinstance(output, (tuple, list)):
        return "plain", dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        fields = {field.name: getattr(output, field.name) for field in dataclasses.fields(output) if field.init}
        return "fields", {name: value for name, value in fields.items() if value is not None}
    if isinstance(output, Mapping):
        return "items", dict(output)
    if isinstance(output, (int, float, complex, str)):
        return None, {}
    if hasattr(output, "__dict__") and not hasattr(kind, "__torch_function__") and not callable(output):
        return "attributes", dict(vars(output))
    return None, {}
