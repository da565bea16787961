"""Makes random models resemble trained ones, where there are no trained weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with every affine parameter and statistic away from its trivial value; dropout 0."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()

    def drawn(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        return draw(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.ndim <= 1 or not parameter.numel() or bool((parameter == parameter.flatten()[0]).all())
            ):  # as tables of scales are
                parameter.add_(0.1 * drawn(torch.randn, parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * drawn(torch.randn, buffer))
            elif name.endswith("running_var"):
                buffer.mul_(1 + 0.5 * drawn(torch.rand, buffer))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, (nn.MultiheadAttention, nn.LSTM)):
            module.dropout = 0.0
    return model
