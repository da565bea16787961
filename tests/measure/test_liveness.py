"""Which entries move in a few steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxgrow.measure.liveness import moved_by_sgd


class Keeping(nn.Module):
    """In eval mode it keeps what it made of a weight for the next call, as timm's LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.ones(3)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> Keeping:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * self.weight
        if "weight" not in self.kept:
            self.kept["weight"] = self.weight.exp()
        return x * self.kept["weight"]


def test_a_model_that_keeps_what_it_made_of_weights_is_stepped_in_either_mode() -> None:
    for mode in (True, False):
        moved = moved_by_sgd(Keeping().train(mode), (torch.ones(2, 3),))
        assert moved["weight"].all()
