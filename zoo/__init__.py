"""The catalogue of timm and torchvision models."""

from fxgrow.catalogue import CatalogueError, Entry, entries, find

__all__ = ["CatalogueError", "Entry", "entries", "find"]
