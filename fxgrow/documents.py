"""Values as JSON text, and back: dataclasses of plain data, of tuples and of each other."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import asdict, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from fxgrow.errors import FxgrowError, reading


def to_text(value: Any, version: int, indent: int | None = None) -> str:
    """A value as JSON text; `version`: of the format of its class."""
    return json.dumps({"format": version, **asdict(value)}, indent=indent)


def from_text(kind: Any, text: str, version: int, error: type[FxgrowError]) -> Any:
    """The value of a class that `to_text` wrote; an error where the text is none, or one of a newer format."""
    noun = kind.__name__.lower()
    with reading(noun, error):
        data = json.loads(text)
        if data.pop("format") == version:
            return built(kind, data)
    raise error(f"the {noun} is of another format", remedy=f"this fxgrow reads format {version}")


def built(kind: Any, data: Any) -> Any:
    """A value of a type, from what `dataclasses.asdict` and JSON made of it; what is left out has its default.

    >>> from fxgrow.planning.edits import AttributeEdit
    >>> built(tuple[AttributeEdit, ...], [{"module": "0", "attribute": "padding", "value": [1, 1]}])
    (AttributeEdit(module='0', attribute='padding', value=(1, 1)),)
    """
    if is_dataclass(kind):
        types = _types(kind)  # type: ignore[arg-type]
        return kind(**{name: built(types.get(name), item) for name, item in data.items()})  # type: ignore[operator]
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        kinds = itertools.repeat(inner[0]) if inner[-1] is ... else inner
        return tuple(built(item_kind, item) for item_kind, item in zip(kinds, data, strict=False))
    values = [member for member in inner if is_dataclass(member)]  # of such a value, or None
    return built(values[0], data) if values and data is not None else frozen(data)


_types = functools.cache(get_type_hints)


def frozen(value: Any) -> Any:
    """A value from JSON with tuples for lists."""
    if isinstance(value, list):
        return tuple(map(frozen, value))
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return value
