"""Replacements for functions of torch.fx that write code."""

from __future__ import annotations

import keyword
import sys

from torch.fx import _symbolic_trace


def wrap(name: str) -> str:
    """What generated code calls for functions that stay one node when it is traced again.

    As `fx.wrap`, whose frame holds itself, and with all that called it the model that grew.
    """
    names = sys._getframe(1).f_globals
    _symbolic_trace._wrapped_fns_to_patch[id(names), name] = names
    return name


def attribute_of(base: str, target: str) -> str:
    """The code that reads an attribute, also one whose name Python keeps for itself, which torch.fx writes out.

    >>> attribute_of("self", "head.0.class")
    'getattr(getattr(self.head, "0"), "class")'
    """
    for name in target.split("."):
        plain = name.isidentifier() and not keyword.iskeyword(name)
        base = f"{base}.{name}" if plain else f'getattr({base}, "{name}")'
    return base
