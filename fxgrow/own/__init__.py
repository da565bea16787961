"""Growth put into a copy of the user's own module: its class and code stay, its tensors, sizes and norms are others."""

from fxgrow.own.module import Site, own_class, sites

__all__ = ["Site", "own_class", "sites"]
