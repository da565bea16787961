"""Growth put into a copy of the user's own module: class and code stay; tensors, sizes and norms change."""

from fxgrow.own.module import own_class
from fxgrow.own.sites import Site, sites

__all__ = ["Site", "own_class", "sites"]
