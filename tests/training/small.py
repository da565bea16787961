"""Small models, grown once or twice, and training steps on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxgrow
from tests.models import lively

INPUTS = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def convolutional() -> nn.Module:
    """Convolutions with batch norms, then a linear layer, in float64."""
    torch.manual_seed(3)
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )


def grown(model: nn.Module, *amounts: float, **options: Any) -> nn.Module:
    """The model after one growth for each amount."""
    for amount in amounts:
        model = fxgrow.grow(model, amount, example_inputs=INPUTS[:2], **options)
    return model


def loss_of(model: nn.Module, inputs: Tensor = INPUTS) -> Tensor:
    """A loss that is the same function of the outputs every time."""
    outputs = model(inputs)
    target = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).reshape(outputs.shape)
    return (outputs - target).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of some steps."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
