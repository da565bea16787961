"""Where code is from; the libraries whose models fxgrow builds by name, such as "timm/resnet18"."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

LIBRARIES = ("timm", "torchvision")

KNOWN = ("torch", *LIBRARIES)


def home_of(code: Any) -> str:
    """The name of the module that defines a class or a function; nothing where none does, as for code from a text.

    >>> home_of(__import__("torch").nn.Linear), home_of(eval("lambda: 0", {}))
    ('torch.nn.modules.linear', '')
    """
    return getattr(code, "__module__", None) or ""


def is_known(code: Any) -> bool:
    """Whether a class or function is of a library of whose code it is known what it asks for and what it keeps.

    >>> is_known(dict), is_known(__import__("torch").nn.Linear)
    (False, True)
    """
    return home_of(code).partition(".")[0] in KNOWN


def is_pythons(module: str) -> bool:
    """Whether a module, by its name, is Python's own.

    >>> is_pythons("collections.abc"), is_pythons("__main__")
    (True, False)
    """
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names and top != "__main__"


def is_library(module: str) -> bool:
    """Whether a module, by its name, is Python's own or of a library that is known.

    >>> is_library("collections.abc"), is_library("torch.nn"), is_library("__main__")
    (True, True, False)
    """
    return is_pythons(module) or module.partition(".")[0] in (*KNOWN, "numpy")


def is_installed(code: Any) -> bool:
    """Whether a class or function stands among installed packages, and not in code of a user's own.

    >>> is_installed(__import__("torch").nn.Linear), is_installed(eval("lambda: 0", {}))
    (True, False)
    """
    return is_among_packages(getattr(sys.modules.get(home_of(code)), "__file__", None) or "")


@functools.cache
def is_among_packages(file: str) -> bool:
    """Whether a file, by its path, is of an installed package."""
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def package_of(kind: type) -> str:
    """The installed package that a class is of; nothing for one of a user's own.

    >>> package_of(__import__("torch").nn.Linear), package_of(type("Own", (), {}))
    ('torch', '')
    """
    return home_of(kind).partition(".")[0] if is_installed(kind) else ""


def is_of_library(name: str) -> bool:
    """Whether a name is that of a model of one of them.

    >>> is_of_library("timm/resnet18"), is_of_library("timm.models:resnet18")
    (True, False)
    """
    library, slash, _ = name.partition("/")
    return bool(slash) and library in LIBRARIES
