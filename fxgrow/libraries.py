"""The libraries whose models fxgrow builds by name, such as "timm/resnet18"."""

from __future__ import annotations

LIBRARIES = ("timm", "torchvision")


def is_of_library(name: str) -> bool:
    """Whether a name is that of a model of one of them.

    >>> is_of_library("timm/resnet18"), is_of_library("timm.models:resnet18")
    (True, False)
    """
    library, slash, _ = name.partition("/")
    return bool(slash) and library in LIBRARIES
