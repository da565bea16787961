"""What a model costs: the operations of one image."""

from __future__ import annotations

from torch import Tensor, nn

from fxgrow.capture import capture
from fxgrow.errors import UntraceableError
from fxgrow.planning.analysis import analyse
from fxgrow.planning.sizes import flops_after


def flops_of(model: nn.Module, inputs: Tensor) -> int | None:
    """Floating-point operations of a forward pass on one image; None where no graph can hold the model."""
    try:
        captured = capture(model, inputs)
    except UntraceableError:
        return None
    return flops_after(analyse(captured.model, captured.graphs), {})
