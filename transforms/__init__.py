"""torch.fx passes: each takes a graph and a plan and returns a graph."""

from fxgrow.transforms.tagging import tag
from fxgrow.transforms.tensors import grow_tensor
from fxgrow.transforms.width import widen

__all__ = ["grow_tensor", "tag", "widen"]
