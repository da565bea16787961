"""Layers of a part that the model holds by another name as well, as wrappers for self-supervised learning do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.models import Branched

X = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Projected(nn.Module):
    """A network and its projection."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.last = net, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x).relu())  # type: ignore[no-any-return]


class Twofold(nn.Module):
    """A student and a teacher; the student's network has a name of its own, given before or after that of the whole."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        net, other = (nn.Sequential(nn.Linear(6, 6), Branched(6, 12), Branched(6, 12)) for _ in range(2))
        if first:
            self.net, self.block = net, net[2]
        self.student, self.teacher = Projected(net), Projected(other)
        if not first:
            self.net, self.block = net, net[2]

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 9).all()):  # the model grows in parts
            return x
        return self.student(x) - self.teacher(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", [False, True])
def test_layers_of_a_part_keep_all_their_names(first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Twofold(first).double()
    grown: Any = fxgrow.grow(model, width=1.5, depth=1.5, example_inputs=X)
    assert [path for path, _ in fxgrow.report(grown).plan.parts] == ["student", "teacher"]
    assert fxgrow.certify(grown, model).verdict is fxgrow.certify(grown).verdict is Verdict.PROVED
    assert list(grown._modules) == list(model._modules)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    for again in (grown, copy.deepcopy(grown), fxgrow.load(tmp_path / "grown.safetensors", Twofold(first).double())):
        assert again.net is again.student.net and again.block is again.net[2] and len(again.net) == 4
        assert again.net[1].up.out_features == again.teacher.net[1].up.out_features == 18
        assert torch.allclose(again(X), model(X), rtol=0, atol=1e-12)
    heard = []
    grown.block.register_forward_hook(lambda *_: heard.append(1))
    grown(X)
    assert heard
