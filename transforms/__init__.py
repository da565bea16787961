"""torch.fx passes: each takes a graph and a plan and returns a graph."""

from fxgrow.transforms.passes import deepen, tag, widen

from fxgrow.modules.tensors import named_tensors

__all__ = ["deepen", "named_tensors", "tag", "widen"]
