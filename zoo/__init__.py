"""The catalogue of timm and torchvision models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxgrow.catalogue import CatalogueError, Entry, entries, find

__all__ = ["CatalogueError", "Entry", "entries", "find"]


if not TYPE_CHECKING:  # imported when they are asked for, so that the command line shows its help without torch

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fxgrow import catalogue

        return getattr(catalogue, name)
