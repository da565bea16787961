"""Refuses models that keep tensors beside their parameters which these no longer give."""

from __future__ import annotations

import torch
from torch import nn

from fxgrow.capture.skeleton import twin_of
from fxgrow.errors import CaptureError
from fxgrow.modules.switching import kept_tensors, switched_again, switches_itself
from fxgrow.modules.tensors import same_values


def refuse_out_of_date(model: nn.Module) -> None:
    """Raise a CaptureError where a part keeps what its parameters gave when its mode was set, and would not give now.

    A grown copy makes these tensors from its parameters, so it would compute something else than the model does.
    """
    for path, part in model.named_modules():
        if not switches_itself(part) or part.training:
            continue
        before = [tensor for tensor in kept_tensors(part) if not tensor.is_meta]
        if not before:
            continue
        twin = twin_of(part, share=True)
        with torch.no_grad():
            after = switched_again(twin)
        if len(after) == len(before) and not all(map(same_values, before, after)):
            raise CaptureError(
                f"{type(part).__name__} keeps a tensor for eval mode that its parameters no longer give",
                where=path or None,
                remedy="call model.eval() after weights have changed, then grow the model",
            )
