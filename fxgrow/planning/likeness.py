"""In what a grown model differs from one that a constructor makes: of a target, or from a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """An attribute of a part whose value differs from what a constructor sets."""

    module: str
    attribute: str
    value: Any
    built_with: Any

    def __str__(self) -> str:
        place = f"{self.module}.{self.attribute}" if self.module else self.attribute
        return f"{place} = {self.value!r}, not {self.built_with!r}"


@dataclass(frozen=True)
class Likeness:
    """In what a grown model differs from a target as its constructor makes it.

    Attributes
    ----------
    target: its class.
    settings: attributes; with them and the grown `state_dict`, a target computes what the grown model does.
    parts: path, class and class in the target of parts that no attribute makes up for.
    """

    target: str
    settings: tuple[Setting, ...] = ()
    parts: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class ConfigGrowth:
    """How the config grows that a class builds a model from, as transformers has them.

    Attributes
    ----------
    module: the path of the model that keeps the config; "" for the whole.
    entries: of the config, with their values after and before.
    like: in what the grown model differs from one that its class builds from the grown config.
    obstacle: why the class builds no such model from any config; `like` is None then.
    """

    module: str
    entries: tuple[Setting, ...]
    like: Likeness | None = None
    obstacle: str = ""
