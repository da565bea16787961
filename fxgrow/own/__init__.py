"""Growth put into a copy of the user's own module: its class and code stay, its tensors, sizes and norms are others."""

from fxgrow.own.module import own_class
from fxgrow.own.sites import Site, sites

__all__ = ["Site", "own_class", "sites"]
