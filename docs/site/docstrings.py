"""Docstrings of fxgrow as the site's generator reads them: sections in Google's style, examples as blocks of code."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent.parent
SECTIONS = ("Parameters", "Attributes", "Raises")
COMMA = ",\N{NO-BREAK SPACE}"
"""Between names that share an item; an ordinary space would make the second one a type."""

SHARED = re.compile(r"^\w+(, \w+)+(?=: )")
OPTION = re.compile(r" *# doctest: .*$", re.MULTILINE)


def in_google_style(text: str) -> str:
    """The same with the items of sections indented under a heading, and examples between fences.

    A section goes from its underlined heading to the next empty line, an example from its prompt.
    """
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
                result.append("    " + SHARED.sub(lambda names: names[0].replace(", ", COMMA), line))
        else:
            result.append(line)
    return "\n".join(result)


class Docstrings(griffe.Extension):
    """Rewrite docstrings as they are loaded, and add the package that stands at the top level of the repository."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = in_google_style(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        if pkg.path == "fxgrow":
            pkg.set_member("zoo", loader.load(ROOT / "zoo"))
