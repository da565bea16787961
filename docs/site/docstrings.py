"""Docstrings of fxgrow as the site's generator reads them: sections in Google's style, examples as blocks of code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent.parent
SECTIONS = ("Parameters", "Attributes", "Raises")
SHARED = re.compile(r"^\w+(, \w+)+(?=: )")
OPTION = re.compile(r" *# doctest: .*$", re.MULTILINE)


def in_google_style(text: str, types: Mapping[str, str]) -> str:
    """The same with the items of sections indented under a heading, and examples between fences.

    A section goes from its underlined heading to the next empty line, an example from its prompt. Names that share an
    item are given their types, which the generator looks up for single names only.
    """

    def typed(names: re.Match[str]) -> str:
        written = dict.fromkeys(types[name] for name in names[0].split(", ") if name in types)
        joined = names[0].replace(", ", ",\N{NO-BREAK SPACE}")  # after a space, the generator reads a type
        return f"{joined} ({', '.join(written)})" if written else joined

    result: list[str] = []
    inside = ""
    for line, following in pairwise([*OPTION.sub("", text).splitlines(), "", ""]):
        if line in SECTIONS and following.startswith("---"):
            inside = "section"
            result.append(f"{line}:")
        elif not inside and line.startswith(">>>"):
            inside = "example"
            result += ["```pycon", line]
        elif inside and not line:
            result += ["```", ""] if inside == "example" else [""]
            inside = ""
        elif inside == "section":
            if not line.startswith("---"):
                result.append(f"    {SHARED.sub(typed, line)}")
        else:
            result.append(line)
    return "\n".join(result)


def _types(value: griffe.Object) -> dict[str, str]:
    """The types of a function's parameters or a class's attributes, as they are written."""
    named = value.parameters if isinstance(value, griffe.Function) else value.attributes.values()
    return {item.name: str(item.annotation) for item in named if item.annotation is not None}


def _rewrite(value: griffe.Object) -> None:
    if value.docstring is not None:
        value.docstring.value = in_google_style(value.docstring.value, _types(value))
    for member in value.members.values():
        if isinstance(member, griffe.Object):  # and no alias
            _rewrite(member)


class Docstrings(griffe.Extension):
    """Rewrite the docstrings of the package, and add to it what stands at the top level of the repository."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if pkg.path == "fxgrow":
            for name in ("transforms", "zoo"):
                pkg.set_member(name, loader.load(ROOT / name))
            _rewrite(pkg)
